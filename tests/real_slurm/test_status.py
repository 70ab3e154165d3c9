"""oe-status on real Slurm: why rows have no result, and how far running rows are.

The worker is real, except in the first attempt of three shards: one is cancelled, one runs out of
memory, and one loses its node.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.dev_cluster import DevCluster
from support.faulty_model import FaultyModel
from support.processes import rows_of
from support.waiting import wait_until

# Stands in for the environment's Python: $3 is the run directory, $5 the shard.
STUB = """\
#!/bin/bash
if [[ ! -e $3/again ]]; then
    case $5 in
    1) exec "{python}" -c 'import time; x = b"x" * 2**31; time.sleep(600)' ;;
    *) exec sleep 600 ;;
    esac
fi
exec "{python}" "$@"
"""


@pytest.fixture(scope="module")
def rows(
    shared_cluster: DevCluster, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    directory = tmp_path_factory.mktemp("status")
    for name in "ab":
        # Links to one model would be one model.
        shutil.copytree(tiny_model, directory / name)
    python = shared_cluster.base / "stub" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STUB.format(python=sys.executable))
    python.chmod(0o755)
    models = f"{directory / 'a'},{directory / 'b'}"
    manifest: str = shared_cluster.manifest(models, "oellm_choice", "--n_shot=0,1")
    return manifest


@pytest.fixture(scope="module")
def run_dirs(shared_cluster: DevCluster, rows: str) -> Iterator[tuple[Path, Path]]:
    """Return two runs of two shards each: one fails on node n1, one with node n2."""
    stub = ("--set=container_runtime=none", f"--set=venv={shared_cluster.base / 'stub'}")
    mem = "--set=mem=1500M"
    first = shared_cluster.submitted(rows, *stub, mem, "--set=sbatch.nodelist=n1")
    one_model = "".join(rows.splitlines(keepends=True)[:3])
    second = not_requeued(shared_cluster, one_model, *stub, mem, "--set=sbatch.nodelist=n2")
    wait_until(
        lambda: shared_cluster.queue().count(f"{second['jobs'][0]['job_id']}_0 RUNNING") == 1
    )
    shared_cluster.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    wait_until(lambda: f"{first['jobs'][0]['job_id']}_0 RUNNING" in shared_cluster.queue())
    shared_cluster.run("scancel", f"{first['jobs'][0]['job_id']}_0")
    shared_cluster.wait(180)
    yield Path(first["run_dir"]), Path(second["run_dir"])


def not_requeued(cluster: DevCluster, rows: str, *options: str) -> dict[str, Any]:
    """Submit rows in jobs that Slurm does not requeue."""
    rendered = cluster.run("oe-render", *options, stdin=rows)
    script = Path(json.loads(rendered)["run_dir"]) / "submit_evals.sbatch"
    script.write_text(script.read_text().replace("#SBATCH --requeue", "#SBATCH --no-requeue"))
    record: dict[str, Any] = json.loads(cluster.run("oe-submit", stdin=rendered))
    return record


def status(cluster: DevCluster, run_dir: Path, code: int) -> tuple[list[dict[str, str]], str]:
    done = cluster.call("oe-status", run_dir, status=code)
    return rows_of(done.stdout), done.stderr


def test_lost_rows_have_the_true_reason_and_finish_when_submitted_again(
    shared_cluster: DevCluster, run_dirs: tuple[Path, Path]
) -> None:
    on_n1, on_n2 = run_dirs
    found, messages = status(shared_cluster, on_n1, 1)
    assert [(row["shard"], row["state"], row["reason"].partition(": ")[0]) for row in found] == [
        *[("0", "cancelled", "its job was cancelled")] * 2,
        *[("1", "lost", "its job ran out of memory (setting mem)")] * 2,
    ]
    logs = [Path(row["log"]).name.partition("_")[2] for row in found]
    # Slurm may not have opened the log yet when the first job was cancelled.
    assert set(logs[:2]) <= {"0.log", ""}
    assert set(logs[2:]) == {"1.log"}
    # squeue still knows how they ended, so nobody misses the accounting.
    assert messages == ""
    found, _ = status(shared_cluster, on_n2, 1)
    assert {row["state"] for row in found} == {"lost"}
    assert {row["reason"].partition(": ")[0] for row in found} == {"its node failed (n2)"}
    log = shared_cluster.run("oe-status", "--log=1", on_n1)
    assert "exceeded memory limit" in log
    for run_dir in run_dirs:
        (run_dir / "again").touch()
        shared_cluster.run("oe-submit", run_dir)
        assert shared_cluster.call("oe-status", run_dir, status=75).stderr == ""
    for run_dir in run_dirs:
        last = shared_cluster.run("oe-status", "--watch", "--poll=1", run_dir).splitlines()[-1]
        assert last in ("4 of 4 rows done", "2 of 2 rows done")
        described = json.loads(shared_cluster.run("oe-status", "--format=json", run_dir))
        assert described["gpu_hours"] > 0
        assert 0 < described["scoring_share"] < 1


def test_a_container_that_does_not_start_says_so_with_its_log(
    shared_cluster: DevCluster, rows: str, tmp_path: Path
) -> None:
    (tmp_path / "no-image.sif").write_text("this is no image\n")
    image = f"--set=images.lm_eval={tmp_path / 'no-image.sif'}"
    record = shared_cluster.submitted(rows, image, "--set=container_runtime=auto")
    shared_cluster.wait(180)
    found, _ = status(shared_cluster, Path(record["run_dir"]), 1)
    begin = "its job ended with status 255: the container did not start: FATAL: "
    for row in found:
        assert row["state"] == "lost"
        assert row["reason"].startswith(begin)
        assert Path(row["log"]).read_text().splitlines()[-1].split() == (
            row["reason"].partition("start: ")[2].split()
        )


def test_a_running_row_shows_its_progress_and_a_requeued_one_is_pending(
    shared_cluster: DevCluster, tiny_model: Path, tmp_path: Path
) -> None:
    model = FaultyModel(tiny_model, tmp_path / "slow")
    model.set_pace(1.0)
    rows = shared_cluster.manifest(
        model.directory, "oellm_choice", "--n_shot=0", "--trust_remote_code=true"
    )
    environment = ("--set=container_runtime=none", f"--set=venv={sys.prefix}")
    record = shared_cluster.submitted(rows, *environment)
    run_dir, job = Path(record["run_dir"]), f"{record['jobs'][0]['job_id']}_0"
    seen: list[dict[str, str]] = []

    def is_within_a_row() -> bool:
        seen[:], _ = status(shared_cluster, run_dir, 75)
        return int(seen[0]["requests_done"] or 0) > 0

    wait_until(is_within_a_row, 300)
    (row,) = seen
    assert (row["state"], row["reason"], row["job"]) == ("running", "scoring", job)
    assert int(row["requests_done"]) < int(row["requests_total"])
    table = shared_cluster.call("oe-status", "--format=table", run_dir, status=75).stdout
    assert re.search(r"^0 +running +0/1 +\d+ % of \S+", table, re.MULTILINE)
    shared_cluster.run("scontrol", "requeue", job)
    wait_until(lambda: f"{job} PENDING" in shared_cluster.queue())
    (row,), _ = status(shared_cluster, run_dir, 75)
    assert row["state"] == "pending"
    assert row["reason"].startswith("in the queue (BeginTime), requeued: ")
    shared_cluster.run("scancel", job)
