"""Whole nodes on real Slurm: four fake GPUs, several workers in one job."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from support.dev_cluster import DevCluster
from support.waiting import wait_until

HEADER = "model_path,task_path,n_shot\n"
WHOLE_NODE = ["--set=whole_node=true", "--set=gpus_per_node=4", "--set=cpus_per_gpu=1"]
HOSTILE = "a b'c\"d$(touch PWNED)`touch PWNED`;touch PWNED%j#é世  $HOME*?%A"

# Notes its environment and waits for a signal. USR1 ends it with rows left.
STUB = """#!/bin/bash
trap 'echo USR1 >>"$3/told.$5"; exit 75' USR1
restarts=${SLURM_RESTART_COUNT:-0}
env >"$3/environment.$5.$restarts"
((restarts == 0 && ${WAIT:-0})) || exit 0
for ((n = 0; n < 600; n++)); do sleep 0.1; done
"""


def submit(cluster: DevCluster, models: int, *options: str) -> tuple[Path, str]:
    """Submit the script of a run with one stub for each model; return run directory and job id."""
    probe = cluster.base / "venv" / "bin" / "python"
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.write_text(STUB)
    probe.chmod(0o755)
    settings = [f"--set=venv={cluster.base}/venv", "--set=container_runtime=none", "--set=mem=100M"]
    rows = HEADER + "".join(f"acme/m{number},mmlu,0\n" for number in range(models))
    rendered = cluster.run("oe-render", *settings, *options, stdin=rows)
    run_dir = Path(json.loads(rendered)["run_dir"])
    return run_dir, sbatch(cluster, run_dir)


def sbatch(cluster: DevCluster, run_dir: Path) -> str:
    # As oe-submit does it. Slurm replaces %-patterns in file names.
    logs = str(run_dir / "slurm_logs").replace("%", "%%")
    script = run_dir / "submit_evals.sbatch"
    command = ("sbatch", "--parsable", f"--output={logs}/%A_%a.log", script, "0", run_dir)
    return str(cluster.run(*command).strip())


def environment(run_dir: Path, shard: int, restarts: int = 0) -> dict[str, str]:
    lines = (run_dir / f"environment.{shard}.{restarts}").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.mark.parametrize(
    ("tp", "expected"),
    [(1, ["0", "1", "2", "3"]), (2, ["0,1", "2,3"])],
)
def test_each_worker_of_a_node_sees_its_own_gpus(
    shared_cluster: DevCluster, tp: int, expected: list[str]
) -> None:
    options = [*WHOLE_NODE, f"--set=tp={tp}"]
    run_dir, job = submit(shared_cluster, len(expected), *options)
    shared_cluster.wait(180)
    element = shared_cluster.job(job, 0)
    assert element["JobState"] == "COMPLETED"
    # Slurm 22 writes gres:gpu:4, later ones gres/gpu:4.
    assert element["TresPerNode"].endswith("gpu:4")
    seen = [environment(run_dir, shard) for shard in range(len(expected))]
    assert [found["CUDA_VISIBLE_DEVICES"] for found in seen] == expected
    # The dev cluster sets the variables of all vendors.
    assert all("ROCR_VISIBLE_DEVICES" not in found for found in seen)
    assert {found["SLURM_ARRAY_JOB_ID"] for found in seen} == {job}


def test_a_node_that_is_told_to_stop_requeues_once_and_goes_on(shared_cluster: DevCluster) -> None:
    run_dir, job = submit(shared_cluster, 4, *WHOLE_NODE, "--set=env.WAIT=1")
    wait_until(lambda: len(list(run_dir.glob("environment.*.0"))) == 4)
    shared_cluster.run("scancel", "--batch", "--signal=USR1", f"{job}_0")
    wait_until(lambda: len(list(run_dir.glob("environment.*.1"))) == 4, 240)
    shared_cluster.wait(180)
    assert [(run_dir / f"told.{shard}").read_text() for shard in range(4)] == ["USR1\n"] * 4
    element = shared_cluster.job(job, 0)
    assert (element["JobState"], element["Restarts"]) == ("COMPLETED", "1")
    log = (run_dir / "slurm_logs" / f"{job}_0.log").read_text()
    assert log.count("requeues itself") == 1


def test_sbatch_reads_hostile_settings_as_they_are(shared_cluster: DevCluster) -> None:
    run_dir = shared_cluster.base / (HOSTILE + "x" * 150)
    # A directory name may have no backslash; other values may.
    user = f"{HOSTILE}\\"
    options = [f"--sbatch=mail-user={user}", f"--run_dir={run_dir}", "--sbatch=mail-type=FAIL"]
    _, job = submit(shared_cluster, 1, *options)
    shared_cluster.wait(180)
    described = shared_cluster.run("scontrol", "show", "job", f"{job}_0")
    assert f"MailUser={user} MailType=FAIL\n" in described
    assert f"JobName=oellm-{run_dir.name}\n" in described
    assert (run_dir / "slurm_logs" / f"{job}_0.log").exists()
    assert environment(run_dir, 0)["SLURM_ARRAY_TASK_ID"] == "0"
    assert not list(shared_cluster.base.rglob("PWNED"))


def test_real_workers_of_one_node_evaluate_a_model_each(
    shared_cluster: DevCluster, image: Path, tiny_model: Path, tmp_path: Path
) -> None:
    for number in range(2):
        shutil.copytree(tiny_model, tmp_path / f"m{number}")
    models = ",".join(str(tmp_path / f"m{number}") for number in range(2))
    rows = shared_cluster.manifest(models, "oellm_choice", "--n_shot=0", "--limit=2")
    # The container begins with a clean environment.
    clean = '--set=container_args=["--cleanenv"]'
    options = [*WHOLE_NODE, "--set=gpus_per_node=2", "--set=mem=4G", clean]
    rendered = shared_cluster.run("oe-render", *options, stdin=rows)
    run_dir = Path(json.loads(rendered)["run_dir"])
    job = sbatch(shared_cluster, run_dir)
    shared_cluster.wait(600)
    logs = sorted(path.name for path in (run_dir / "slurm_logs").iterdir())
    assert logs == [f"{job}_0.{number}.log" for number in range(2)] + [f"{job}_0.log"]
    said = "".join(path.read_text() for path in (run_dir / "slurm_logs").iterdir())
    results = [json.loads(path.read_text()) for path in (run_dir / "results").glob("*.json")]
    assert len(results) == 2, said
    provenance = [result["oellm"]["provenance"]["slurm"] for result in results]
    assert {
        (found["SLURM_ARRAY_JOB_ID"], found["SLURM_ARRAY_TASK_ID"]) for found in provenance
    } == {(job, "0")}
