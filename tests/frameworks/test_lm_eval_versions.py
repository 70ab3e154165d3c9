"""The adapter works with the oldest and the newest supported lm-eval, too.

The tests of test_patches.py and the comparison with lm-eval's own command line, which evaluates the
tasks of the demonstration through the worker, run again with each of these versions.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.lm_eval_versions import REQUIREMENTS, provide_lm_eval
from support.processes import ROOT

pytestmark = pytest.mark.slow

TESTS = (
    "tests/frameworks/test_patches.py",
    "tests/commands/test_oe_run_task.py::test_scores_are_those_of_the_lm_eval_command_line",
)


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_the_adapter_works_with_another_lm_eval(requirement: str, tmp_path: Path) -> None:
    directory = provide_lm_eval(requirement)
    if directory is None:
        pytest.skip("this is the installed version, with which all tests run")
    path = os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "PYTEST_ADDOPTS": ""}
    found = subprocess.run(
        [sys.executable, "-c", "import lm_eval; print(lm_eval.__path__[0])"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert found.stdout.strip() == str(directory / "lm_eval")
    options = ("-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inner'}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *TESTS],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
