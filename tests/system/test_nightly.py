"""The pipeline that runs every night computes each row once, here with the local executor."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import pytest

from support.nightly import Nightly
from support.processes import BIN, Run, clean_environment
from support.waiting import wait_until

pytestmark = pytest.mark.slow


def test_each_row_is_computed_once_while_checkpoints_appear(run: Run, tmp_path: Path) -> None:
    env = {"OELLM_CLUSTER": "local", "EVAL_OUTPUT_DIR": str(tmp_path / "evals")}
    call = functools.partial(run, env=env)
    nights = Nightly(call, tmp_path)

    nights.add_checkpoint(1000)
    rendered = nights.render()
    nights.set_mood("broken")
    call("oe-submit", stdin=rendered, status=1)
    assert nights.results() == {"1000 oellm_choice": 1}

    # The second night tries the failed row again. While it works, nothing is missing.
    nights.set_mood("broken", False)
    nights.add_checkpoint(2000)
    rendered = nights.render()
    assert nights.work(rendered) == ["1000 moody", "2000 oellm_choice", "2000 moody"]
    nights.set_mood("hold")
    with subprocess.Popen(
        [BIN / "oe-submit"],
        env=clean_environment(tmp_path / "home", env),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as submitting:
        assert submitting.stdin is not None
        submitting.stdin.write(rendered)
        submitting.stdin.close()
        progress = functools.partial(nights.output.glob, "*/*/progress/*.json")
        wait_until(lambda: nights.runs() != 2 or len(list(progress())) > 1, process=submitting)
        nights.add_checkpoint(3000)
        missing = nights.missing()
        third = nights.render()
        nights.set_mood("hold", False)
    assert submitting.returncode == 0
    assert "oe-missing: 2 of 6 rows are missing (0 of them failed); " in missing.stderr
    assert nights.work(third) == ["3000 oellm_choice", "3000 moody"]
    call("oe-submit", stdin=third)

    everything = [f"{step} {task}" for step in (1, 2, 3) for task in ("oellm_choice", "moody")]
    assert nights.results() == {row.replace(" ", "000 "): 1 for row in everything}
    # A night without a new checkpoint makes no run.
    assert nights.work(nights.render()) == []
    assert nights.runs() == 3
