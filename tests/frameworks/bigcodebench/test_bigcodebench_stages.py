"""bigcodebench as real processes: both subsets from one generation, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.chat_server import human_eval_server
from support.code_rows import write_bigcodebench
from support.frameworks import KNOWN, PROBLEMS, framework_environment, reciting_model
from support.processes import ROOT
from support.program_runs import ProgramRun
from support.toy_rows import records

pytestmark = pytest.mark.slow

LAUNCHER = ROOT / "lib" / "oellm" / "frameworks" / "bigcodebench" / "launcher.py"
VENVS = {"bigcodebench": "vllm-cpu", "bigcodebench-evaluate": "bigcodebench-evaluate"}
COLUMNS = "model_path,eval_suite,n_shot,include_path,backend,task_path,gen_kwargs,model_args,limit"
# The problems of these tests, of which the models know four, and the hard ones, of which one.
USED, HARD = slice(KNOWN - 4, KNOWN + 2), slice(3, 5)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a directory with made problems and their hard subset."""
    path = tmp_path / "own"
    path.mkdir()
    problems = write_bigcodebench(path / "bigcodebench.jsonl", PROBLEMS)
    lines = problems.read_text().splitlines(keepends=True)[USED]
    problems.write_text("".join(lines))
    (path / "bigcodebench-hard.jsonl").write_text("".join(lines[HARD]))
    return path


@pytest.fixture
def run(tmp_path: Path) -> ProgramRun:
    return ProgramRun(tmp_path, VENVS, {"HF_HOME": "/nothing"})


@pytest.fixture
def server() -> Iterator[str]:
    """Return the address of a model that knows the first problems."""
    with human_eval_server(KNOWN) as address:
        yield address


def manifest(own: Path, server: str, *rows: str) -> str:
    """Return a manifest with rows of a server: task, gen_kwargs, limit."""
    begin = f"org/chat,bigcodebench,,{own},openai"
    lines = []
    for row in rows:
        task, generation, limit = row.split(";")
        lines.append(f"{begin},{task},{generation},base_url={server},{limit}")
    return "\n".join([COLUMNS, *lines]) + "\n"


def values(run: ProgramRun) -> dict[str, dict[str, float]]:
    return {
        task: {metric["metric"]: metric["value"] for metric in record["metrics"]}
        for task, record in records(run.home / "out").items()
    }


def test_known_scores_of_both_subsets_in_spite_of_ends_of_either_stage(
    run: ProgramRun, own: Path, server: str
) -> None:
    rows = manifest(own, server, "bigcodebench-complete;;", "bigcodebench-hard-complete;;")
    status, told = run.evaluate_until(rows, f"Codegen: BigCodeBench_{USED.start}")
    assert (status, list((run.home / "out").rglob("samples.jsonl"))) == (75, []), told
    status, told = run.evaluate_until(rows, "Asserting the groundtruth", "launcher.py")
    assert status == 1, told
    failures = records(run.home / "out", "failures")
    assert [each["failure"]["stage"] for each in failures.values()] == ["evaluate"]
    told = run.evaluate(rows)
    assert "generate begins" not in told
    scores = values(run)
    assert scores["bigcodebench-complete"] == {"pass@1": pytest.approx(4 / 6)}
    assert scores["bigcodebench-hard-complete"] == {"pass@1": 0.5}
    assert len(list((run.home / "out" / "stages").iterdir())) == 1
    record = records(run.home / "out")["bigcodebench-complete"]
    assert record["metrics"][0]["stderr"] == pytest.approx(0.21081851)
    assert record["environment"]["framework_version"] == "0.2.5"
    assert "0 rows evaluated, 2 already had results" in run.evaluate(rows)


def test_samples_of_a_limit_and_a_server_that_is_gone(
    run: ProgramRun, own: Path, server: str
) -> None:
    rows = manifest(own, server, 'bigcodebench-instruct;"n_samples=2,temperature=0.8";2')
    run.evaluate(rows)
    assert values(run) == {"bigcodebench-instruct": {"pass@1": 1.0}}
    gone = manifest(own, "http://127.0.0.1:9/v1", "bigcodebench-complete;;2")
    told = run.evaluate(gone, status=1)
    assert "oellm: base_url http://127.0.0.1:9/v1 does not answer on this node" in told


def test_without_its_data_set_nothing_is_generated(run: ProgramRun, server: str) -> None:
    rows = manifest(Path(), server, "bigcodebench-complete;;").replace(",.,", ",,")
    told = run.evaluate(rows, status=1)
    assert "bigcode/bigcodebench" in told
    assert "oe-fetch" in told


def test_the_solutions_fail_with_a_stack_that_fails_every_program(
    tmp_path: Path, own: Path
) -> None:
    python = framework_environment("bigcodebench-evaluate") / "bin" / "python"
    problem: dict[str, Any] = json.loads((own / "bigcodebench.jsonl").read_text().splitlines()[0])
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps({"task_id": problem["task_id"], "solution": "x"}) + "\n")
    options = {"stage": "evaluate", "limit": 1}
    shared = {"split": "complete", "subset": "full", "parallel": 1, "pass_k": "1"}
    (tmp_path / "options.json").write_text(json.dumps({**options, "values": shared}))
    (tmp_path / "out").mkdir()
    paths = ["problems", own / "bigcodebench.jsonl", "samples", samples]
    command = [
        "prlimit",
        "--stack=8388608:8388608",
        python,
        LAUNCHER,
        tmp_path / "options.json",
        *paths,
    ]
    done = subprocess.run(
        list(map(str, command)),
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": "/tmp"},
        cwd=tmp_path / "out",
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "out" / "pass_at_k.json").read_bytes())
    assert (scores["gt_pass_rate"], scores["failed_tasks"]) == (0.0, [problem["task_id"]])


def test_vllm_has_the_known_score(run: ProgramRun, own: Path) -> None:
    row = f"{reciting_model()},bigcodebench,,{own},vllm,bigcodebench-complete,max_new_tokens=300"
    model = '"max_model_len=1024,enforce_eager=true,dtype=float32"'
    run.evaluate(f"{COLUMNS},apply_chat_template\n{row},{model},,false\n")
    assert values(run) == {"bigcodebench-complete": {"pass@1": pytest.approx(4 / 6)}}
    (record,) = records(run.home / "out").values()
    assert record["environment"]["backend"] == "vllm"
