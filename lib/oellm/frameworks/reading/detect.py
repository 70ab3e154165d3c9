"""Result files of other tools: asks each framework's reader whether it wrote the file."""

from __future__ import annotations

import json
from typing import Any

from oellm import frameworks
from oellm.core import json_codec
from oellm.metrics.scored_rows import ScoredRow


def read_foreign_result(content: bytes, path: str) -> list[ScoredRow] | None:
    """Return the rows of another tool's result file, one for each task or group asked for.

    Returns None for JSON that is no known result, for a file that another file stands for, and for
    a result of oe-run-task. `path` names the file; some tools give the model or the time only
    there. Metrics without a finite value are left out, and the remarks of their row say so.
    Raises ValueError, with the reason, if the file is damaged or has no metric at all.
    """
    document = _parse_json(content)
    if not isinstance(document, dict) or "oellm" in document:
        return None
    for reader in frameworks.result_readers():
        rows = reader.read_scored_rows(document, path)
        if rows is not None:
            if not any(row.scores for row in rows):
                raise ValueError("no metric has a finite value")
            return rows
    return None


def _parse_json(content: bytes) -> Any:
    """Return the JSON of a file; also accepts the NaN and Infinity that Python writes."""
    if not content.strip():
        raise ValueError("the file is empty")
    try:
        return json_codec.loads(content)
    except ValueError:
        pass
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is not JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
