"""What sbatch's refusals mean: lack of room, or a setting that the cluster does not accept."""

from __future__ import annotations

import re

from oellm.runs.run_directory import Run

# Slurm's one message for all limits of accounting comes after the name of the limit, such as
# QOSMaxSubmitJobPerUserLimit or AssocGrpSubmitJobsLimit; old versions have the message alone.
_POLICY = "Job violates accounting/QOS policy"
_POLICY_REASON = re.compile(r"\b(?:Assoc|QOS)(\w+Limit)\b")
# Parts of its messages, and the settings that they are about.
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


def is_lack_of_room(words: str) -> bool:
    """Return whether sbatch refuses for the number of jobs in the queue."""
    if _POLICY not in words:
        return False
    reason = _POLICY_REASON.search(words)
    return reason is None or "Submit" in reason.group(1)


def advice(words: str, run: Run) -> str:
    """Return how to change what sbatch refuses, nothing where that is not known."""
    reason = _POLICY_REASON.search(words)
    text = (reason.group(1) if reason else words).lower()
    keys = dict.fromkeys(key for part, members in _SETTINGS if part in text for key in members)
    if not keys:
        return ""
    now = ", ".join(f"{key}={run.setting(key) or ''}" for key in keys)
    options = " ".join(f"--set={key}=…" for key in keys)
    return (
        f"\nthe run has {now}; to change that: "
        f"oe-missing {run.path} | oe-render {options} | oe-submit"
    )
