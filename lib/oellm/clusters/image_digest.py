"""The SHA-256 of container images, computed once per version of the file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from oellm.core import atomic, json_codec
from oellm.core.paths import cache_directory
from oellm.core.regular_files import STATE, open_regular

# An image of this many bytes takes seconds to read, so the user is told.
_LARGE = 10**9
_CHUNK = 2**20


class ImageRecord(NamedTuple):
    """A container image as it is when a run is written (`images` in run.json).

    Attributes:
        eval_suite: What runs in it: a framework, or `FRAMEWORK-evaluate` for its second stage.
        path: Its path.
        size_bytes: Its size. None, like the digest, for a directory (a sandbox), for an image that
            is missing or cannot be read, and for one that changes while it is read.
        sha256: The SHA-256 of its content.
    """

    eval_suite: str
    path: str
    size_bytes: int | None
    sha256: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `images` in run.json."""
        return {
            "eval_suite": self.eval_suite,
            "path": self.path,
            "bytes": self.size_bytes,
            "sha256": self.sha256,
        }


class ImageDigests:
    """The digests of images, kept in the user's cache by path, size and time of change.

    The cache may lie in a directory of a whole group, so a file that others may have written is
    ignored.
    `report` gets a message when a digest takes seconds to compute.
    """

    def __init__(self, environ: Mapping[str, str], report: Callable[[str], None]) -> None:
        self._cache = cache_directory(environ)
        self._report = report

    def describe_image(self, eval_suite: str, image: Path) -> ImageRecord:
        """Return the record of an image."""
        size, digest = self._facts(os.path.realpath(image)) or (None, None)
        return ImageRecord(eval_suite, str(image), size_bytes=size, sha256=digest)

    def keep_digest(self, image: Path, sha256: str) -> None:
        """Note the digest of an image that was computed elsewhere: it is not read again."""
        with contextlib.suppress(OSError):
            if key := _key(os.path.realpath(image)):
                self._keep(key, sha256)

    def _facts(self, path: str) -> tuple[int, str] | None:
        with contextlib.suppress(OSError):
            key = _key(path)
            if key and (digest := self._cached(key) or self._computed(key)):
                return key["bytes"], digest
        return None

    def _cached(self, key: dict[str, Any]) -> str:
        kept = json_codec.read_cached(self._file(key), STATE)
        # Other facts are those of an image that has been replaced since.
        is_same = isinstance(kept, dict) and {**kept, **key} == kept
        return str(kept["sha256"]) if is_same else ""

    def _computed(self, key: dict[str, Any]) -> str:
        if key["bytes"] >= _LARGE:
            self._report(f"SHA-256 of {key['path']}, {key['bytes'] / 1e9:.1f} GB")
        digest = hash_file(key["path"])
        if _key(key["path"]) != key:
            return ""
        # If the disk is full or read-only, only the next run loses: it computes the digest again.
        with contextlib.suppress(OSError):
            self._keep(key, digest)
        return digest

    def _keep(self, key: dict[str, Any], digest: str) -> None:
        self._cache.mkdir(parents=True, exist_ok=True)
        atomic.write_file(self._file(key), json_codec.dumps({**key, "sha256": digest}))

    def _file(self, key: dict[str, Any]) -> Path:
        name = hashlib.sha256(os.fsencode(key["path"])).hexdigest()[:16]
        return self._cache / f"image-{os.geteuid()}-{name}.json"


def _key(path: str) -> dict[str, Any] | None:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        return None
    return {"path": path, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def hash_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file of any size, in hexadecimal digits."""
    content = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with open_regular(path, buffering=0, any_link=True) as stream:
        while count := stream.readinto(buffer):  # type: ignore[attr-defined]
            content.update(buffer[:count])
    return content.hexdigest()
