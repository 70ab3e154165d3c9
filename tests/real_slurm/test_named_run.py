"""A run with a name on real Slurm: squeue shows the name, and --wait notices the end."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from support.dev_cluster import DevCluster
from support.processes import BIN, clean_environment
from support.stub_worker import render_for_stub
from support.waiting import wait_until

# Writes heartbeats as the worker does, and waits until it is let go.
STUB = """
import datetime

def beat(ended):
    now = datetime.datetime.now(datetime.timezone.utc).isoformat()
    job = os.environ["SLURM_ARRAY_JOB_ID"] + "_" + os.environ["SLURM_ARRAY_TASK_ID"]
    attempt = {"job": job, "gpus": 1, "started": now, "updated": now, "scoring_s": 0.0}
    content = {**attempt, "shard": int(shard), "host": "n", "attempts": [attempt]}
    content |= {"pid": os.getpid(), "process_start": 1, "rows": [], "loading": "", "ended": ended}
    content |= dict.fromkeys(("total", "skipped", "done", "failed"), 0)
    path = run_dir / "progress" / (shard + ".json")
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps(content))
    path.with_suffix(".tmp").replace(path)

beat("")
while not (run_dir / "go").exists():
    time.sleep(0.05)
beat("finished")
"""


def test_jobs_have_the_name_of_their_run_and_its_end_is_noticed_within_seconds(
    shared_cluster: DevCluster,
) -> None:
    rows = "acme/m,t,0\nacme/n,t,0\n"
    path = Path(render_for_stub(shared_cluster, rows, STUB, "--name=weekly")["run_dir"])
    process = subprocess.Popen(
        [BIN / "oe-submit", "--wait=done", "weekly"],
        env=clean_environment(shared_cluster.base, shared_cluster.env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    began = time.monotonic()

    def names() -> list[str]:
        return shared_cluster.run("squeue", "--noheader", "--array", "--format=%j %T").splitlines()

    wait_until(lambda: names() == ["weekly RUNNING"] * 2, process=process)
    # By now, checks of the queue alone would be 6 s apart.
    wait_until(lambda: time.monotonic() - began > 30, process=process)
    (path / "go").touch()
    let_go = time.monotonic()
    _, said = process.communicate(timeout=100)
    assert time.monotonic() - let_go < 5
    assert process.returncode == 0, said
    assert f"2 of 2 rows have results: {path}\n" in said
