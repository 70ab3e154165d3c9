"""The cache of fetched sources: one directory for the tree of each commit, below HF_HOME.

A tree of a git repository lies at `HF_HOME/oellm/sources/git/COMMIT`, whatever its address: a
commit's name is a digest of its content. Of a data set of the hub only the directory that a source
names is fetched, to `HF_HOME/oellm/sources/hub/COMMIT-DIGEST`; the digest is that of its name.
A tree gets its name when it is complete. Nobody may write to it, and everybody may read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from oellm.core import atomic
from oellm.core.display import format_count, format_size
from oellm.core.paths import make_shared_directory
from oellm.manifest.task_source import HUB, TaskSource, parse_sources
from oellm.task_sources.errors import SourceError, UncachedSourceError

_DIGITS = 8
# What one tree may have at most; its size is in bytes.
MOST_FILES = 100_000
MOST_BYTES = 2**30
# Seconds after which an unfinished tree belongs to a fetch that was killed.
_ABANDONED_S = 86_400


def source_directories(text: str, environ: Mapping[str, str]) -> list[str]:
    """Return the directories on this machine of the sources in a cell, in order, each once.

    Whether a directory that the cell itself names is there is not looked at. Raises
    UncachedSourceError for a reference that is not pinned or not in the cache, and SourceError if
    its tree has no such directory.
    """
    sources = parse_sources(text) if text else []
    return list(dict.fromkeys(cached_directory(source, environ) for source in sources))


def cached_directory(source: TaskSource, environ: Mapping[str, str]) -> str:
    """Return the directory on this machine of one source; raises as `source_directories` does."""
    if not source.is_reference:
        return os.path.abspath(source.place)
    if not source.is_pinned:
        raise UncachedSourceError(f"{source} names no commit: oe-fetch writes it into the row")
    tree = tree_path(source, environ)
    if not tree.is_dir():
        raise UncachedSourceError(f"{source} is not in the cache ({tree}): run oe-fetch")
    directory = tree / source.subdirectory
    if not directory.is_dir():
        raise SourceError(f"{source}: the commit has no directory {source.subdirectory}")
    return str(directory)


def find_holder(directories: Sequence[str], name: str) -> str:
    """Return which directory of a row's sources has a file; empty if none has it.

    Raises SourceError if two have it.
    """
    holders = [place for place in directories if os.path.lexists(os.path.join(place, name))]
    if len(holders) > 1:
        raise SourceError(f"both {holders[0]} and {holders[1]} have {name}: name one of them only")
    return holders[0] if holders else ""


def tree_path(source: TaskSource, environ: Mapping[str, str]) -> Path:
    """Return where the tree of a pinned source is in the cache, whether it is there or not."""
    home = environ.get("HF_HOME") or "~/.cache/huggingface"
    root = Path(os.path.expanduser(home), "oellm", "sources")
    if source.kind != HUB:
        return root / source.kind / source.revision
    name = f"{source.place}/{source.subdirectory}"
    return (
        root
        / source.kind
        / f"{source.revision}-{hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]}"
    )


def require_room(source: TaskSource, sizes: Sequence[int], hint: str = "") -> None:
    """Raise SourceError if files of these sizes, in bytes, are more than a tree may have.

    The hint is the end of the message.
    """
    total = sum(sizes)
    if len(sizes) > MOST_FILES or total > MOST_BYTES:
        found = f"{format_count(len(sizes), 'file')} of together {format_size(total)}"
        most = f"at most {format_count(MOST_FILES, 'file')} of {format_size(MOST_BYTES)}"
        raise SourceError(f"{source} has {found}, and {most} are fetched{hint}")


def publish_tree(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a tree: `fill` fills a directory beside it, which then gets the name, all at once.

    Another process may do the same at the same time; the first one to end counts. Raises whatever
    `fill` raises, and OSError; then nothing is left.
    """
    make_shared_directory(path.parent)
    _remove_abandoned(path)
    staged = atomic.staging_path(path, atomic.new_attempt())
    try:
        staged.mkdir(mode=0o755)
        fill(staged)
        _forbid_writing(staged)
        with contextlib.suppress(FileExistsError):
            _rename(staged, path)
    finally:
        remove_tree(staged)


def remove_tree(path: Path) -> None:
    """Remove a directory whose parts nobody may write to, as far as possible."""
    for directory, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            Path(directory).chmod(0o755)
    shutil.rmtree(path, ignore_errors=True)


def _rename(staged: Path, path: Path) -> None:
    try:
        staged.rename(path)
    except OSError:
        # Another process was faster; file systems have several errors for that.
        if path.is_dir():
            raise FileExistsError(path) from None
        raise


def _forbid_writing(tree: Path) -> None:
    """Let everybody read a tree and nobody write to it, whatever the umask."""
    for directory, _, names in os.walk(tree, topdown=False):
        for name in names:
            path = Path(directory, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                path.chmod(0o555 if status.st_mode & stat.S_IXUSR else 0o444)
        Path(directory).chmod(0o555)


def _remove_abandoned(path: Path) -> None:
    """Remove what killed fetches of a tree have left beside it."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _ABANDONED_S:
                remove_tree(leftover)
