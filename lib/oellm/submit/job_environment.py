"""The environment of a job on this machine: as little of ours as a job under Slurm gets."""

from __future__ import annotations

import re
from collections.abc import Mapping

from oellm.core.redaction import is_secret
from oellm.runs.provenance import SLURM_VARIABLES

# What a login shell sets on each machine, and what the setup lines need to load modules. Tokens and
# passwords have other names: a job needs none, and whatever it prints is in a log.
_KEPT = frozenset(
    (
        *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "TERM", "TMPDIR", "TZ", "LANG", "LANGUAGE"),
        *("LD_LIBRARY_PATH", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "OELLM_CACHE_DIR", "OELLM_DEBUG"),
        *("MODULEPATH", "MODULESHOME", "BASH_ENV", "BASH_FUNC_module%%", "BASH_FUNC_ml%%"),
        *("CUDA_HOME", "CUDA_PATH", "ROCM_PATH", "OMP_NUM_THREADS"),
        *SLURM_VARIABLES,
    )
)
_PREFIXES = ("LC_", "LMOD_")
# We may run inside the user's own job; the script must not requeue that job.
_DROPPED = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")
_VARIABLE = re.compile(r"\w+", re.ASCII)


def job_environment(environ: Mapping[str, str], stage_dir: str) -> dict[str, str]:
    """Return the part of an environment that a job gets; `stage_dir` may name further variables."""
    wanted = _KEPT | set(_VARIABLE.findall(stage_dir))
    return {
        name: value
        for name, value in environ.items()
        if (name in wanted or name.startswith(_PREFIXES))
        and name not in _DROPPED
        and not is_secret(name, value)
    }
