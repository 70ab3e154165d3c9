"""global-benchmark without --slurm: on this machine, with answers that are drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import code_rows
from support.frameworks import framework_environment, reciting_model
from support.hub import Hub
from support.processes import Run

# The model knows these problems.
LIMIT = 4


@pytest.mark.slow
def test_drawn_answers_of_bigcode_are_scored_here(run: Run, hub: Hub, tmp_path: Path) -> None:
    code_rows.serve_human_eval(hub, tmp_path / "human_eval")
    run("global-benchmark", "config")
    config = json.loads((tmp_path / "config.json").read_text())
    venvs = {"bigcode_eval": str(framework_environment("bigcode_eval"))}
    config["run"] |= {"dtype": "float32", "unsafe_execution": True, "venvs": venvs}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = str(reciting_model())
    done = run(
        *("global-benchmark", "run", "-m", model, "-t", "bigcode_eval:humaneval"),
        *("--samples=(0.4, 2)", f"--limit={LIMIT}"),
        env=hub.environment,
    )
    path = tmp_path / done.stdout.strip()
    assert list(tmp_path.glob("results/*.json")) == [path]
    assert path.with_suffix("").joinpath("run.json").is_file()
    found = json.loads(path.read_text())
    assert found["model"] == model
    (drawn,) = found["bigcode_eval:humaneval"]
    assert (drawn["temperature"], drawn["n_samples"]) == (0.4, 2)
    assert drawn["pass@1"] >= 0.5
