"""Sources in data sets of the hub: what is fetched, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from oellm.hub.errors import Problem
from oellm.task_sources import cache
from oellm.task_sources.cache import source_directories
from oellm.task_sources.errors import SourceError
from oellm.task_sources.source_fetcher import SourceFetcher
from support.hub import Hub
from support.hub_content import write_files

UNKNOWN = "1" * 40
SOURCE = "hf://datasets/acme/tasks"


@pytest.fixture
def environ(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    from huggingface_hub import constants

    address = hub.environment["HF_ENDPOINT"]
    # The library has read its variables when it was imported.
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("co")[2]
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return {"HF_HOME": str(tmp_path / "hf"), **hub.environment}


def cached(environ: dict[str, str]) -> list[str]:
    directory = Path(environ["HF_HOME"], "oellm/sources/hub")
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def test_only_the_directory_is_fetched_and_once(
    hub: Hub, environ: dict[str, str], tmp_path: Path
) -> None:
    files = write_files(
        tmp_path / "a", "deep/tasks/a.yaml", "deep/tasks/b/c.py", "deep/tasks2", "d"
    )
    commit = hub.add_dataset("acme/tasks", files)
    fetcher = SourceFetcher(environ, None, lambda _: None)
    text = fetcher.pin(f"{SOURCE}@main/deep/tasks")
    assert text == f"{SOURCE}@{commit}/deep/tasks"
    (directory,) = source_directories(text, environ)
    tree = Path(directory).parent.parent
    found = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    assert found == {"deep/tasks/a.yaml", "deep/tasks/b/c.py"}
    assert not Path(directory, "a.yaml").stat().st_mode & 0o222
    # It is here, so nobody is asked; another directory of the commit is not.
    problem = Problem("the hub cannot be reached", unreachable=True)
    offline = SourceFetcher(environ, problem, lambda _: None)
    assert offline.pin(text) == text
    for other in (f"{SOURCE}@main/deep/tasks", f"{SOURCE}@{commit}"):
        with pytest.raises(SourceError, match="the hub cannot be reached") as caught:
            offline.pin(other)
        assert caught.value.is_unreachable
    assert fetcher.pin(SOURCE) == f"{SOURCE}@{commit}"
    assert len(cached(environ)) == 2


def test_what_cannot_be_fetched_is_named_and_leaves_nothing(
    hub: Hub, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add_dataset("acme/tasks", write_files(tmp_path / "a", "tasks/a.yaml"))
    refused = {
        f"{SOURCE}@nope/tasks": "there is no such revision",
        f"{SOURCE}@{UNKNOWN}/tasks": "there is no such revision",
        f"{SOURCE}@{commit}/gone": "the commit has no directory gone",
        f"{SOURCE}@{commit}/tasks/a.yaml": "the commit has no directory tasks/a.yaml",
        "hf://datasets/acme/none/tasks": "not found on the hub",
    }
    for text, message in refused.items():
        with pytest.raises(SourceError, match=message):
            SourceFetcher(environ, None, lambda _: None).pin(text)
    monkeypatch.setattr(cache, "MOST_FILES", 0)
    with pytest.raises(SourceError, match=r"has 1 file of together .*: name a directory in it"):
        SourceFetcher(environ, None, lambda _: None).pin(SOURCE)
    assert cached(environ) == []
