"""Tasks of git repositories, from oe-manifest to oe-missing, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.fetching import Account
from support.git_repositories import Repository, quiz_files
from support.model_directories import write_model
from support.processes import rows_of

HEADER = "model_path,task_path,n_shot,include_path"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def remote(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "remote")


def sources_of(account: Account) -> list[str]:
    """Return what the cache has of git repositories, unfinished trees included."""
    return [path.name for path in account.hf_home.glob("oellm/sources/*/.*")] + [
        path.name for path in account.hf_home.glob("oellm/sources/*/*")
    ]


@pytest.mark.slow
def test_rows_get_the_commit_of_their_sources_and_need_no_remote_then(
    cut_off: Account, model: Path, remote: Repository, tmp_path: Path
) -> None:
    commit = remote.commit({f"tasks/{name}": text for name, text in quiz_files(2).items()})
    own = tmp_path / "own"
    own.mkdir()
    (own / "both.yaml").write_text("group: both\ntask: [q0, q1]\n")
    arguments = ("oe-manifest", f"--models={model}", "--tasks=both,q0", "--n_shot=0")
    sources = f"--include_path={own}:{remote.url}@main#subdirectory=tasks"
    asked = cut_off.run(*arguments, sources, env=cut_off.environment)
    unpinned = cut_off.fetch(asked.stdout, "--check", status=1)
    assert (
        "names no commit: oe-fetch writes it into the row; to fix it: oe-fetch" in unpinned.stderr
    )
    refused = cut_off.run("oe-render", stdin=asked.stdout, env=cut_off.environment, status=2)
    assert "stdin:2: include_path: git+file://" in refused.stderr

    fetched = cut_off.fetch(asked.stdout)
    pinned = f"{own}:{remote.url}@{commit}#subdirectory=tasks"
    rows = rows_of(fetched.stdout)
    assert [row["include_path"] for row in rows] == [pinned, pinned]
    assert [row["n_docs"] for row in rows] == ["8", "4"]
    assert sources_of(cut_off) == [commit]
    remote.path.rename(tmp_path / "gone")
    assert cut_off.fetch(fetched.stdout, "--check").stderr.endswith("2 of 2 rows can start\n")
    # Names are looked up in the cached tree now.
    (own / "q0.yaml").write_text("task: q0\n")
    wrong = cut_off.run(*arguments, f"--include_path={pinned}", env=cut_off.environment, status=2)
    assert f"oe-manifest: --include_path: {own}/q0.yaml:1 and {cut_off.hf_home}" in wrong.stderr


@pytest.mark.slow
def test_what_is_wrong_with_sources_is_told_with_its_place(
    cut_off: Account, model: Path, remote: Repository, tmp_path: Path
) -> None:
    files = quiz_files(2)
    files["lost.yaml"] = "task: lost\ninclude: gone.yaml\n"
    files["mute.yaml"] = "task: mute\ninclude: base.yaml\nprocess_docs: !function nowhere.docs\n"
    commit = remote.commit({f"tasks/{name}": text for name, text in files.items()})
    twice = tmp_path / "twice"
    twice.mkdir()
    (twice / "again.yaml").write_text("\n\ntask: q1\n")
    tree = f"{cut_off.hf_home}/oellm/sources/git/{commit}/tasks"
    at = f"{remote.url}@{commit}#subdirectory=tasks"
    wrong = {
        f"q0,0,{remote.url}@{'0' * 40}": f"{remote.url[4:]} has no commit {'0' * 40}",
        f"q0,0,{at}/none": "the commit has no directory tasks/none",
        f"q0,0,{remote.url}/none@main": "does not appear to be a git repository",
        f"lost,0,{at}": f"{tree}/lost.yaml:2 includes gone.yaml, which is not there",
        f"mute,0,{at}": f"{tree}/mute.yaml:3: process_docs: !function nowhere.docs: there is no",
        f"q1,0,{at}:{twice}": (
            f"{tree}/q1.yaml:1 and {twice}/again.yaml:3 both define q1: name one of the sources"
        ),
    }
    manifest = "".join(f"{model},{cells}\n" for cells in (*wrong, f"q0,0,{at}"))
    done = cut_off.fetch(f"{HEADER}\n{manifest}", status=1)
    for line, message in enumerate(wrong.values(), 2):
        (told,) = [text for text in done.stderr.splitlines() if f"stdin:{line}: " in text]
        assert message in told
    assert [row["task_path"] for row in rows_of(done.stdout)] == ["q0"]
    assert sources_of(cut_off) == [commit]


def test_a_cell_that_names_no_source_is_refused_with_its_line(cut_off: Account) -> None:
    manifest = f"{HEADER}\nacme/a,q0,0,/tmp\nacme/a,q0,0,git+http://example.org/r\n"
    done = cut_off.fetch(manifest, status=2)
    assert "stdin:3: include_path: expected git+URL@REVISION#subdirectory=DIR" in done.stderr
