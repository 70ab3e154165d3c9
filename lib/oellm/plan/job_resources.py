"""What a job asks of its node, and how many workers run there."""

from __future__ import annotations

import re

from oellm.clusters.cluster import Cluster
from oellm.errors import UsageError
from oellm.runs.run_record import Array

# The beginnings of the options of sbatch that ask for GPUs, or for something beside each.
_GPU_OPTION = re.compile("gpu|gres|cpus-per-gpu|mem-per-gpu")


def require_node_for(cluster: Cluster, tp: int) -> None:
    """Raise ValueError if no node of the cluster can hold a model split over `tp` GPUs."""
    available = cluster.number("gpus_per_node")
    if available is None or tp <= max(available, 1):
        return
    gpus = f"{available} GPUs" if available else "no GPU"
    raise ValueError(
        f"expected at most {max(available, 1)}, got {tp}: a node of {cluster.text('name')} has "
        f"{gpus} (setting gpus_per_node), and a worker cannot use more than one"
    )


def count_workers(cluster: Cluster, tp: int) -> int:
    """Return how many workers, each with `tp` GPUs, a job has.

    Raises UsageError if not even one fits, or if the GPUs of a node are not known.
    """
    try:
        require_node_for(cluster, tp)
    except ValueError as error:
        raise UsageError(f"tp: {error}") from None
    if not cluster.switch("whole_node"):
        return 1
    available = cluster.number("gpus_per_node")
    if available is None:
        raise UsageError(
            "setting whole_node needs gpus_per_node, which is not set: set it with "
            "--set gpus_per_node=… or OELLM_GPUS_PER_NODE"
        )
    return max(1, available // tp)


def is_beside_gpus(cluster: Cluster, array: Array) -> bool:
    """Return whether jobs need no GPU on a cluster whose other jobs have GPUs.

    What the settings say of the GPUs' partition does not concern them.
    """
    return array.needs_no_gpu and cluster.number("gpus_per_node") != 0


def gpus_of_worker(cluster: Cluster, tp: int) -> int:
    """Return the GPUs of one worker; 0 if the cluster's jobs have none."""
    return 0 if cluster.number("gpus_per_node") == 0 else tp


def gpus_of_job(cluster: Cluster, array: Array) -> int:
    """Return the GPUs that a job of the array asks for: those of its workers, or of the node."""
    if array.gpus and cluster.switch("whole_node"):
        return cluster.number("gpus_per_node") or 0
    return array.gpus * array.workers


def gres_of_job(cluster: Cluster, array: Array) -> str:
    """Return the generic resources that a job asks for; empty if it asks for none.

    Raises UsageError if the setting gpu_gres names more than the GPUs.
    """
    name, number = cluster.text("gpu_gres"), gpus_of_job(cluster, array)
    if not name or not number:
        return ""
    if "," in name:
        raise UsageError(
            f"setting gpu_gres: expected the name of the GPUs alone, got {name!r}; "
            "use --sbatch gres=… to ask for other resources too"
        )
    # Earlier versions had the number in the setting, too.
    return f"{re.sub(r':[0-9]+$', '', name)}:{number}"


def cpus_of_job(cluster: Cluster, array: Array) -> int | None:
    """Return the CPU cores that a job asks for, None for Slurm's own default."""
    of_task, of_gpu = cluster.number("cpus_per_task"), cluster.number("cpus_per_gpu")
    gpus = gpus_of_job(cluster, array)
    if gpus and of_gpu is not None:
        return of_gpu * gpus
    if of_task is not None:
        return of_task
    return of_gpu if array.cpus is None else array.cpus


def memory_of_job(cluster: Cluster, array: Array) -> str:
    """Return the memory that a job asks for, as Slurm writes it; 0 means all of the node's."""
    if array.memory_gib is not None:
        return cluster.text("mem") or f"{array.memory_gib}G"
    return cluster.text("mem") or ("0" if cluster.switch("whole_node") else "")


def partition_of(cluster: Cluster, array: Array) -> str:
    """Return the partition of the jobs; empty for Slurm's default."""
    without_gpus = cluster.number("gpus_per_node") == 0 or array.needs_no_gpu
    return (without_gpus and cluster.text("cpu_partition")) or cluster.text("partition")


def sbatch_options_of(cluster: Cluster, array: Array) -> dict[str, str]:
    """Return the further options of the setting sbatch, without those that ask for GPUs."""
    options = cluster.mapping("sbatch")
    if not is_beside_gpus(cluster, array):
        return options
    return {name: text for name, text in options.items() if not _GPU_OPTION.match(name)}
