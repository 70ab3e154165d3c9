"""Small results of other tools, as Python values, and reading them without a file."""

from __future__ import annotations

import json
from typing import Any

from oellm.frameworks.reading.detect import read_result
from oellm.metrics.scored_rows import ScoredRow

# As lm-eval 0.3 writes it: metrics have no filter.
OLD: dict[str, Any] = {
    "results": {
        "piqa": {"acc": 0.75, "acc_stderr": 0.01, "acc_norm": 0.5, "acc_norm_stderr": 0.02},
        "lambada": {"ppl": 9.5, "ppl_stderr": 0.25, "acc": 0.5, "acc_stderr": 0.03},
    },
    "versions": {"piqa": 0, "lambada": 1},
    "config": {
        "model": "hf-causal",
        "model_args": "pretrained=org/m,revision=step5",
        "num_fewshot": 3,
        "limit": None,
    },
}

SCORE = {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.125}

EVALPLUS = {
    "hash": "0",
    "date": "2025-01-01 10:00",
    "eval": {
        "HumanEval/0": [{"base_status": "pass", "plus_status": "fail"}],
        "HumanEval/1": [{"base_status": "fail", "plus_status": "fail"}],
    },
}


def read(document: Any, name: str = "results.json", model: str = "") -> list[ScoredRow]:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    found = read_result(content, f"/nowhere/dir/{name}", model)
    assert found is not None
    return found


def result(**config: Any) -> dict[str, Any]:
    """Return a result of lm-eval today with some keys of `config`."""
    return {"results": {"arc": SCORE}, "configs": {"arc": {}}, "config": config}
