"""The meaning of sbatch's errors: no room in the queue, or a setting that the cluster refuses."""

from __future__ import annotations

import re

from oellm.runs.run_directory import Run

# Slurm has one message for all limits of the accounting. The name of the limit, such as
# QOSMaxSubmitJobPerUserLimit or AssocGrpSubmitJobsLimit, comes before it; old versions omit it.
_POLICY = "Job violates accounting/QOS policy"
_POLICY_LIMIT = re.compile(r"\b(?:Assoc|QOS)(\w+Limit)\b", re.ASCII)
# Parts of sbatch's messages, and the settings that they are about.
_SETTINGS = (
    ("account", ("account",)),
    ("partition", ("partition",)),
    ("qos", ("qos",)),
    ("time limit", ("time_limit",)),
    ("wall", ("time_limit",)),
    ("reservation", ("reservation",)),
    ("feature", ("gpu_constraint",)),
    ("node name", ("exclude",)),
    ("gres", ("gpu_gres",)),
    ("memory", ("mem",)),
    ("cpu count", ("cpus_per_gpu", "cpus_per_task")),
    ("node configuration", ("gpu_gres", "cpus_per_gpu", "cpus_per_task", "mem")),
)


def is_lack_of_room(error: str) -> bool:
    """Return whether sbatch refuses because of the number of jobs in the queue."""
    if _POLICY not in error:
        return False
    limit = _POLICY_LIMIT.search(error)
    return limit is None or "Submit" in limit.group(1)


def find_settings(error: str) -> list[str]:
    """Return the settings that an error of sbatch is about; none if unknown."""
    limit = _POLICY_LIMIT.search(error)
    text = (limit.group(1) if limit else error).lower()
    return list(
        dict.fromkeys(key for part, members in _SETTINGS if part in text for key in members)
    )


def advise(error: str, run: Run) -> str | None:
    """Return how to change what sbatch refuses, None if that is not known."""
    keys = find_settings(error)
    if not keys:
        return None
    settings = ", ".join(f"{key}={run.setting(key) or ''}" for key in keys)
    options = " ".join(f"--set={key}=…" for key in keys)
    return (
        f"the run has {settings}; to change that: "
        f"oe-missing {run.path} | oe-render {options} | oe-submit"
    )
