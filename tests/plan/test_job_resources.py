"""What jobs ask of a node, and how many workers run there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm.clusters.cluster import Cluster
from oellm.errors import UsageError
from oellm.plan import batch_script, job_resources
from oellm.plan.batch_script import ScriptFrame
from oellm.runs.run_record import Array

RUN_DIR = Path("/run")
BASE: dict[str, Any] = {"name": "here", "venv": "/v", "gpu_gres": "gpu", "cpus_per_gpu": 8}


def cluster(**settings: Any) -> Cluster:
    return Cluster(BASE | settings, {})


def array(described: Cluster, tp: int = 1) -> Array:
    """Return the array of a run with one element."""
    workers = job_resources.count_workers(described, tp)
    return Array("s", "lm_eval", job_resources.gpus_of_worker(described, tp), workers, 1, 0)


def options(tp: int = 1, **settings: Any) -> dict[str, str]:
    """Return the options in the batch script of a job, by their names."""
    described = cluster(**settings)
    script = batch_script.render_script(
        described, RUN_DIR, array(described, tp), frame=ScriptFrame(0)
    )
    lines = [line[len("#SBATCH --") :] for line in script.splitlines() if "#SBATCH" in line]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_jobs_without_gpus_are_for_the_cpu_partition() -> None:
    partitions = {"partition": "gpus", "cpu_partition": "thin"}
    thin = options(**partitions, gpus_per_node=0)
    assert (thin["partition"], thin["cpus-per-task"]) == ("thin", "8")
    assert "gres" not in thin
    assert options(**partitions, gpus_per_node=4)["partition"] == "gpus"


def test_the_number_of_gpus_follows_from_the_workers() -> None:
    # In earlier versions the setting was a name with a number.
    old = options(2, gpu_gres="gpu:a100:1")
    assert (old["gres"], old["cpus-per-task"]) == ("gpu:a100:2", "16")
    assert "mem" not in old


def test_a_whole_node_is_requested_with_everything_on_it() -> None:
    node = {"whole_node": True, "gpus_per_node": 4}
    whole = options(3, **node)
    assert (whole["gres"], whole["cpus-per-task"], whole["mem"]) == ("gpu:4", "32", "0")
    own = options(3, **node, cpus_per_gpu=9, cpus_per_task=5, mem="10G")
    assert (own["cpus-per-task"], own["mem"]) == ("36", "10G")


def test_cores_are_counted_by_gpu_or_by_job() -> None:
    both = {"cpus_per_gpu": 4, "cpus_per_task": 5}
    assert options(2, **both, gpus_per_node=2)["cpus-per-task"] == "8"
    assert options(**both, gpus_per_node=0)["cpus-per-task"] == "5"
    assert options(cpus_per_gpu=None, cpus_per_task=5)["cpus-per-task"] == "5"


@given(there=st.integers(0, 16), tp=st.integers(1, 20))
def test_as_many_workers_as_the_gpus_of_a_node_suffice_for(there: int, tp: int) -> None:
    described = cluster(whole_node=True, gpus_per_node=there)
    if tp > max(there, 1):
        with pytest.raises(ValueError, match=f"got {tp}: a node of here has "):
            job_resources.require_node_for(described, tp)
        with pytest.raises(UsageError, match=f"tp: expected at most {max(there, 1)}, got {tp}"):
            job_resources.count_workers(described, tp)
        return
    job_resources.require_node_for(described, tp)
    made = array(described, tp)
    assert made.workers >= 1
    assert made.gpus == (tp if there else 0)
    assert made.workers * made.gpus <= there < (made.workers + 1) * tp
    assert job_resources.gpus_of_job(described, made) == there
    assert job_resources.count_workers(cluster(gpus_per_node=there), tp) == 1


def test_each_array_has_its_own_time_limit_and_a_signal_within_it() -> None:
    described = cluster(time_limit="24:00:00", stop_before=300)
    made = Array("s", "lm_eval", 1, 1, 1, 0, time_limit="00:08:00")
    lines = batch_script.render_script(described, RUN_DIR, made, frame=ScriptFrame(0)).splitlines()
    assert {"#SBATCH --time=00:08:00", "#SBATCH --signal=B:USR1@240"} <= set(lines)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"whole_node": True},
            "setting whole_node needs gpus_per_node, which is not set: set it with "
            "--set gpus_per_node=… or OELLM_GPUS_PER_NODE",
        ),
        (
            {"gpu_gres": "gpu,disk"},
            "setting gpu_gres: expected the name of the GPUs alone, got 'gpu,disk'; "
            "use --sbatch gres=… to ask for other resources too",
        ),
        ({"stage_dir": "tmp"}, "setting stage_dir: expected an absolute path, with variables"),
        ({"stage_dir": "/tmp/$(id)"}, "setting stage_dir: expected an absolute path, with"),
        ({"stage_dir": "/tmp/${A:-$(id)}"}, "setting stage_dir: expected an absolute path, with"),
        ({"stage_dir": "$A/{user}"}, "setting stage_dir: expected an absolute path, with"),
        (
            {"stage_dir": "/a,b", "images": {"lm_eval": "/x.sif"}},
            "setting stage_dir: a path with ':' or ',' cannot be bound into a container: '/a,b'",
        ),
    ],
)
def test_a_setting_that_no_job_can_have_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        options(**settings)
    assert str(error.value).startswith(message)
