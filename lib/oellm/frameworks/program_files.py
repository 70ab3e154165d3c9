"""Reads the files that programs leave in their outputs, and tells what a program has done.

Programs that a model wrote may have written these files, too, or in their place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oellm.core import json_codec
from oellm.core.regular_files import STATE, read_regular
from oellm.frameworks.program import InvalidOutputError
from oellm.manifest.rows import Row
from oellm.runs.result_record import RowUsage

# A launcher writes the version of its program into this file of the output.
VERSION = "version.txt"
_VERSION_TEXT = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+!_ -]{0,99}")


def read_json(path: Path, patch: Callable[[bytes], bytes] = bytes) -> Any:
    """Return the content of a JSON file; raises InvalidOutputError if it is damaged or missing.

    `patch` may make JSON of what a program writes in its place.
    """
    try:
        return json_codec.loads(patch(read_regular(path)))
    except FileNotFoundError:
        raise InvalidOutputError(f"it has no file {path.name}") from None
    except (OSError, ValueError) as error:
        raise InvalidOutputError(f"{path.name}: {error}") from None


def read_version(output: Path, expected: str) -> str:
    """Return the version of the program that wrote an output; `expected` if it does not say."""
    try:
        text = read_regular(output / VERSION, STATE).decode("ascii").strip()
    except (OSError, ValueError):
        return expected
    return text if _VERSION_TEXT.fullmatch(text) else expected


def describe_usage(row: Row, *, documents: int, requests: int) -> RowUsage:
    """Return what is known of what a program's model has done for a row."""
    return RowUsage(
        documents=documents,
        documents_per_s=None,
        requests=requests,
        requests_kept=0,
        requests_per_s=None,
        tokens=None,
        tokens_per_s=None,
        batch_size=row.typed.batch_size,
        peak_gpu_bytes=None,
    )
