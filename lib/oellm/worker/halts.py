"""Why a worker ends although nobody asked it to: the machine lets it evaluate nothing more.

Its rows go back: they get no failure, and the next worker evaluates them.
"""

from __future__ import annotations

import errno
import os
import shutil
from typing import NamedTuple

from oellm.core.display import format_size

# A disk that takes nothing more: full, beyond the quota, or turned read-only after an error.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Halt(NamedTuple):
    """Why a worker ends.

    Attributes:
        reason: The reason, for people.
        is_unusable: Whether this node cannot evaluate the rows; another one may.
        hint: What else the user may do.
    """

    reason: str
    is_unusable: bool = False
    hint: str = ""


def describe_full_disk(error: BaseException | None) -> str:
    """Return which file a full disk did not take, empty if no full disk is behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return describe_storage(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return ""


def describe_storage(error: OSError) -> str:
    """Return what could not be read or written, and why: the file and the reason.

    For a full disk, the room in the file's directory comes last.
    """
    reason = error.strerror or str(error)
    path = os.fspath(error.filename) if error.filename is not None else ""
    if not isinstance(path, str) or not path:
        return reason
    is_full = error.errno in _FULL
    room = _describe_room(os.path.dirname(os.path.abspath(path))) if is_full else ""
    return f"{path}: {reason}{room}"


def _describe_room(directory: str) -> str:
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    try:
        usage = shutil.disk_usage(directory)
    except OSError:
        return ""
    return f" ({directory} has {format_size(usage.free)} of {format_size(usage.total)} free)"
