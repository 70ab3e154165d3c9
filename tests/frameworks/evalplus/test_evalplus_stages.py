"""evalplus as real processes: both stages with known scores, and an evaluation that cannot be."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support import code_rows
from support.chat_server import human_eval_server
from support.frameworks import KNOWN, PROBLEMS, framework_environment, reciting_model
from support.processes import ROOT
from support.program_runs import ProgramRun
from support.toy_rows import records

pytestmark = pytest.mark.slow

VENVS = {"evalplus": "evalplus-generate", "evalplus-evaluate": "evalplus-evaluate"}
COLUMNS = "model_path,task_path,n_shot,eval_suite,dtype,apply_chat_template,include_path,limit"


@pytest.fixture
def run(tmp_path: Path) -> ProgramRun:
    code_rows.write_evalplus(tmp_path / "HumanEvalPlus.jsonl", PROBLEMS)
    code_rows.write_evalplus_mbpp(tmp_path / "MbppPlus.jsonl")
    return ProgramRun(tmp_path, VENVS, {})


def manifest(directory: Path, task: str, row: str) -> str:
    """Return a manifest with a row whose problems are in a directory, from the limit on."""
    begin = f"{reciting_model()},{task},,evalplus,float32,false,{directory}"
    return f"{COLUMNS},gen_kwargs,log_samples\n{begin},{row}\n"


def test_known_scores_of_both_tests_in_spite_of_ends_of_either_stage(run: ProgramRun) -> None:
    rows = manifest(run.home, "humaneval", f"{PROBLEMS},,true")
    status, told = run.evaluate_until(rows, "Codegen: HumanEval/0")
    assert (status, list((run.home / "out").rglob("*.jsonl"))) == (75, []), told
    status, told = run.evaluate_until(rows, "Computing expected output", "evaluate")
    assert status == 1, told
    (failure,) = records(run.home / "out", "failures").values()
    assert failure["failure"]["stage"] == "evaluate"
    told = run.evaluate(rows)
    assert "generate begins" not in told
    (record,) = records(run.home / "out").values()
    values = {metric["filter"]: metric["value"] for metric in record["metrics"]}
    assert values == dict.fromkeys(("base", "plus"), pytest.approx(KNOWN / PROBLEMS))
    assert all(metric["stderr"] == pytest.approx(0.14213381) for metric in record["metrics"])
    assert record["environment"]["framework_version"] == "0.3.1"
    assert len(list((run.home / "out" / "samples").glob("*.jsonl"))) == 1
    assert "0 rows evaluated, 1 already had results" in run.evaluate(rows)


def test_samples_with_a_temperature_and_problems_that_are_missing(run: ProgramRun) -> None:
    rows = manifest(run.home, "mbpp", '2,"n_samples=2,temperature=0.3",')
    run.evaluate(rows)
    (record,) = records(run.home / "out").values()
    assert [metric["value"] for metric in record["metrics"]] == [1.0, 1.0]
    assert record["usage"]["requests"] == 4
    (run.home / "MbppPlus.jsonl").unlink()
    told = run.evaluate(manifest(run.home, "mbpp", "1,,"), status=1)
    assert f"expected a directory with MbppPlus.jsonl, got {run.home}" in told


def test_a_chat_model_is_asked_through_its_server(run: ProgramRun) -> None:
    columns = "model_path,task_path,n_shot,eval_suite,backend,include_path,limit,model_args"
    with human_eval_server(KNOWN) as address:
        row = f"org/chat,humaneval,,evalplus,openai,{run.home},{PROBLEMS},base_url={address}"
        run.evaluate(f"{columns}\n{row}\n")
    (record,) = records(run.home / "out").values()
    values = {metric["filter"]: metric["value"] for metric in record["metrics"]}
    assert values == dict.fromkeys(("base", "plus"), pytest.approx(KNOWN / PROBLEMS))
    assert record["environment"]["backend"] == "openai"


def test_nothing_is_scored_within_limits_that_fail_every_program(tmp_path: Path) -> None:
    python = framework_environment("evalplus-evaluate") / "bin" / "python"
    launcher = ROOT / "lib" / "oellm" / "frameworks" / "evalplus" / "launcher.py"
    problems = code_rows.write_evalplus(tmp_path / "problems.jsonl", 2)
    # evalplus fails every answer to find_zero, so the first problem tells nothing.
    problems.write_text(problems.read_text().replace("has_close_elements", "find_zero"))
    options = tmp_path / "options.json"
    options.write_text('{"stage": "evaluate", "dataset": "humaneval", "limit": 2, "values": {}}')
    command = [python, launcher, options, "problems", problems, "samples", tmp_path / "none"]
    done = subprocess.run(
        ["prlimit", "--stack=8388608:8388608", *map(str, command)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    assert "the evaluator says" in done.stderr
    assert "for the solution of HumanEval/1 in" in done.stderr
    assert "(ulimit -H -s, ulimit -H -v)" in done.stderr


def test_the_catalogue_is_what_the_package_says() -> None:
    python = framework_environment("evalplus-generate") / "bin" / "python"
    command = [python, ROOT / "scripts" / "make-catalogue", "--check", "evalplus"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
