"""The shards of a run with programs: first stages in one, second stages in the one that follows."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from oellm.models.model_digests import ModelDigests
from oellm.runs.accepted_contents import AcceptedContents, model_source, write_accepted
from oellm.runs.run_directory import load_run
from support.toy_rows import (
    PATIENCE,
    ToyModel,
    evaluate,
    manifest,
    messages,
    processes,
    records,
    start,
    wait_for,
    worker,
)

pytestmark = pytest.mark.slow


class ToyRun:
    """A run of rows of the toy, and the shards that compute its first and its second stages."""

    def __init__(self, rows: str, home: Path, *settings: str) -> None:
        self.path = home / "run"
        self._home = home
        with start(
            "oe_render", "--cluster=local", f"--run_dir={self.path}", *settings, home=home
        ) as process:
            process.communicate(rows, PATIENCE)
        assert process.returncode == 0, messages(home)
        run = json.loads((self.path / "run.json").read_text())
        follows = [array.get("follows") for array in run["arrays"]]
        shards = [(shard["index"], follows[shard["array"]]) for shard in run["shards"]]
        (self.first,) = (index for index, before in shards if before is None)
        (self.later,) = (index for index, before in shards if before is not None)

    def arguments(self, shard: int) -> list[str]:
        return ["--run_dir", str(self.path), "--shard", str(shard)]

    def evaluate(self, shard: int, status: int = 0) -> str:
        """Run the worker of a shard to its end; return its messages."""
        return evaluate("", *self.arguments(shard), home=self._home, status=status)

    def accept(self) -> str:
        """Accept the models as they are now, as oe-submit does; return the last one's digest."""
        digests = ModelDigests()
        models = {model_source(row): digests.digest(row) for row in load_run(self.path).rows()}
        accepted = AcceptedContents(models, {}, kept=frozenset(), directories={})
        write_accepted(self.path, accepted)
        return list(models.values())[-1]

    def heartbeat(self, shard: int) -> Any:
        """Return what a worker has written last about itself."""
        path = self.path / "progress" / f"{shard}.json"
        return json.loads(path.read_text()) if path.exists() else {"rows": []}


def test_each_shard_computes_its_own_stage(model: ToyModel, tmp_path: Path) -> None:
    run = ToyRun(manifest((model, "two"), (model, "two_part"), (model, "one")), tmp_path)
    told = run.evaluate(run.first)
    assert "1 rows evaluated, 0 already had results, 0 failed, 2 have the output" in told
    assert sorted(model.steps()) == ["both", "generate"]
    assert records(run.path).keys() == {"one"}
    # What is there is not computed again.
    told = run.evaluate(run.first)
    assert "0 rows evaluated, 1 already had results, 0 failed, 2 have the output" in told
    assert len(model.steps()) == 2
    assert "2 rows evaluated" in run.evaluate(run.later)
    assert sorted(model.steps()) == ["both", "evaluate", "evaluate", "generate"]
    assert records(run.path).keys() == {"one", "two", "two_part"}


def test_a_shard_that_another_follows_succeeds_if_that_has_something_to_do(
    model: ToyModel, tmp_path: Path
) -> None:
    other = ToyModel(tmp_path / "models" / "other", b"another model's weights")
    run = ToyRun(manifest((model, "two"), (other, "two")), tmp_path)
    model.set_faults("generate fail")
    other.set_faults("generate fail")
    assert "2 failed" in run.evaluate(run.first, status=1)
    other.set_faults()
    assert "1 failed, 1 have the output" in run.evaluate(run.first, status=0)
    # The other row is left out, and keeps the failure of its first stage.
    told = run.evaluate(run.later)
    assert f"{model.path} two left out: it has no output of the stage generate" in told
    assert "failed, 1 have no output of their first stage" in told
    assert records(run.path).keys() == {"two"}
    failure = records(run.path, "failures")["two"]["failure"]
    assert (failure["stage"], failure["attempts"]) == ("generate", 2)
    # Once a row has its result, a first stage that still fails is a failure again.
    assert "1 failed" in run.evaluate(run.first, status=1)


def test_a_model_that_changes_between_the_stages(model: ToyModel, tmp_path: Path) -> None:
    run = ToyRun(manifest((model, "two")), tmp_path)
    run.evaluate(run.first)
    # The second stage needs the model no more, whatever has become of it.
    model.set_weights(b"fedcba9876543210")
    assert "1 rows evaluated" in run.evaluate(run.later)
    digest = records(run.path)["two"]["contents"]["model"]
    (stage,) = run.path.glob("stages/*/generate/stage.json")
    assert digest == json.loads(stage.read_text())["contents"]["model"]


