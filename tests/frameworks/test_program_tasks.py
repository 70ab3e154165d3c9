"""What is known of a program's tasks, and how its needs get into the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from oellm.errors import InputError
from oellm.frameworks.catalogue import Catalogue, CatalogueTask
from oellm.frameworks.interface import Demand
from oellm.frameworks.program import NeededFile
from oellm.frameworks.program_tasks import ProgramTasks
from oellm.hub.needed_files import DownloadError
from oellm.task_sources.errors import UncachedSourceError

CONTENT = b'{"task_id": 0}\n{"task_id": 1}\n{"task_id": 2}\n'


class _Toy:
    """A program with one task, which reads one file."""

    version = "1.0"

    def __init__(self, url: str) -> None:
        self._need = NeededFile("problems.jsonl", url, hashlib.sha256(CONTENT).hexdigest())

    def catalogue(self) -> Catalogue:
        return Catalogue("1.0", {"sums": CatalogueTask(n_docs=3, digest="d")})

    def needs(self, row: Any) -> list[NeededFile]:
        return [] if row["include_path"] else [self._need]

    def problem_files(self, task: str) -> tuple[str, ...]:
        return (f"{task}.jsonl",)


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProgramTasks:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    source = tmp_path / "served.jsonl"
    source.write_bytes(CONTENT)
    toy: Any = _Toy(source.as_uri())
    return ProgramTasks("toy", toy)


def test_a_needed_file_is_downloaded_once_and_found_without_a_network(
    tasks: ProgramTasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demands = [Demand(None, None), Demand(None, 2)]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"problems\.jsonl is not in the cache"):
        tasks.describe_task("sums", "", demands)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    all_facts, some = tasks.describe_task("sums", "", demands)
    assert not isinstance(all_facts, BaseException)
    assert not isinstance(some, BaseException)
    assert (all_facts.n_docs, some.n_docs, some.requests) == (3, 2, {"generate_until": 2})
    assert (all_facts.task_version, len(all_facts.task_digest)) == ("1.0", 16)
    (tmp_path / "served.jsonl").unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert tasks.describe_task("sums", "", demands) == [all_facts, some]


def test_a_file_that_cannot_be_downloaded_is_named_with_its_place(
    tasks: ProgramTasks, tmp_path: Path
) -> None:
    (tmp_path / "served.jsonl").unlink()
    with pytest.raises(DownloadError, match=r"cannot download file:.*No such file") as failed:
        tasks.describe_task("sums", "", [Demand(None, None)])
    # Somebody brings it from elsewhere.
    place = Path(str(failed.value).rpartition("it belongs at ")[2])
    place.write_bytes(CONTENT)
    (facts,) = tasks.describe_task("sums", "", [Demand(None, None)])
    assert not isinstance(facts, BaseException)


def test_a_file_with_other_content_is_not_taken(tasks: ProgramTasks, tmp_path: Path) -> None:
    (tmp_path / "served.jsonl").write_bytes(b"something else\n")
    with pytest.raises(DownloadError, match="expected SHA-256"):
        tasks.describe_task("sums", "", [Demand(None, None)])
    # What lies in the shared cache under the right name is not taken either.
    path = next((tmp_path / "hf" / "oellm" / "files").iterdir()) / "problems.jsonl"
    path.write_bytes(b"planted\n")
    with pytest.raises(DownloadError, match="expected SHA-256"):
        tasks.describe_task("sums", "", [Demand(None, None)])


def test_the_users_own_problems_take_the_place_of_the_frameworks(
    tasks: ProgramTasks, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(InputError, match=r"include_path: expected a directory with one of sums"):
        tasks.require("sums", str(own))
    (own / "sums.jsonl").write_text('{"task_id": 0}\n')
    before = tasks.task_digest("sums", str(own))
    assert before != tasks.task_digest("sums", "")
    (facts,) = tasks.describe_task("sums", str(own), [Demand(None, None)])
    assert not isinstance(facts, BaseException)
    assert facts.n_docs == 1
    (own / "sums.jsonl").write_text('{"task_id": 1}\n')
    assert tasks.task_digest("sums", str(own)) != before


def test_the_users_own_problems_may_be_in_any_source(tasks: ProgramTasks, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    tree = tmp_path / "hf" / "oellm" / "sources" / "git" / commit / "problems"
    own = tmp_path / "own"
    for directory in (tree, own):
        directory.mkdir(parents=True)
    (tree / "sums.jsonl").write_text('{"task_id": 0}\n' * 2)
    sources = f"{own}:git+https://example.org/r@{commit}#subdirectory=problems"
    (facts,) = tasks.describe_task("sums", sources, [Demand(None, None)])
    assert not isinstance(facts, BaseException)
    assert facts.n_docs == 2
    (own / "sums.jsonl").write_text('{"task_id": 0}\n')
    with pytest.raises(InputError, match=f"both {own} and {tree} have sums.jsonl"):
        tasks.require("sums", sources)
    with pytest.raises(UncachedSourceError, match=r"include_path: .*: run oe-fetch"):
        tasks.require("sums", sources.replace("0", "1"))


def test_an_unknown_task_is_named_with_the_nearest(tasks: ProgramTasks) -> None:
    expected = r"toy has no task 'sum' in version 1\.0, did you mean sums"
    with pytest.raises(InputError, match=expected):
        tasks.require("sum", "")
