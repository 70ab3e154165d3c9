"""A real Slurm under a host name that oellm does not know: from oe-config to scores."""

from __future__ import annotations

import json
from pathlib import Path

from support.processes import DEMO_TASKS, Run, rows_of


def test_what_oe_config_writes_is_enough_to_evaluate(
    run: Run, tmp_path: Path, slurm_conf: Path, image: Path, tiny_model: Path
) -> None:
    scratch = tmp_path / "scratch é #1"
    scratch.mkdir()
    env = {
        "SLURM_CONF": str(slurm_conf),
        "SCRATCH": str(scratch),
        "HF_HUB_OFFLINE": "1",
    }
    # Its GPUs are files without a device, and its image is not one of oe-build's.
    known = (f"--set=images.lm_eval={image}", "--set=allow_cpu=true", "--set=env.OMP_NUM_THREADS=1")
    done = run("oe-config", "--yes", *known, env=env)
    (entry,) = json.loads(done.stdout)["clusters"].values()
    assert (entry["partition"], entry["gpus_per_node"]) == ("gpu", 4)
    assert entry["time_limit"] == "01:00:00"

    rows = run(
        *("oe-manifest", "--models", tiny_model, "--tasks=oellm_choice", "--n_shot=0"),
        *("--include_path", DEMO_TASKS, "--batch_size=4"),
        env=env,
    )
    rendered = run("oe-render", stdin=rows.stdout, env=env)
    submitted = run("oe-submit", "--wait=done", stdin=rendered.stdout, env=env)
    run_dir = json.loads(submitted.stdout)["run_dir"]
    assert run_dir.startswith(f"{scratch}/oellm/")
    collected = rows_of(run("oe-collect", run_dir, env=env).stdout)
    assert {row["metric"] for row in collected} == {"acc", "acc_norm"}
