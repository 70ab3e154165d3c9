"""Second stages on real Slurm: they follow what was generated, and nothing waits for ever."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.dev_cluster import DevCluster
from support.second_stages import HEADER, install_toy
from support.toy_rows import ToyModel, records, wait_for


class StagedRun:
    """A run of the toy framework on the dev cluster."""

    def __init__(self, cluster: DevCluster, base: Path) -> None:
        self._cluster = cluster
        self._base = base
        base.mkdir()
        cluster.env |= install_toy(base / "plugin")
        self.path = Path()

    def model(self, name: str, *faults: str) -> ToyModel:
        made = ToyModel(self._base / name)
        made.set_faults(*faults)
        return made

    def render(self, *rows: tuple[ToyModel, str], shard_time: str, **settings: object) -> None:
        text = HEADER + "".join(f"{model.path},{task},,toy\n" for model, task in rows)
        options = [f"shard_time={shard_time}", "cpu_partition=cpu", f"python={sys.executable}"]
        options += ["gpus_per_node=4", f"venvs.toy={Path(sys.executable).parent.parent}"]
        options += [f"{name}={value}" for name, value in settings.items()]
        done = self._cluster.run("oe-render", *(f"--set={text}" for text in options), stdin=text)
        self.path = Path(json.loads(done)["run_dir"])

    def submit(self, *options: str, status: int = 0) -> str:
        command = ("oe-submit", *options, self.path)
        return self._cluster.call(*command, status=status).stderr

    def tasks(self, kind: str = "results") -> dict[str, Any]:
        return records(self.path, kind)

    def jobs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.path / "run.json").read_text())["jobs"]
        return found

    def state(self, job: dict[str, Any], index: int = 0) -> tuple[str, str]:
        """Return what Slurm says about an element, and why."""
        found = self._cluster.job(job["job_id"], index)
        return found["JobState"], found["Reason"]

    def requeue(self, job: dict[str, Any]) -> None:
        self._cluster.run("scontrol", "requeue", f"{job['job_id']}_0")


@pytest.fixture
def staged(shared_cluster: DevCluster, tmp_path: Path) -> StagedRun:
    return StagedRun(shared_cluster, tmp_path / "models é")


def is_over(cluster: DevCluster) -> Callable[[], bool]:
    return lambda: not cluster.queue()


def test_a_row_that_cannot_be_generated_does_not_keep_the_others_from_being_evaluated(
    staged: StagedRun, shared_cluster: DevCluster
) -> None:
    good, bad = staged.model("good"), staged.model("bad", "generate fail")
    rows = ((bad, "two"), (good, "two"), (good, "two_part"), (good, "one"))
    staged.render(*rows, shard_time="01:00:00")
    said = staged.submit("--wait=done", "--poll=1", status=1)
    assert "elements: 2 submitted" in said
    assert "3 of 4 rows have results" in said
    first, second = staged.jobs()
    assert f"--dependency=aftercorr:{first['job_id']}" in second["command"]
    assert (first["elements"], second["elements"]) == ([0], [0])
    assert sorted(good.steps()) == ["both", "evaluate", "evaluate", "generate"]
    assert bad.steps() == ["generate"]
    job = shared_cluster.job(second["job_id"], 0)
    assert (job["Partition"], job["JobState"]) == ("cpu", "COMPLETED")
    assert "gres/gpu" not in job["TRES"]
    # Only what is missing is done again.
    bad.set_faults()
    staged.submit("--wait=done", "--poll=1")
    assert len(good.steps()) == 4
    assert bad.steps() == ["generate", "generate", "evaluate"]
    assert shared_cluster.queue() == []


def test_a_failed_generation_ends_what_follows_and_the_next_call_tries_both_again(
    staged: StagedRun, shared_cluster: DevCluster
) -> None:
    good, bad = staged.model("good"), staged.model("bad", "generate fail")
    staged.render((good, "two"), (bad, "two"), shard_time="0")
    staged.submit("--wait=done", "--poll=1", status=1)
    assert shared_cluster.queue() == []
    second = staged.jobs()[1]
    states = {staged.state(second, index) for index in (0, 1)}
    assert states == {("COMPLETED", "None"), ("CANCELLED", "DependencyNeverSatisfied")}
    bad.set_faults("evaluate fail")
    staged.submit("--wait=done", "--poll=1", status=1)
    assert bad.steps() == ["generate", "generate", "evaluate"]
    # What was generated is there, so this one waits for nothing.
    bad.set_faults()
    staged.submit("--wait=done", "--poll=1")
    assert bad.steps() == ["generate", "generate", "evaluate", "evaluate"]
    assert good.steps() == ["generate", "evaluate"]
    assert [word for word in staged.jobs()[-1]["command"] if "dependency" in word] == []


def test_what_follows_waits_for_a_generation_that_was_requeued(
    staged: StagedRun, shared_cluster: DevCluster
) -> None:
    slow = staged.model("slow", "generate wait")
    staged.render((slow, "two"), shard_time="0")
    staged.submit()
    first, second = staged.jobs()
    wait_for(lambda: slow.steps() == ["generate"])
    staged.requeue(first)
    wait_for(lambda: slow.steps() == ["generate"] * 2)
    assert staged.state(second) == ("PENDING", "Dependency")
    shards = shared_cluster.call("oe-status", "--shards", "--format=csv", staged.path, status=75)
    assert "waits for its first stages" in shards.stdout
    assert "2 already in the queue" in staged.submit()
    Path(f"{slow.path}.go").touch()
    wait_for(is_over(shared_cluster))
    assert slow.steps() == ["generate", "generate", "evaluate"]
    assert set(staged.tasks()) == {"two"}
    assert "all 1 rows have results" in staged.submit()


def test_cancelling_takes_both_and_the_next_call_continues(
    staged: StagedRun, shared_cluster: DevCluster
) -> None:
    slow, other = staged.model("slow", "generate wait"), staged.model("other", "generate wait")
    staged.render((slow, "two"), (other, "two"), shard_time="0")
    staged.submit()
    wait_for(lambda: slow.steps() and other.steps())
    # The second model goes on to its evaluation, which waits in vain.
    other.set_faults("evaluate hang")
    Path(f"{other.path}.go").touch()
    wait_for(lambda: len(other.steps()) == 2)
    said = staged.submit("--cancel")
    assert said.count("cancelled job ") == 2
    wait_for(is_over(shared_cluster))
    first, second = staged.jobs()
    assert second["cancelled"]
    assert first["cancelled"]
    Path(f"{slow.path}.go").touch()
    other.set_faults()
    staged.submit("--wait=done", "--poll=1")
    assert slow.steps() == ["generate", "generate", "evaluate"]
    assert other.steps() == ["generate", "evaluate", "evaluate"]
    assert set(staged.tasks()) == {"two"}


def test_workers_of_a_node_are_followed_together(
    staged: StagedRun, shared_cluster: DevCluster
) -> None:
    good, bad = staged.model("good"), staged.model("bad", "generate fail")
    staged.render((good, "two"), (bad, "two"), shard_time="0", whole_node="true", mem="1000M")
    (first, second) = json.loads((staged.path / "run.json").read_text())["arrays"]
    assert (first["workers"], second["workers"]) == (4, 1)
    said = staged.submit("--wait=done", "--poll=1", status=1)
    assert "elements: 2 submitted" in said
    # One of two workers had nothing to leave, and what follows has begun all the same.
    assert staged.state(staged.jobs()[0]) == ("COMPLETED", "None")
    assert good.steps() == ["generate", "evaluate"]
    assert bad.steps() == ["generate"]
