"""The hub's cache on disk: which files it has, and whether they are what the hub lists.

The layout is that of huggingface_hub. Below models--ORG--NAME (or datasets--ORG--NAME), blobs/ has
the contents, named by their digests, and snapshots/COMMIT has links to them
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from oellm.core import atomic
from oellm.core.regular_files import STATE, open_regular, read_regular

# An unfinished file to which nobody has written for this long is not being downloaded any more.
_IDLE_S = 600.0
_CHUNK = 2**20
# Where the libraries have their caches without HF_HOME.
_HOME = "~/.cache/huggingface"
_COMMIT = re.compile(r"[0-9A-Za-z]+")


class HubFile(NamedTuple):
    """A file of a commit as the hub lists it.

    Attributes:
        name: Its path in the repository.
        size: Bytes; None if the hub does not say it.
        digest: The SHA-256 of a large file, git's blob id of others; empty if unknown.
    """

    name: str
    size: int | None
    digest: str

    @classmethod
    def from_entry(cls, name: str, entry: Any) -> HubFile:
        """Return the file that an entry of the hub's library describes."""
        digest = entry.lfs.sha256 if entry.lfs else entry.blob_id
        return cls(name, entry.size, str(digest or ""))


class WrongContentError(Exception):
    """Twice, a downloaded file was not what the hub lists."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name}: the hub twice sent something other than what it lists: try again later; "
            "if that does not help, a proxy or mirror may be the cause"
        )


class CachedCommit:
    """One commit of a repository in the cache; `kind` is models or datasets.

    Attributes:
        commit: The commit's hash.
        directory: The directory with links to its files.
    """

    def __init__(self, cache: str, path: str, commit: str, kind: str = "models") -> None:
        self._root = _root(cache, path, kind)
        self._blobs = os.path.join(self._root, "blobs")
        self.commit = commit
        self.directory = os.path.join(self._root, "snapshots", commit)

    def names(self) -> list[str]:
        """Return the names of the files in the cache."""
        return [
            os.path.relpath(os.path.join(directory, name), self.directory)
            for directory, _, names in os.walk(self.directory)
            for name in names
        ]

    def path_of(self, file: HubFile) -> str:
        """Return the path that a file has once it is in the cache."""
        return os.path.join(self.directory, *file.name.split("/"))

    def holds(self, file: HubFile) -> bool:
        """Return whether the cache has a file, by its size and the digest it is stored under.

        Nothing is read: `verify_or_remove` compared the content after the download.
        """
        path = self.path_of(file)
        if not os.path.exists(path) or file.size not in (None, os.path.getsize(path)):
            return False
        blob = self._blob(path)
        return blob == path or os.path.basename(blob) == file.digest or not file.digest

    def has_content(self, file: HubFile) -> bool:
        """Return whether the cache has the content, perhaps from another commit."""
        return bool(file.digest) and os.path.exists(os.path.join(self._blobs, file.digest))

    def verify_or_remove(self, file: HubFile) -> bool:
        """Return whether a file's content is what the hub lists; remove it if it is not.

        Right content that is stored under another digest moves to its own.
        """
        path = self.path_of(file)
        # It may be missing: another process that fetches it too may have moved or removed it.
        with contextlib.suppress(FileNotFoundError):
            if file.size in (None, os.path.getsize(path)) and _has_digest(path, file.digest):
                if file.digest:
                    self._store(path, file.digest)
                return True
            blob = self._blob(path)
            # It may be the right content of another file.
            if not _has_digest(blob, os.path.basename(blob)):
                os.unlink(blob)
        Path(path).unlink(missing_ok=True)
        return False

    def count_bytes(self, files: Iterable[HubFile]) -> int:
        """Return how many bytes of some files are in the cache, also of unfinished ones."""
        sizes: dict[str, int] = {}
        for path in Path(self._blobs).glob("*"):
            # It may just have been renamed; the next look will count it.
            with contextlib.suppress(OSError):
                digest = path.name.partition(".")[0]
                sizes[digest] = max(sizes.get(digest, 0), path.stat().st_size)
        return sum(min(sizes.get(file.digest, 0), file.size or 0) for file in files)

    def remove_leftovers(self) -> None:
        """Remove unfinished files of killed downloads, which no later download can use."""
        for path in Path(self._blobs).glob("*.*.incomplete"):
            # It may belong to somebody else, or be removed by somebody else.
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _IDLE_S:
                    path.unlink()

    def write_ref(self, revision: str) -> None:
        """Note in the cache that a branch or tag stands for this commit, for use offline."""
        path = Path(self._root, "refs", revision)
        if revision != self.commit and _read_ref(path) != self.commit:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_file(path, self.commit.encode())

    def _blob(self, path: str) -> str:
        """Return the file in blobs/ that a path links to; the path itself if it is no link."""
        # Follow one link only: the file in blobs/ may itself be a link to what models share.
        link = os.readlink(path) if os.path.islink(path) else ""
        return os.path.normpath(os.path.join(os.path.dirname(path), link)) if link else path

    def _store(self, path: str, digest: str) -> None:
        blob = self._blob(path)
        proper = os.path.join(self._blobs, digest)
        if blob not in (path, proper):
            os.replace(blob, proper)
            link = f"{path}.{os.getpid()}-{os.urandom(4).hex()}"
            os.symlink(os.path.relpath(proper, os.path.dirname(path)), link)
            os.replace(link, path)


def find_snapshot(path: str, revision: str, cache: str | None = None) -> str | None:
    """Return the directory of a model at a commit, branch or tag in a cache, or None.

    It may be incomplete, and never has files that no backend loads. Without `cache` it is that of
    this process.
    """
    if cache is None:
        cache = _own_cache()
    by_name = Path(_root(cache, path), "refs", revision)
    commit = _read_ref(by_name) or revision
    directory = CachedCommit(cache, path, commit).directory
    return directory if os.path.isdir(directory) else None


def list_models(cache: str) -> list[str]:
    """Return the names of the models of which a cache has a commit."""
    roots = sorted(Path(cache).glob("models--*"))
    names = [root.name for root in roots if any(root.glob("snapshots/*/config.json"))]
    return [name.removeprefix("models--").replace("--", "/", 1) for name in names]


def _own_cache() -> str:
    """Return the cache of this process, whose Python may lack the hub's library."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return os.path.join(os.path.expanduser(os.environ.get("HF_HOME") or _HOME), "hub")
    return str(HF_HUB_CACHE)


def _read_ref(path: Path) -> str:
    """Return the commit of a branch or tag, as the cache knows it; empty if unknown."""
    try:
        commit = read_regular(path, STATE).decode()
    except (OSError, UnicodeDecodeError):
        return ""
    # It becomes part of a path.
    return commit if _COMMIT.fullmatch(commit) else ""


def free_space(directory: str) -> int:
    """Return the free bytes of the file system of a directory, which need not exist yet."""
    directory = os.path.abspath(directory)
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return shutil.disk_usage(directory).free


def _root(cache: str, path: str, kind: str = "models") -> str:
    return os.path.join(cache, f"{kind}--{path.replace('/', '--')}")


def _has_digest(path: str, digest: str) -> bool:
    """Return whether a file's content has a digest; any content has an empty (unknown) one."""
    if not digest:
        return True
    with open_regular(path, any_link=True) as stream:
        if len(digest) == 64:
            content = hashlib.sha256()
        else:
            header = b"blob %d\0" % os.fstat(stream.fileno()).st_size
            content = hashlib.sha1(header, usedforsecurity=False)
        while chunk := stream.read(_CHUNK):
            content.update(chunk)
    return content.hexdigest() == digest
