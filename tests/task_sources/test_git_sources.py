"""Sources in git repositories: what is fetched, what is kept, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from oellm.manifest.task_source import TaskSource
from oellm.task_sources import cache, git_program
from oellm.task_sources.cache import cached_directory, source_directories
from oellm.task_sources.errors import SourceError, UncachedSourceError
from oellm.task_sources.source_fetcher import SourceFetcher
from support.git_repositories import Repository
from support.waiting import wait_until

UNKNOWN = "1" * 40


@pytest.fixture
def remote(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "remote")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HF_HOME": str(tmp_path / "hf")}


def fetcher(environ: dict[str, str], said: list[str] | None = None) -> SourceFetcher:
    return SourceFetcher(environ, None, (said if said is not None else []).append)


def cached(environ: dict[str, str]) -> list[str]:
    """Return the names in the cache of git repositories, unfinished ones included."""
    directory = Path(environ["HF_HOME"], "oellm/sources/git")
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def test_a_branch_is_fetched_once_and_its_commit_is_written_down(
    remote: Repository, environ: dict[str, str], tmp_path: Path
) -> None:
    first = remote.commit({"tasks/a.yaml": "task: a\n", "tasks/run": "#!/bin/sh\n"})
    (remote.path / "tasks/run").chmod(0o755)
    (remote.path / "link").symlink_to("tasks/a.yaml")
    second = remote.commit()
    remote.git("tag", "--annotate", "v1", "--message=x", first)
    old_umask = os.umask(0o077)
    try:
        pin = fetcher(environ).pin
        assert pin(remote.url) == f"{remote.url}@{second}"
        text = pin(f"{tmp_path}:{remote.url}@main#subdirectory=tasks:{remote.url}@v1")
    finally:
        os.umask(old_umask)
    expected = f"{remote.url}@{second}#subdirectory=tasks"
    assert text == f"{tmp_path}:{expected}:{remote.url}@{first}"
    assert cached(environ) == sorted((first, second))
    directories = source_directories(text, environ)
    assert directories[0] == str(tmp_path)
    assert Path(directories[1], "a.yaml").read_text() == "task: a\n"
    tree = Path(directories[1]).parent
    assert (tree / "link").readlink() == Path("tasks/a.yaml")
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tree, *tree.rglob("[a-z]*"))}
    assert modes == {second: 0o555, "tasks": 0o555, "a.yaml": 0o444, "run": 0o555, "link": 0o444}
    # What is pinned and cached needs no remote; what is not pinned does.
    remote.path.rename(tmp_path / "gone")
    assert fetcher(environ).pin(text) == text
    with pytest.raises(SourceError, match="does not appear to be a git repository"):
        fetcher(environ).pin(f"{remote.url}@main")


def test_what_is_not_in_the_cache_is_told_with_what_helps(environ: dict[str, str]) -> None:
    for text, message in (
        ("git+https://example.org/r@main", "names no commit: oe-fetch writes it into the row"),
        (f"git+https://example.org/r@{UNKNOWN}", "is not in the cache .*: run oe-fetch"),
    ):
        with pytest.raises(UncachedSourceError, match=message):
            cached_directory(TaskSource.parse(text), environ)


def test_what_cannot_be_fetched_is_named_and_leaves_nothing(
    remote: Repository, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = remote.commit({"tasks/a.yaml": "task: a\n", "big": "x" * 3000})
    remote.git("tag", "--annotate", "v1", "--message=x")
    remote.git("branch", "both")
    remote.git("tag", "both", "main~0")
    remote.commit({"a": ""})
    remote.git("branch", "--force", "both")
    tag = remote.git("rev-parse", "v1")
    at = f"{remote.url}@"
    refused = {
        f"{at}nope": "has no branch or tag nope$",
        f"{at}{commit[:10]}": "a commit has 40 hexadecimal digits",
        f"{at}both": "has a branch and a tag both: write refs/heads/both or refs/tags/both",
        f"{at}{UNKNOWN}": f"has no commit {UNKNOWN}",
        f"{at}{tag}": f"{tag} is a tag; its commit is {commit}",
        f"{at}{commit}#subdirectory=gone": "the commit has no directory gone",
        f"{at}{commit}#subdirectory=big": "the commit has no directory big",
        "git+https://127.0.0.1:9/r@main": r"https://127\.0\.0\.1:9/r cannot be reached: ",
        "git+ssh://127.0.0.1:9/r@main": r"ssh://127\.0\.0\.1:9/r cannot be reached: ",
    }
    for text, message in refused.items():
        with pytest.raises(SourceError, match=message) as caught:
            fetcher(environ).pin(text)
        assert caught.value.column == "include_path"
        assert caught.value.is_unreachable == ("cannot be reached" in message)
    monkeypatch.setattr(cache, "MOST_BYTES", 3000)
    with pytest.raises(SourceError, match=r"has 2 files of together 3\.01 kB, and at most"):
        fetcher(environ).pin(f"{at}{commit}")
    monkeypatch.undo()
    monkeypatch.setattr(git_program, "LONGEST_FILE", 10)
    with pytest.raises(SourceError, match="is larger than 10 B"):
        fetcher(environ).pin(f"{at}{commit}")
    monkeypatch.undo()
    assert fetcher(environ).pin(f"{at}refs/heads/both")
    # Nobody is asked for a password, and the reason is what ssh says.
    ssh = "f() { echo 'Warning: x\n\nPermission denied (publickey).' >&2; exit 255; }; f"
    monkeypatch.setenv("GIT_SSH_COMMAND", ssh)
    with pytest.raises(SourceError, match=r"git says: Permission denied \(publickey\)"):
        fetcher(environ).pin("git+ssh://git@127.0.0.1/r@main")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SourceError, match="git, which fetches it, is not on PATH of this machine"):
        fetcher(environ).pin(f"{at}main")
    assert len(cached(environ)) == 1


def test_a_file_that_git_gives_in_part_is_not_kept(
    remote: Repository, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.commit({"a.yaml": "x" * 3000})
    git = tmp_path / "bin/git"
    git.parent.mkdir()
    real = f'{shutil.which("git")} "$@"'
    cut = f"head -n 1 | {real} | head -c 100"
    git.write_text(f"#!/bin/sh\ncase $* in *cat-file*) {cut};; *) exec {real};; esac\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{git.parent}:{os.environ['PATH']}")
    with pytest.raises(SourceError, match=r"git does not give the file a\.yaml"):
        fetcher(environ).pin(remote.url)
    assert cached(environ) == []


@pytest.mark.parametrize("target", ["/etc", "../..", "a/up/../../out"])
def test_links_that_lead_out_of_the_tree_are_refused(
    remote: Repository, environ: dict[str, str], target: str
) -> None:
    (remote.path / "a").mkdir()
    (remote.path / "a" / "up").symlink_to("..")
    (remote.path / "x").symlink_to(target)
    remote.commit()
    with pytest.raises(SourceError, match="the link x leads out of the tree"):
        fetcher(environ).pin(remote.url)
    assert cached(environ) == []


def test_nothing_of_a_repository_runs_or_changes_what_is_written(
    remote: Repository, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Attributes, filters, hooks and templates of users and repositories have no effect."""
    home = tmp_path / "home"
    (home / "hooks").mkdir(parents=True)
    touch = f"touch {tmp_path}/ran"
    for name in ("post-checkout", "post-index-change", "reference-transaction"):
        (home / "hooks" / name).write_text(f"#!/bin/sh\n{touch}\n")
        (home / "hooks" / name).chmod(0o755)
    (home / ".gitconfig").write_text(
        f"[core]\n\thooksPath = {home}/hooks\n\tautocrlf = true\n"
        f'[filter "loud"]\n\tsmudge = {touch}; cat\n\trequired = true\n'
    )
    attributes = "* filter=loud\nhidden export-ignore\ntask.yaml export-subst\n"
    large = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    files = {".gitattributes": attributes, "hidden": "x\n", "task.yaml": "$Format:%H$\n"}
    remote.commit({**files, "data": large, ".gitmodules": "[submodule]\n"})
    remote.git("update-index", "--add", "--cacheinfo", f"160000,{UNKNOWN},sub")
    remote.git("commit", "--quiet", "--message=x")
    monkeypatch.setenv("HOME", str(home))
    said: list[str] = []
    text = fetcher(environ, said).pin(remote.url)
    (tree,) = source_directories(text, environ)
    found = {path.name: path.read_text() for path in Path(tree).iterdir()}
    assert found == {**files, "data": large, ".gitmodules": "[submodule]\n"}
    assert not (tmp_path / "ran").exists()
    assert f"{text}: data: content in Git LFS is not fetched" in said


