"""Result files: of a run's rows, and of whatever made them."""

from __future__ import annotations

import functools
import os
from typing import Any

from oellm.core import json_codec
from oellm.metrics import scored_rows
from oellm.metrics.scored_rows import ScoredRow
from oellm.runs.result_store import Result, problem

# Bytes that are read at a time: most results are smaller.
_PART = 2**16
# How our part of a result begins and ends in the file that the worker writes: it is the last key,
# and JSON has no line ends inside its strings.
_OURS = b'\n  "oellm": {'
_END = b"\n  }\n}\n"
_PROVENANCE, _METRICS = b'\n    "provenance": {', b'\n    "metrics": ['


def of_row(run_dir: str, eval_id: str) -> ScoredRow:
    """Read the scores of a run's row; raises as `valid_result` does."""
    return scored_rows.read_scored_row(valid_result(run_dir, eval_id), run_dir)


def valid_result(run_dir: str, eval_id: str) -> Result:
    """Read our part of the result of a run's row, without its provenance.

    Raises FileNotFoundError if there is none, and ValueError with the reason if it is not valid.
    """
    result: Result = _our_part(_content(path_of(run_dir, eval_id)))
    if reason := problem(result, eval_id):
        raise ValueError(reason)
    return result


def path_of(run_dir: str, eval_id: str) -> str:
    """Return where the result of a run's row is."""
    return f"{run_dir}/results/{eval_id}.json"


def of_file(path: str) -> list[ScoredRow] | None:
    """Read a file that is in no run: a result of ours, or of another tool; None for other JSON.

    Raises OSError, and ValueError with the reason where it is not valid.
    """
    from oellm.frameworks.reading.detect import read_foreign_result

    content = _content(path)
    if b'"oellm"' in content:
        result = _parsed(content)
        if isinstance(result, dict) and "oellm" in result:
            if reason := problem(result):
                raise ValueError(reason)
            return [scored_rows.read_scored_row(result, path)]
    return read_foreign_result(content, path)


def _content(path: str) -> bytes:
    """Return what a file holds, in half the time of `open`, which prepares for more than this."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        parts = iter(functools.partial(os.read, descriptor, _PART), b"")
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _our_part(content: bytes) -> Any:
    """Return a result, of which the rest is left out where it is as the worker writes it.

    The framework's own result is most of a file, and provenance most of our part. They are looked
    at by their ends only, and for the zeros that a crash of the machine may leave.
    """
    start = content.rfind(_OURS)
    if start > 0 and content[:2] == b"{\n" and content.endswith(_END) and b"\0" not in content:
        ours = content[start + len(_OURS) - 1 : -3]
        begin, end = ours.find(_PROVENANCE), ours.find(_METRICS)
        if 0 < begin < end:
            ours = ours[:begin] + ours[end:]
        try:
            return {"oellm": json_codec.loads(ours)}
        except ValueError:
            pass
    return _parsed(content)


def _parsed(content: bytes) -> Any:
    if not content.strip():
        raise ValueError("it is empty")
    try:
        return json_codec.loads(content)
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
