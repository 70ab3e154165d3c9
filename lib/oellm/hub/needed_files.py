"""Files at plain addresses that programs need, kept in the shared cache by their digests.

They lie at `hf_home/oellm/files/SHA256/NAME`. A name counts only if its content has the digest.
"""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from oellm.core import atomic
from oellm.core.paths import make_shared_directory
from oellm.core.regular_files import open_regular

_TIMEOUT_S = 60
_PART = 2**20


class DownloadError(Exception):
    """A file cannot be downloaded; the text says which one, and why."""


def needed_path(environ: Mapping[str, str], name: str, sha256: str) -> Path:
    """Return the path that a file has in the cache below HF_HOME, whether it is there or not."""
    home = environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    return Path(home, "oellm", "files") / sha256 / name


def has_content(path: Path, sha256: str) -> bool:
    """Return whether a regular file has the content with a digest."""
    try:
        with open_regular(path) as stream:
            return _digest(stream) == sha256
    except OSError:
        return False


def require_file(path: Path, sha256: str) -> None:
    """Raise FileNotFoundError unless a file is there and has the content with the digest."""
    if not has_content(path, sha256):
        raise FileNotFoundError(f"{path.name} is not in the cache: {path}")


def download_file(url: str, path: Path, sha256: str) -> None:
    """Download a file, unless it is there; it gets its name once it is complete.

    Raises DownloadError if the server does not give it, or gives something else, and OSError if it
    cannot be written.
    """
    if has_content(path, sha256):
        return
    make_shared_directory(path.parent)

    def write(stream: BinaryIO) -> None:
        digest = hashlib.sha256()
        for part in _download(url, path):
            digest.update(part)
            stream.write(part)
        if digest.hexdigest() != sha256:
            found = digest.hexdigest()
            raise DownloadError(f"{url}: expected SHA-256 {sha256}, got {found}")

    atomic.write_file_with(path, write)


def _download(url: str, path: Path) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            while part := answer.read(_PART):
                yield part
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", "") or error
        raise DownloadError(f"cannot download {url}: {reason}; it belongs at {path}") from error


def _digest(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while part := stream.read(_PART):
        digest.update(part)
    return digest.hexdigest()
