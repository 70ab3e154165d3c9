"""Commits of git repositories, and their trees as plain files.

Only blobs are written, from `git cat-file`: no attributes, filters, hooks or configuration of a
repository take effect, and no submodule is fetched.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from oellm.core.log import Log
from oellm.manifest.task_source import TaskSource
from oellm.task_sources import cache
from oellm.task_sources.errors import SourceError
from oellm.task_sources.git_program import GitError, run_git, start_git

# In seconds.
_ANSWER_S = 90.0
_FETCH_S = 1800.0
_LOCAL_S = 300.0
_LINK, _SUBMODULE, _PROGRAM = "120000", "160000", "100755"
_LARGE_FILE = b"version https://git-lfs.github.com/spec/v1"


class TreeEntry(NamedTuple):
    """A file of a commit.

    Attributes:
        mode: As git writes it: of a file, a program or a link.
        blob: The name of its content.
        size: In bytes.
        path: Below the root of the tree.
    """

    mode: str
    blob: str
    size: int
    path: str


def find_commit(source: TaskSource) -> str:
    """Return the commit that a source's branch or tag stands for now; raises SourceError.

    Without a revision it is that of the default branch.
    """
    name = source.revision
    patterns = [name, f"refs/heads/{name}", f"refs/tags/{name}", f"refs/tags/{name}^{{}}"]
    listed = run_git(
        *("ls-remote", "--quiet", source.place),
        *(patterns if name else ["HEAD"]),
        url=source.place,
        limit_s=_ANSWER_S,
    )
    lines = listed.decode("utf-8", "replace").splitlines()
    commits = {ref: commit for commit, _, ref in (line.partition("\t") for line in lines)}
    if not name:
        if "HEAD" not in commits:
            raise SourceError(f"{source.place} has no default branch: write URL@BRANCH")
        return commits["HEAD"]
    tag = commits.get(f"refs/tags/{name}^{{}}") or commits.get(f"refs/tags/{name}")
    branch = commits.get(f"refs/heads/{name}")
    if tag and branch and tag != branch:
        hint = f"write refs/heads/{name} or refs/tags/{name}"
        raise SourceError(f"{source.place} has a branch and a tag {name}: {hint}")
    commit = tag or branch or (commits.get(f"{name}^{{}}") or commits.get(name))
    if not commit:
        hint = "; a commit has 40 hexadecimal digits" if _may_be_commit(name) else ""
        raise SourceError(f"{source.place} has no branch or tag {name}{hint}")
    return commit


def fetch_tree(source: TaskSource, path: Path, log: Log) -> None:
    """Put the whole tree of a pinned source's commit into the cache, at a path.

    Raises SourceError if there is no such commit or directory, or for a tree that cannot be kept:
    too large, with links that lead out of it, or with names that are no files'. Then nothing is
    left. `log` gets what is not fetched with it.
    """
    with tempfile.TemporaryDirectory(prefix="oellm-git-") as temporary:
        repository = Path(temporary, "repository")
        run_git(
            *("init", "--quiet", "--bare", "--template=", str(repository)),
            url=source.place,
            limit_s=_LOCAL_S,
        )
        _fetch_commit(source, repository)
        entries = _list_entries(source, repository)
        cache.publish_tree(
            path, lambda staged: _write(source, repository, entries, staged=staged, log=log)
        )


def _fetch_commit(source: TaskSource, repository: Path) -> None:
    common = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules")
    try:
        run_git(
            *(*common, "--depth=1", source.place, source.revision),
            url=source.place,
            limit_s=_FETCH_S,
            repository=repository,
        )
    except GitError as error:
        if "unadvertised object" not in error.said:
            if "not our ref" in error.said:
                raise _no_commit(source) from None
            raise
        # An old server, which gives branches and tags only.
        run_git(
            *(*common, source.place, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"),
            url=source.place,
            limit_s=_FETCH_S,
            repository=repository,
        )
    try:
        found = run_git(
            *("rev-parse", "--verify", "--quiet", f"{source.revision}^{{commit}}"),
            url=source.place,
            limit_s=_LOCAL_S,
            repository=repository,
        )
    except GitError:
        raise _no_commit(source) from None
    if found.decode().strip() != source.revision:
        text = f"{source.place}: {source.revision} is a tag; its commit is {found.decode().strip()}"
        raise SourceError(text)


def _no_commit(source: TaskSource) -> SourceError:
    return SourceError(f"{source.place} has no commit {source.revision}")


def _list_entries(source: TaskSource, repository: Path) -> list[TreeEntry]:
    """Return the files of a commit; raises SourceError if it cannot be kept."""
    listed = run_git(
        *("ls-tree", "-r", "-z", "-l", "--full-tree", source.revision),
        url=source.place,
        limit_s=_LOCAL_S,
        repository=repository,
    )
    entries = []
    for line in filter(None, listed.split(b"\0")):
        facts, _, name = line.partition(b"\t")
        mode, _, blob, size = facts.decode().split()
        if mode == _SUBMODULE:
            continue
        path = os.fsdecode(name)
        _check_name(source, path)
        entries.append(TreeEntry(mode, blob, size=int(size), path=path))
    cache.require_room(source, [entry.size for entry in entries])
    inside = f"{source.subdirectory}/"
    if source.subdirectory and not any(entry.path.startswith(inside) for entry in entries):
        raise SourceError(f"{source}: the commit has no directory {source.subdirectory}")
    return entries


def _check_name(source: TaskSource, path: str) -> None:
    parts = path.split("/")
    is_odd = any(ord(character) < ord(" ") for character in path)
    if is_odd or not {"", ".", "..", ".git"}.isdisjoint(part.lower() for part in parts):
        raise SourceError(f"{source}: the commit has a file with the name {path!r}")


def _write(
    source: TaskSource,
    repository: Path,
    entries: Sequence[TreeEntry],
    *,
    staged: Path,
    log: Log,
) -> None:
    """Write the files of a commit into an empty directory."""
    # A directory is never a link while files are written, because links come last.
    ordered = sorted(entries, key=lambda entry: entry.mode == _LINK)
    kept_elsewhere = []
    with _Blobs(source, repository) as blobs:
        for entry in ordered:
            content = blobs.read(entry)
            path = staged / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if entry.mode == _LINK:
                path.symlink_to(os.fsdecode(content))
                continue
            with open(path, "xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            if entry.mode == _PROGRAM:
                path.chmod(0o755)
            if content.startswith(_LARGE_FILE):
                kept_elsewhere.append(entry.path)
    for entry in ordered:
        if entry.mode == _LINK:
            _check_link(source, staged, entry)
    if kept_elsewhere:
        more = f" and {len(kept_elsewhere) - 1} more" if len(kept_elsewhere) > 1 else ""
        log(f"{source}: {kept_elsewhere[0]}{more}: content in Git LFS is not fetched")


def _check_link(source: TaskSource, staged: Path, entry: TreeEntry) -> None:
    link = staged / entry.path
    root = os.path.realpath(staged)
    target = os.path.realpath(link)
    if os.path.isabs(link.readlink()) or not f"{target}/".startswith(f"{root}/"):
        raise SourceError(f"{source}: the link {entry.path} leads out of the tree")


class _Blobs:
    """Reads contents from a repository, with one process for all."""

    def __init__(self, source: TaskSource, repository: Path) -> None:
        self._source = source
        self._process = start_git(
            *("cat-file", "--batch"),
            url=source.place,
            repository=repository,
            stdin=subprocess.PIPE,
        )

    def __enter__(self) -> _Blobs:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def read(self, entry: TreeEntry) -> bytes:
        """Return the content of a file; raises SourceError if git does not give all of it."""
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answers is not None
        asked.write(f"{entry.blob}\n".encode())
        asked.flush()
        head = answers.readline().split()
        is_found = head == [entry.blob.encode(), b"blob", str(entry.size).encode()]
        # A line end follows the content.
        answer = answers.read(entry.size + 1) if is_found else b""
        if len(answer) != entry.size + 1:
            raise SourceError(f"{self._source}: git does not give the file {entry.path}")
        return answer[:-1]


def _may_be_commit(name: str) -> bool:
    return len(name) >= len("abcdef0") and set(name.lower()) <= set("0123456789abcdef")
