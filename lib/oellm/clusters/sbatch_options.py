"""Further sbatch options: which names may be given, and why some may not."""

from __future__ import annotations

import re

_NAME = re.compile(r"[a-z][a-z0-9-]*")

_ENVIRONMENT = "nothing of the submitting shell reaches a job; the setting env gives it variables"
_LOGS = "logs are looked for in slurm_logs/ of the run"
_SHAPE = "a job is one task on one node; whole_node and gpus_per_node say what it has there"
_REQUEUE = "a job that runs out of time requeues itself"
_ANSWER = "oe-submit reads what sbatch answers"
# Options that the run itself depends on, with what depends on it.
_REFUSED = {
    "array": "oe-submit chooses the elements of each job array",
    "error": _LOGS,
    "export": _ENVIRONMENT,
    "export-file": _ENVIRONMENT,
    "job-name": "people find the jobs of a run by it",
    "no-requeue": _REQUEUE,
    "nodes": _SHAPE,
    "ntasks": _SHAPE,
    "ntasks-per-node": _SHAPE,
    "output": _LOGS,
    "parsable": _ANSWER,
    "requeue": _REQUEUE,
    "signal": "the setting stop_before says when a job is told to stop",
    "test-only": _ANSWER,
    "time": "the plan chooses it; the setting time_limit is the most that it may be",
    "wait": _ANSWER,
    "wrap": "the batch script is the job",
}


def reason_against(name: str) -> str:
    """Return why an option cannot be given in the setting sbatch, nothing where it can."""
    if not _NAME.fullmatch(name):
        return f"expected the long name of an sbatch option without its dashes, got {name!r}"
    # sbatch also takes the beginning of a name for it.
    for refused, reason in _REFUSED.items():
        if refused.startswith(name):
            return f"--{refused} is not to be changed: {reason}"
    return ""
