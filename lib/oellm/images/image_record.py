"""What is known of an image on disk: the record `STEM.sif.json` beside it."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from oellm.clusters.image_digest import ImageDigests
from oellm.core import atomic, json_codec
from oellm.core.regular_files import STATE, read_regular
from oellm.errors import OellmError


class TakenPlaceError(OellmError):
    """Something else is where an image or its record must be."""


class StoredImage(NamedTuple):
    """The record of an image (schema.json, table `image_record`).

    Attributes:
        name: The name of its definition, or of what was pulled.
        digest: The SHA-256 of the file, in hexadecimal digits.
        size: Its size in bytes.
        mtime_ns: When it was changed last; with `size` it tells whether it is still the same.
        labels: Its labels.
        source: `definition`, or the address that it was pulled from.
        inputs: What it was made of, as `BuildInputs.to_json` says; empty if it was pulled.
        seconds: How long making it took.
        finished: When that was, a UTC time.
    """

    name: str
    digest: str
    size: int
    mtime_ns: int
    labels: Mapping[str, str]
    source: str
    inputs: Mapping[str, Any]
    seconds: float
    finished: str


def record_path(image: Path) -> Path:
    """Return where the record of an image is."""
    return image.with_name(f"{image.name}.json")


def log_path(image: Path) -> Path:
    """Return where the log of the last build of an image is."""
    return image.with_name(f"{image.name}.log")


def read_record(image: Path) -> StoredImage | None:
    """Return the record of an image; None if it has none that can be read."""
    return _read(record_path(image))


def _read(path: Path) -> StoredImage | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        found = StoredImage(**json_codec.loads(read_regular(path, STATE)))
        is_sound = (
            re.fullmatch("[0-9a-f]{64}", found.digest)
            and isinstance(found.size, int)
            and isinstance(found.mtime_ns, int)
            and all(isinstance(each, dict) for each in (found.labels, found.inputs))
            and all(isinstance(each, str) for each in (found.name, found.source, found.finished))
        )
        return found if is_sound else None
    return None


def is_unchanged(image: Path, record: StoredImage) -> bool:
    """Return whether a file has the size and the time of change that its record has.

    If not, it may still have the content: it may have been copied.
    """
    status = image.stat()
    return (status.st_size, status.st_mtime_ns) == (record.size, record.mtime_ns)


def find_other_digest(image: Path, record: StoredImage, digests: ImageDigests) -> str | None:
    """Return the SHA-256 of an image that differs from its record; None if it is the same.

    The image is read only if its size or time of change differs. Return an empty text if it cannot
    be read.
    """
    if is_unchanged(image, record):
        return None
    found = digests.describe_image("", image).sha256 or ""
    return None if found == record.digest else found


def require_place(image: Path) -> None:
    """Raise TakenPlaceError if a new image or its record could not take its name."""
    for path in (image, record_path(image)):
        try:
            status, directory = path.lstat(), path.parent.stat()
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(status.st_mode):
            raise TakenPlaceError(f"{path} is a directory: move it away, or use another --dir")
        is_sticky = directory.st_mode & stat.S_ISVTX
        if is_sticky and os.geteuid() not in (0, status.st_uid, directory.st_uid):
            raise TakenPlaceError(f"{path} can be replaced by its owner only: use another --dir")


def recover_record(image: Path) -> None:
    """Put the record of an image in place if whoever made the image was killed before that.

    Only who has the lock of the image may call it.
    """
    for staged in image.parent.glob(f".{glob.escape(record_path(image).name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if (record := _read(staged)) and is_unchanged(image, record):
                os.replace(staged, record_path(image))


def put_in_place(attempt: Path, image: Path, record: StoredImage) -> None:
    """Give a whole image its name, and write its record.

    A process that is killed in between leaves the record under another name, for recover_record.
    """
    content = json_codec.dumps(record._asdict(), indent=True) + b"\n"
    staged = atomic.staging_path(record_path(image), atomic.new_attempt())
    atomic.stage(staged, lambda stream: stream.write(content))
    try:
        os.replace(attempt, image)
        os.replace(staged, record_path(image))
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