def test_a_server_that_gives_no_single_commits_gives_its_branches(
    remote: Repository, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = remote.commit({"a.yaml": "task: a\n"})
    remote.commit({"a.yaml": "task: b\n"})
    for number, name in enumerate(("protocol.version=0", "uploadpack.allowAnySHA1InWant=false")):
        key, _, value = name.partition("=")
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    (tree,) = source_directories(fetcher(environ).pin(f"{remote.url}@{old}"), environ)
    assert Path(tree, "a.yaml").read_text() == "task: a\n"
    with pytest.raises(SourceError, match="has no commit"):
        fetcher(environ).pin(f"{remote.url}@{UNKNOWN}")


def test_several_fetches_at_once_leave_one_whole_tree(
    remote: Repository, environ: dict[str, str]
) -> None:
    remote.commit({f"{number}.yaml": f"task: t{number}\n" for number in range(50)})
    pinned: list[str] = []
    threads = [
        threading.Thread(target=lambda: pinned.append(fetcher(environ).pin(remote.url)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pinned) == 4
    assert len(set(pinned)) == len(cached(environ)) == 1
    (tree,) = source_directories(pinned[0], environ)
    assert len(list(Path(tree).iterdir())) == 50


def test_an_interrupted_fetch_leaves_nothing_that_counts(
    remote: Repository, environ: dict[str, str]
) -> None:
    commit = remote.commit({"a.yaml": "task: a\n"})
    text = f"{remote.url}@{commit}"
    code = (
        "import sys, time\n"
        "from oellm.task_sources import git_trees\n"
        "from oellm.task_sources.source_fetcher import SourceFetcher\n"
        "git_trees._check_link = git_trees._Blobs.read = lambda *_: time.sleep(60)\n"
        "SourceFetcher({'HF_HOME': sys.argv[1]}, None, print).pin(sys.argv[2])\n"
    )
    for stop, left in ((signal.SIGINT, 0), (signal.SIGKILL, 1)):
        called = [sys.executable, "-c", code, environ["HF_HOME"], text]
        with subprocess.Popen(called, stderr=subprocess.DEVNULL) as process:
            wait_until(lambda: bool(cached(environ)))
            process.send_signal(stop)
        assert len(cached(environ)) == left
        with pytest.raises(UncachedSourceError):
            source_directories(text, environ)
    # What was killed is removed a day later, at the next fetch.
    (leftover,) = Path(environ["HF_HOME"], "oellm/sources/git").iterdir()
    os.utime(leftover, (0, 0))
    fetcher(environ).pin(text)
    assert cached(environ) == [commit]
