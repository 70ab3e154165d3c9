"""lm-eval's samples: one JSON line for each document and filter.

oe-run-task writes them with the additional key `task` to samples/EVAL_ID.jsonl of a run directory.
lm-eval itself writes samples_TASK_TIME.jsonl beside results_TIME.json. In spring 2024 the name
ended with .json, and a line had the document and its target without their digests.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from oellm.core import json_codec
from oellm.frameworks.interface import Sample

# Keys that a line must still have, besides those of its metrics, if only a part of it is parsed.
_NEEDED = {"doc_id", "doc_hash", "target_hash", "metrics"}


def parse_sample(line: bytes, task: str) -> Sample:
    """Parse one line; `task` is the task of a line that names none.

    Raises ValueError, TypeError, LookupError or AttributeError if the line is no sample.
    """
    sample = _parse_line(line, _NEEDED if task else {*_NEEDED, "task"})
    return Sample(
        task=sample.get("task", task),
        filter=sample.get("filter", "none"),
        # Without its number: documents that were inserted or left out must not shift the others.
        document=_digests(sample),
        # Beside its scores, a line has its metrics as keys; a document may lack some of them.
        scores=sample,
    )


def sample_file_names(result_name: str, task: str) -> list[str]:
    """Return the possible names of a task's samples beside a result file results_TIME.json.

    Returns none for a task given by its path: lm-eval names its samples after something else.
    """
    if "/" in task:
        return []
    time = os.path.splitext(result_name)[0].rpartition("_")[2]
    return [f"samples_{task}_{time}.jsonl", f"samples_{task}_{time}.json"]


def _digests(sample: Mapping[str, Any]) -> tuple[str, str]:
    """Return the digests of a sample's document and target; computes those that are missing."""
    if "doc_hash" in sample:
        return sample["doc_hash"], sample["target_hash"]
    # As lm-eval itself has computed them since 0.4.3.
    document = json.dumps(sample["doc"], indent=2, ensure_ascii=False)
    return _digest(document), _digest(str(sample["target"]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def group_members(native: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the members of each group of a native result.

    Raises TypeError, LookupError or AttributeError if the result does not have them.
    """
    groups = native["group_subtasks"].items()
    return {group: [str(member) for member in members] for group, members in groups}


def _parse_line(line: bytes, needed: set[str]) -> dict[str, Any]:
    """Parse a line, if possible without prompts and answers, which are most of it.

    These are between the keys `doc` and `filter`. Inside a JSON string each quote is preceded by a
    backslash, so no text of a prompt looks like a key.
    """
    start, end = line.find(b'"doc":'), line.rfind(b'"filter":')
    if 0 < start < end:
        try:
            short: dict[str, Any] = json_codec.loads(line[:start] + line[end:])
            if short.keys() >= needed and short.keys() >= set(short["metrics"]):
                return short
        except (ValueError, TypeError):
            pass
    # The keys are in another order than lm-eval's, or some are missing.
    sample: dict[str, Any] = json_codec.loads(line)
    return sample
