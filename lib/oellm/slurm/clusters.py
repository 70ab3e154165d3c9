"""Slurm's clusters: behind one login node there may be several, and each knows only its own jobs.

`sbatch --clusters=NAME` submits to another than the login node's own. Then each later question must
name that cluster, too: squeue, sacct, scancel and scontrol ask the login node's own otherwise, and
find nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from oellm.errors import InputError

# The login node's own cluster, which needs no option.
OWN = ""

# sbatch takes the beginning of an option's name, too.
_OPTION = "clusters"
_SHORTEST = "cl"
_VARIABLES = ("SBATCH_CLUSTERS", "SLURM_CLUSTERS")


def find_clusters(options: Mapping[str, object], environment: Mapping[str, str]) -> list[str]:
    """Return the clusters from which sbatch chooses, [OWN] for the login node's own.

    `options` are the sbatch options of a run. If they name none, the variables count that sbatch
    itself would read. Raises InputError for `all`, which names none.
    """
    texts = [
        str(value)
        for name, value in options.items()
        if _OPTION.startswith(name) and name.startswith(_SHORTEST)
    ]
    texts += [environment[name] for name in _VARIABLES if environment.get(name)]
    names = [name.strip() for name in texts[0].split(",")] if texts else []
    if "all" in names:
        raise InputError(
            "expected the names of clusters, got 'all': jobs must be found again", "clusters"
        )
    return list(dict.fromkeys(filter(None, names))) or [OWN]


def cluster_option(*names: str) -> list[str]:
    """Return the option by which a command of Slurm goes to these clusters; none for OWN."""
    named = list(filter(None, names))
    return [f"--clusters={','.join(named)}"] if named else []
