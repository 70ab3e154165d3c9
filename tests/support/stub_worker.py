"""A worker for real Slurm that computes nothing, so that tests of the queue are quick."""

from __future__ import annotations

import json
from typing import Any

from support.dev_cluster import DevCluster

# Writes a valid result for each row of its shard.
_END = """
for line in (run_dir / "jobs.csv").read_text().splitlines()[1:]:
    *_, eval_id, of = line.split(",")
    if of == shard:
        metric = {"task": "t", "metric": "a", "filter": "none", "value": 1}
        ours = {"eval_id": eval_id, "status": "done", "metrics": [metric]}
        ours["row"] = {"model_path": "m", "task_path": "t"}
        (run_dir / "results" / (eval_id + ".json")).write_text(json.dumps({"oellm": ours}))
"""


def render_for_stub(cluster: DevCluster, rows: str, code: str, *options: str) -> dict[str, Any]:
    """Render a run whose worker is a stub; return the run object.

    `code` is what the stub runs before it writes its results. It knows `run_dir`, a Path, and
    `shard`, the text of a number. All runs on a cluster have the stub of the first.
    """
    python = cluster.base / "stub" / "bin" / "python"
    if not python.exists():
        begin = "import json, os, pathlib, sys, time\n\n"
        begin += "run_dir, shard = pathlib.Path(sys.argv[3]), sys.argv[5]\n"
        python.parent.mkdir(parents=True)
        python.with_name("stub.py").write_text(begin + code + _END)
        python.write_text('#!/bin/sh\nexec python3 "$(dirname "$0")/stub.py" "$@"\n')
        python.chmod(0o755)
    settings = (
        *(f"--set=venv={python.parent.parent}", "--set=container_runtime=none"),
        *("--set=shard_time=0", "--set=mem=100M", "--set=time_limit=00:05:00"),
        *options,
    )
    manifest = f"model_path,task_path,n_shot\n{rows}"
    record: dict[str, Any] = json.loads(cluster.run("oe-render", *settings, stdin=manifest))
    return record
