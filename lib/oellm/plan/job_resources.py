"""What a job asks of its node, and how many workers run there."""

from __future__ import annotations

import re

from oellm.clusters.cluster import Cluster
from oellm.errors import UsageError
from oellm.runs.run_directory import Array


def reason_against(cluster: Cluster, tp: int) -> str:
    """Return why no node of the cluster can hold a model split over `tp` GPUs, or nothing."""
    there = cluster.number("gpus_per_node")
    if there is None or tp <= max(there, 1):
        return ""
    gpus = f"{there} GPUs" if there else "no GPU"
    return (
        f"expected at most {max(there, 1)}, got {tp}: a node of {cluster.text('name')} has {gpus} "
        "(setting gpus_per_node), and a worker has one node"
    )


def workers(cluster: Cluster, tp: int) -> int:
    """Return how many workers, each with `tp` GPUs, a job has.

    Raises UsageError where not even one fits, or where it is not known how many do.
    """
    if reason := reason_against(cluster, tp):
        raise UsageError(f"tp: {reason}")
    if not cluster.switch("whole_node"):
        return 1
    there = cluster.number("gpus_per_node")
    if there is None:
        raise UsageError(
            "setting whole_node needs gpus_per_node, which is not set: set it with "
            "--set gpus_per_node=… or OELLM_GPUS_PER_NODE"
        )
    return max(1, there // tp)


def gpus_of_worker(cluster: Cluster, tp: int) -> int:
    """Return the GPUs of one worker; 0 where the cluster's jobs have none."""
    return 0 if cluster.number("gpus_per_node") == 0 else tp


def gpus(cluster: Cluster, array: Array) -> int:
    """Return the GPUs that a job of the array asks for: those of its workers, or of the node."""
    if array.gpus and cluster.switch("whole_node"):
        return cluster.number("gpus_per_node") or 0
    return array.gpus * array.workers


def gres(cluster: Cluster, array: Array) -> str:
    """Return the generic resources that a job asks for; empty where it asks for none.

    Raises UsageError where the setting gpu_gres names more than the GPUs.
    """
    name, number = cluster.text("gpu_gres"), gpus(cluster, array)
    if not name or not number:
        return ""
    if "," in name:
        raise UsageError(
            f"setting gpu_gres: expected the name of the GPUs alone, got {name!r}; "
            "--sbatch gres=… asks for other resources, too"
        )
    # Once it was a setting together with their number.
    return f"{re.sub(r':[0-9]+$', '', name)}:{number}"


def cpus(cluster: Cluster, array: Array) -> int | None:
    """Return the CPU cores that a job asks for, None for what Slurm gives by itself."""
    of_job, of_gpu = cluster.number("cpus_per_task"), cluster.number("cpus_per_gpu")
    if of_job is not None or of_gpu is None:
        return of_job
    return of_gpu * max(1, gpus(cluster, array))


def memory(cluster: Cluster) -> str:
    """Return the memory that a job asks for, as Slurm writes it; 0 is all that the node has."""
    return cluster.text("mem") or ("0" if cluster.switch("whole_node") else "")


def partition(cluster: Cluster) -> str:
    """Return the partition of the jobs; empty where Slurm chooses it."""
    without_gpus = cluster.number("gpus_per_node") == 0
    return (without_gpus and cluster.text("cpu_partition")) or cluster.text("partition")
