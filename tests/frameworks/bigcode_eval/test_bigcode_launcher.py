"""What starts bigcode fails with a message where the program itself would say 0, or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.processes import ROOT

LAUNCHER = ROOT / "lib" / "oellm" / "frameworks" / "bigcode_eval" / "launcher.py"
MAIN = """
import sys
from pathlib import Path
import bigcode_eval
if __name__ == "__main__":
    print(*sys.argv[1:], Path("bigcode_eval/tasks/examples.json").read_text())
"""
EXECUTE = """
def check_correctness(program, timeout, task_id, completion_id):
    exec(program)
    return {"passed": PASSED, "result": "timed out"}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a directory with main.py beside a package, as upstream's checkout has it."""
    metrics = tmp_path / "checkout" / "bigcode_eval" / "tasks" / "custom_metrics"
    metrics.mkdir(parents=True)
    for package in (metrics, metrics.parent, metrics.parent.parent):
        (package / "__init__.py").touch()
    (metrics / "execute.py").write_text(EXECUTE.replace("PASSED", "True"))
    (metrics.parent / "examples.json").write_text("examples")
    (tmp_path / "checkout" / "main.py").write_text(MAIN)
    return tmp_path / "checkout"


def launch(
    checkout: Path, variables: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Start the launcher with some options and the arguments `--tasks t`."""
    usual = {"data_sets": [], "programs": [], "image": "", "runs_code": True, "isolates": False}
    path = checkout.parent / "options.json"
    path.write_text(json.dumps({**usual, **options}))
    environment = {"PYTHONPATH": str(checkout), "PATH": os.environ["PATH"], **(variables or {})}
    return subprocess.run(
        [sys.executable, LAUNCHER, path, "--tasks", "t"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_checkout_and_a_package_start_alike_where_their_examples_are_found(
    checkout: Path,
) -> None:
    done = launch(checkout)
    assert (done.returncode, done.stdout) == (0, "--tasks t examples\n"), done.stderr
    (checkout / "main.py").rename(checkout / "bigcode_eval" / "main.py")
    done = launch(checkout)
    assert (done.returncode, done.stdout) == (0, "--tasks t examples\n"), done.stderr


def test_it_needs_the_package(checkout: Path) -> None:
    done = launch(checkout, {"PYTHONPATH": "/nowhere"})
    assert done.returncode == 1
    assert "has no package bigcode_eval (PYTHONPATH)" in done.stderr


def test_a_missing_compiler_is_named_with_the_image_that_has_it(checkout: Path) -> None:
    done = launch(checkout, programs=["no-such-tool", "sh"], image="one made from X")
    assert (done.returncode, done.stdout) == (1, "")
    assert "this image has no no-such-tool, without which every problem would fail" in done.stderr
    assert "images needs one made from X as bigcode_eval-evaluate" in done.stderr


def test_a_data_set_that_is_not_there_is_named(checkout: Path, tmp_path: Path) -> None:
    home = {"HF_HOME": str(tmp_path / "hf")}
    offline = {**home, "HF_HUB_OFFLINE": "1"}
    done = launch(checkout, offline, data_sets=["nuprl/MultiPL-E"])
    assert done.returncode == 1
    assert f"data set nuprl/MultiPL-E is not in the cache {tmp_path}/hf/datasets" in done.stderr
    assert launch(checkout, home, data_sets=["nuprl/MultiPL-E"]).returncode == 0
    (tmp_path / "hf" / "datasets" / "nuprl___multi_pl-e").mkdir(parents=True)
    assert launch(checkout, offline, data_sets=["nuprl/MultiPL-E"]).returncode == 0


EVALUATION = """
def eval_string_script(language, program):
    if program == "dies":
        raise SystemExit(3)
    return {"status": "OK", "exit_code": 0, "stdout": multiprocessing.current_process().name}
"""
SCORING = """
from concurrent.futures import ThreadPoolExecutor
from bigcode_eval.tasks.custom_metrics.multiple_metrics import evaluation
if __name__ == "__main__":
    with ThreadPoolExecutor(2) as executor:
        programs = ["good", "dies", "good"]
        for found in executor.map(lambda p: evaluation.eval_string_script("py", p), programs):
            print(found["status"], found["exit_code"], "Process-" in found.get("stdout", ""))
"""


def test_each_program_of_multiple_gets_a_process_that_may_die(checkout: Path) -> None:
    metrics = checkout / "bigcode_eval" / "tasks" / "custom_metrics" / "multiple_metrics"
    metrics.mkdir()
    (metrics / "__init__.py").touch()
    (metrics / "evaluation.py").write_text(f"import multiprocessing\n{EVALUATION}")
    (checkout / "main.py").write_text(SCORING)
    done = launch(checkout, isolates=True)
    assert done.stdout.splitlines() == ["OK 0 True", "Exception 1 False", "OK 0 True"], done.stderr


def test_nothing_is_scored_where_a_correct_program_does_not_pass(checkout: Path) -> None:
    evaluator = checkout / "bigcode_eval" / "tasks" / "custom_metrics" / "execute.py"
    evaluator.write_text(EXECUTE.replace("PASSED", "False"))
    done = launch(checkout)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the evaluator does not pass a correct program here: timed out" in done.stderr
