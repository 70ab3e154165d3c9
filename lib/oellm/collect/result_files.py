"""Reads result files: those of a run's rows, and those of any tool."""

from __future__ import annotations

from oellm.core.regular_files import TooLargeFileError, read_regular
from oellm.metrics import scored_rows
from oellm.metrics.scored_rows import ScoredRow
from oellm.runs.result_file import Result, check_result, parse_record
from oellm.runs.run_directory import RESULTS


def read_row(run_dir: str, eval_id: str) -> ScoredRow:
    """Read the scores of a run's row; raises as `read_valid_result` does."""
    return scored_rows.read_scored_row(read_valid_result(run_dir, eval_id), run_dir)


def read_valid_result(run_dir: str, eval_id: str) -> Result:
    """Read our part of the result of a run's row, without its provenance.

    Raises FileNotFoundError if there is none, and ValueError with the reason if it is not valid.
    """
    result: Result = parse_record(read_regular(result_path(run_dir, eval_id)))
    check_result(result, eval_id)
    return result


def result_path(run_dir: str, eval_id: str) -> str:
    """Return where the result of a run's row is."""
    return f"{run_dir}/{RESULTS}/{eval_id}.json"


def read_file(path: str, model: str = "") -> list[ScoredRow] | None:
    """Read a result outside of runs, ours or another tool's; return None for other files.

    `model` is the model of a result that names none. Raises OSError, and ValueError with the reason
    if the result is not valid.
    """
    from oellm.frameworks.reading.detect import is_result_name, read_result

    try:
        content = read_regular(path)
    except TooLargeFileError:
        # Samples beside a result may be as large as they like.
        if is_result_name(path):
            raise
        return None
    return read_result(content, path, model)
