"""The hub's cache on disk: which files are there, and whether they are what the hub lists.

Its layout is that of huggingface_hub: below models--ORG--NAME (or datasets--ORG--NAME) the
contents in blobs/, named by digest, and snapshots/COMMIT with links to them
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from oellm.core import atomic

# Seconds in which nothing was written to a file that is still being downloaded: nobody does.
_IDLE = 600.0
_CHUNK = 2**20


class HubFile(NamedTuple):
    """A file of a commit as the hub lists it."""

    name: str
    # Bytes; None where the hub does not say it.
    size: int | None
    # What it is known by: sha256 for large files, else git's blob id; empty where unknown.
    digest: str

    @classmethod
    def listed(cls, name: str, entry: Any) -> HubFile:
        """Return the file that an entry of the hub's library describes."""
        digest = entry.lfs.sha256 if entry.lfs else entry.blob_id
        return cls(name, entry.size, str(digest or ""))


class WrongContentError(Exception):
    """The hub gave something else than what it lists, twice."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name}: the hub twice sent something other than what it lists: try again later; "
            "if that does not help, a proxy or mirror may be the cause"
        )


class CachedCommit:
    """One commit of a repository in the cache; `kind` is models or datasets."""

    def __init__(self, cache: str, path: str, commit: str, kind: str = "models") -> None:
        self._root = _root(cache, path, kind)
        self._blobs = os.path.join(self._root, "blobs")
        self.commit = commit
        self.directory = os.path.join(self._root, "snapshots", commit)

    def names(self) -> list[str]:
        """Return the names of the files that are there."""
        return [
            os.path.relpath(os.path.join(directory, name), self.directory)
            for directory, _, names in os.walk(self.directory)
            for name in names
        ]

    def place(self, file: HubFile) -> str:
        """Return where a file is, once it is there."""
        return os.path.join(self.directory, *file.name.split("/"))

    def holds(self, file: HubFile) -> bool:
        """Return whether a file is there, by its size and by the digest that it was stored under.

        Nothing is read: `settle` compared the content when it came.
        """
        place = self.place(file)
        if not os.path.exists(place) or file.size not in (None, os.path.getsize(place)):
            return False
        blob = self._blob(place)
        return blob == place or os.path.basename(blob) == file.digest or not file.digest

    def has_content(self, file: HubFile) -> bool:
        """Return whether the content is there, perhaps of another commit."""
        return bool(file.digest) and os.path.exists(os.path.join(self._blobs, file.digest))

    def settle(self, file: HubFile) -> bool:
        """Return whether a file is there and its content is what the hub lists, else remove it.

        Content that is right but stored under another digest is stored under its own.
        """
        place = self.place(file)
        # Not there: who fetches the same content at the same time found it wrong, or moved it.
        with contextlib.suppress(FileNotFoundError):
            if file.size in (None, os.path.getsize(place)) and _has_digest(place, file.digest):
                if file.digest:
                    self._store(place, file.digest)
                return True
            blob = self._blob(place)
            # It may be the right content of another file.
            if not _has_digest(blob, os.path.basename(blob)):
                os.unlink(blob)
        Path(place).unlink(missing_ok=True)
        return False

    def bytes_there(self, files: Iterable[HubFile]) -> int:
        """Return how much of some files is there, unfinished ones included."""
        sizes: dict[str, int] = {}
        for path in Path(self._blobs).glob("*"):
            # One may be renamed just now; the next look will count it.
            with contextlib.suppress(OSError):
                digest = path.name.partition(".")[0]
                sizes[digest] = max(sizes.get(digest, 0), path.stat().st_size)
        return sum(min(sizes.get(file.digest, 0), file.size or 0) for file in files)

    def remove_leftovers(self) -> None:
        """Remove what killed downloads left unfinished, which no later one can use."""
        for path in Path(self._blobs).glob("*.*.incomplete"):
            # It may be somebody else's, or removed by somebody else.
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _IDLE:
                    path.unlink()

    def record(self, revision: str) -> None:
        """Record that a branch or tag stands for this commit, for who has no network."""
        path = Path(self._root, "refs", revision)
        if revision != self.commit and not (path.exists() and path.read_text() == self.commit):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_file(path, self.commit.encode())

    def _blob(self, place: str) -> str:
        """Return the file in blobs/ that a place links to; the place itself, if it is no link."""
        # One link only: the file in blobs/ may itself be a link, to what several models share.
        link = os.readlink(place) if os.path.islink(place) else ""
        return os.path.normpath(os.path.join(os.path.dirname(place), link)) if link else place

    def _store(self, place: str, digest: str) -> None:
        blob = self._blob(place)
        proper = os.path.join(self._blobs, digest)
        if blob not in (place, proper):
            os.replace(blob, proper)
            link = f"{place}.{os.getpid()}-{os.urandom(4).hex()}"
            os.symlink(os.path.relpath(proper, os.path.dirname(place)), link)
            os.replace(link, place)


def snapshot(path: str, revision: str) -> str:
    """Return the directory where the cache has a model at a commit, branch or tag, or nothing.

    Whether it is complete is for others to say: files that no backend loads are not there.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    by_name = Path(_root(HF_HUB_CACHE, path), "refs", revision)
    commit = by_name.read_text() if by_name.is_file() else revision
    directory = CachedCommit(HF_HUB_CACHE, path, commit).directory
    return directory if os.path.isdir(directory) else ""


def free_space(directory: str) -> int:
    """Return the bytes that are free where a directory is, or will be."""
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return shutil.disk_usage(directory).free


def _root(cache: str, path: str, kind: str = "models") -> str:
    return os.path.join(cache, f"{kind}--{path.replace('/', '--')}")


def _has_digest(path: str, digest: str) -> bool:
    """Return whether a file's content has a digest; an empty one says nothing and fits."""
    if not digest:
        return True
    with open(path, "rb") as stream:
        if len(digest) == 64:
            content = hashlib.sha256()
        else:
            header = b"blob %d\0" % os.fstat(stream.fileno()).st_size
            content = hashlib.sha1(header, usedforsecurity=False)
        while chunk := stream.read(_CHUNK):
            content.update(chunk)
    return content.hexdigest() == digest
