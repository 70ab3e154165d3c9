"""oe-doctor --job on a real Slurm: a node as it should be, and two faults that only it can show."""

from __future__ import annotations

import os
from pathlib import Path

from support.dev_cluster import DevCluster
from support.doctor import Found, read_found


def examine(cluster: DevCluster, *options: str) -> Found:
    # No hub is asked.
    done = cluster.call("oe-doctor", *options, env={"HF_HUB_OFFLINE": "1"}, status=None)
    return read_found(done.returncode, done.stdout, done.stderr)


def test_a_node_as_it_should_be(cluster: DevCluster) -> None:
    found = examine(cluster, "--job")
    assert found.wrong() == []
    assert "gpu is UP; time limit 01:00:00" in found.text("partition")
    assert "this Slurm has no accounting" in found.text("account")
    assert "it would take a job gpu:1 in gpu 00:20:00" in found.text("sbatch")
    assert "lm_eval 0.4.13, Python 3.11" in found.text("image lm_eval")
    assert found.text("job").startswith("ended on n")
    assert "its container starts: lm_eval 0.4.13" in found.text("job start")
    # The GPUs of this cluster are files, and its setting allow_cpu is on.
    assert found.state("job gpu") == "warning"
    assert "allow_cpu is set: the GPU that the worker was given" in found.text("job gpu")
    for check in ("hf_home (worker)", "eval_output_dir (node)", "locks hf_home", "clock"):
        assert found.state(f"job {check}") == "ok"
    assert "container+guard" in found.text("job sandbox")
    assert cluster.queue() == []
    assert os.listdir(cluster.base) == []


def test_the_workers_of_a_whole_node(cluster: DevCluster) -> None:
    cluster.add_settings(whole_node=True, gpus_per_node=4, allow_cpu=False, mem="7000M")
    done = cluster.call("oe-doctor", "--job", env={"HF_HUB_OFFLINE": "1"}, status=1)
    found = read_found(done.returncode, done.stdout, done.stderr)
    # Each worker has looked for its own GPU; what they find alike is told once.
    assert found.wrong() == ["job gpu"]
    assert [f"VISIBLE_DEVICES={gpu}" in done.stdout for gpu in range(4)] == [True] * 4
    assert done.stdout.count('"job start"') == 1
    assert cluster.queue() == []


def test_a_file_that_is_no_image(cluster: DevCluster, tmp_path: Path) -> None:
    (tmp_path / "text.sif").write_text("no image\n")
    cluster.add_settings(images={"lm_eval": str(tmp_path / "text.sif")}, allow_cpu=False)
    found = examine(cluster, "--job")
    assert found.wrong() == ["image lm_eval", "job start"]
    assert f"{tmp_path}/text.sif does not start (status 255): FATAL" in found.text("image lm_eval")
    assert "did not end well on n" in found.text("job start")
    assert "FATAL" in found.text("job start")
    # What the worker on the node itself looks at is told nevertheless.
    assert found.state("job eval_output_dir (node)") == "ok"
    assert cluster.queue() == []
    assert os.listdir(cluster.base) == []


def test_a_partition_that_is_not_there(cluster: DevCluster) -> None:
    found = examine(cluster, "--set=partition=gpuu")
    assert found.wrong() == ["partition", "sbatch"]
    assert "there is no partition gpuu -> --set=partition=…, one of" in found.text("partition")
    assert "invalid partition specified: gpuu" in found.text("sbatch")
    assert "the settings are partition=gpuu" in found.text("sbatch")
