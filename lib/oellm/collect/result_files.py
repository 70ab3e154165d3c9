"""Reads result files: those of a run's rows, and those of any tool."""

from __future__ import annotations

import functools
import os

from oellm.metrics import scored_rows
from oellm.metrics.scored_rows import ScoredRow
from oellm.runs.result_file import KEY, Result, check_result, parse_record, parse_result
from oellm.runs.run_directory import RESULTS

# Bytes of one read; most results are smaller.
_PART = 2**16
# Our key as a file spells it.
_KEY = f'"{KEY}"'.encode()


def read_row(run_dir: str, eval_id: str) -> ScoredRow:
    """Read the scores of a run's row; raises as `read_valid_result` does."""
    return scored_rows.read_scored_row(read_valid_result(run_dir, eval_id), run_dir)


def read_valid_result(run_dir: str, eval_id: str) -> Result:
    """Read our part of the result of a run's row, without its provenance.

    Raises FileNotFoundError if there is none, and ValueError with the reason if it is not valid.
    """
    result: Result = parse_record(_content(result_path(run_dir, eval_id)))
    check_result(result, eval_id)
    return result


def result_path(run_dir: str, eval_id: str) -> str:
    """Return where the result of a run's row is."""
    return f"{run_dir}/{RESULTS}/{eval_id}.json"


def read_file(path: str) -> list[ScoredRow] | None:
    """Read a result outside of runs, ours or another tool's; return None for other JSON.

    Raises OSError, and ValueError with the reason if it is not valid.
    """
    from oellm.frameworks.reading.detect import read_foreign_result

    content = _content(path)
    if _KEY in content:
        result = parse_result(content)
        if isinstance(result, dict) and KEY in result:
            check_result(result)
            return [scored_rows.read_scored_row(result, path)]
    return read_foreign_result(content, path)


def _content(path: str) -> bytes:
    """Return what a file holds.

    For a result of 20 kB this takes 6 µs of processor time and `open` takes 10; all that oe-collect
    does with the result takes 40 (Python 3.11).
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        content = os.read(descriptor, _PART)
        if len(content) == _PART:
            content += b"".join(iter(functools.partial(os.read, descriptor, _PART), b""))
        return content
    finally:
        os.close(descriptor)
