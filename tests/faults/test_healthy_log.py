"""The log of a healthy job has our lines and no others: a true problem must not drown in it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from support.hub import Hub
from support.hub_content import write_arc, write_hellaswag
from support.processes import DEMO_TASKS, Run


@pytest.mark.slow
def test_a_healthy_job_logs_each_row_once_and_no_advice(
    run: Run, tmp_path: Path, hub: Hub, tiny_model: Path
) -> None:
    hub.add_dataset("allenai/ai2_arc", write_arc(tmp_path / "arc"))
    hub.add_dataset("Rowan/hellaswag", write_hellaswag(tmp_path / "hellaswag"))
    cache = tmp_path / "cache"
    environment = {"HF_HOME": str(tmp_path / "hf"), "OELLM_CLUSTER": "local", **hub.environment}
    environment["OELLM_CACHE_DIR"] = str(cache)
    asked = ["oe-manifest", f"--models={tiny_model}", "--n_shot=0,1", "--limit=2"]
    manifest = run(*asked, "--tasks=arc_easy,hellaswag", env=environment).stdout
    own = run(*asked, "--tasks=oellm_copy,oellm_prose", f"--include_path={DEMO_TASKS}")
    # The rows without a directory of tasks get an empty cell.
    header, *rows = own.stdout.splitlines()
    assert header == f"{manifest.splitlines()[0]},include_path"
    with_path = [f"{line}," for line in manifest.splitlines()[1:]]
    fetched = run("oe-fetch", stdin="\n".join([header, *with_path, *rows]), env=environment).stdout
    hub.stop()
    # In a container the job may be the first to need the index.
    shutil.rmtree(cache)
    run("oe-render", "--run_dir=run", stdin=fetched, env=environment)
    run("oe-submit", "run", env=environment)
    (log,) = (tmp_path / "run" / "slurm_logs").iterdir()
    lines = log.read_text().splitlines()
    ours = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d oe-run-task: ")
    assert [line for line in lines if not ours.match(line)] == []
    assert sum("indexing the tasks of lm-eval" in line for line in lines) == 1
    assert sum(" done in " in line for line in lines) == 8
    # Besides the rows: the index, the start, the end, and what a worker says of its node.
    assert len(lines) <= 8 + 6
