"""The pipeline that runs every night, on a Slurm cluster where a job of last night still runs."""

from __future__ import annotations

from typing import Any

from support.nightly import Nightly
from support.waiting import wait_until


def test_a_night_computes_nothing_that_a_job_still_computes(cluster: Any) -> None:
    cluster.env["EVAL_OUTPUT_DIR"] = str(cluster.base / "evals")
    # oe-fetch takes no $ in this path.
    cluster.env["HF_HOME"] = str(cluster.base.parent / "hf_home")
    nights = Nightly(cluster.call, cluster.base)
    nights.add_checkpoint(1000)
    first = nights.render()
    nights.set_mood("hold")
    cluster.run("oe-submit", stdin=first)
    wait_until(lambda: any(state.endswith("RUNNING") for state in cluster.queue()), 120)

    # One row runs, or waits for it; only the new checkpoint is evaluated, and one row fails.
    nights.add_checkpoint(2000)
    second = nights.render()
    assert nights.work(second) == ["2000 oellm_choice", "2000 moody"]
    cluster.run("oe-submit", stdin=second)
    assert "oe-missing: 0 of 4 rows are missing (0 of them failed); " in nights.missing().stderr
    nights.set_mood("broken")
    nights.set_mood("hold", False)
    cluster.wait()

    nights.set_mood("broken", False)
    nights.add_checkpoint(3000)
    third = nights.render()
    failed = ["1000 moody", "2000 moody"]
    assert nights.work(third) == [*failed, "3000 oellm_choice", "3000 moody"]
    cluster.run("oe-submit", "--wait=done", "--poll=2", stdin=third)
    everything = [f"{step} {task}" for step in (1, 2, 3) for task in ("oellm_choice", "moody")]
    assert nights.results() == {row.replace(" ", "000 "): 1 for row in everything}
    assert nights.work(nights.render()) == []
    assert nights.runs() == 3