def test_weights_that_change_after_oe_submit(model: ToyModel, tmp_path: Path) -> None:
    run = ToyRun(manifest((model, "two"), (model, "one")), tmp_path)
    before = run.accept()
    model.set_weights(b"fedcba9876543210")
    told = run.evaluate(run.first, status=1)
    assert told.count("weights changed since oe-submit; run oe-submit again") == 2
    assert model.steps() == []
    assert run.accept() != before
    run.evaluate(run.first)
    assert records(run.path).keys() == {"one"}
    # The next oe-submit accepts other weights again: the first output is of none that count.
    model.set_weights(b"0123456789abcdef")
    assert run.accept() == before
    told = run.evaluate(run.later)
    assert "two left out: weights changed; earlier output of the stage generate set aside" in told
    assert "1 have the output" in run.evaluate(run.first)
    assert "1 rows evaluated" in run.evaluate(run.later)
    assert records(run.path)["two"]["contents"]["model"] == before
    assert model.steps().count("generate") == 2


def test_weights_that_change_while_the_program_reads_them(model: ToyModel, tmp_path: Path) -> None:
    run = ToyRun(manifest((model, "two"), (model, "one")), tmp_path)
    run.accept()
    model.set_faults("generate wait")
    with worker("", *run.arguments(run.first), home=tmp_path) as process:
        wait_for(model.steps)
        model.set_weights(b"fedcba9876543210")
        model.go()
        assert process.wait(PATIENCE) == 1
    failure = records(run.path, "failures")["two"]["failure"]
    assert (failure["class"], failure["stage"]) == ("ContentsChangedError", "generate")
    assert not list(run.path.glob("stages/*/*"))


def test_heartbeats_name_the_stage_and_a_killed_batch_script_ends_it(
    model: ToyModel, tmp_path: Path
) -> None:
    run = ToyRun(manifest((model, "two")), tmp_path)
    model.set_faults("generate hang")
    script = subprocess.Popen(["bash", "-c", "sleep 600; true"], start_new_session=True)
    variables = {"OELLM_SCRIPT_PID": str(script.pid)}
    with worker("", *run.arguments(run.first), home=tmp_path, env=variables) as process:
        wait_for(lambda: "hangs" in messages(tmp_path))
        (row,) = run.heartbeat(run.first)["rows"]
        assert (row["stage"], row["phase"]) == ("generate", "scoring")
        os.killpg(script.pid, signal.SIGKILL)
        script.wait()
        assert process.wait(PATIENCE) == 75
    assert run.heartbeat(run.first)["ended"] == "stopped by SIGTERM"
    assert processes(tmp_path) == []
    # Lines of a program in a job have the time, as all lines of a log.
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d hangs$", messages(tmp_path), re.MULTILINE)


def test_an_output_that_was_there_is_no_progress(model: ToyModel, tmp_path: Path) -> None:
    other = ToyModel(tmp_path / "models" / "other", b"another model's weights")
    settings = ("--set=requeues=0", "--set=stop_before=1")
    run = ToyRun(manifest((model, "two"), (other, "two")), tmp_path, *settings)
    other.set_faults("generate fail")
    assert "1 failed, 1 have the output" in run.evaluate(run.first)
    other.set_faults("generate hang")
    job = {"SLURM_ARRAY_JOB_ID": "4711"}
    with worker("", *run.arguments(run.first), home=tmp_path, env=job) as process:
        wait_for(lambda: "hangs" in messages(tmp_path))
        process.send_signal(signal.SIGUSR1)
        assert process.wait(PATIENCE) == 1
    assert "stuck: 1 times in a row the time ran out" in messages(tmp_path)


def test_a_program_reads_the_copy_of_the_model_on_the_node(model: ToyModel, tmp_path: Path) -> None:
    node = tmp_path / "node"
    run = ToyRun(manifest((model, "two"), (model, "one")), tmp_path, f"--set=stage_dir={node}")
    assert "1 rows evaluated" in run.evaluate(run.first)
    # The toy notes what it does beside the directory that it reads.
    (log,) = node.glob("*/*.log")
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["generate", "both"]
    assert model.steps() == []
    # The copy is gone.
    assert not list(node.rglob("config.json"))
