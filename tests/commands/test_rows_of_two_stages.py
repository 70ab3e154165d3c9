"""Rows with two stages through all commands: names, facts, states, what is missing or stale.

The tests share a run; the last one changes its models.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oellm.core import schema
from oellm.frameworks.stages import GENERATE
from support.model_directories import weights
from support.processes import rows_of, runner
from support.second_stages import complete_model, install_toy
from support.toy_rows import ToyModel

LOCAL = ("--cluster=local", "--set=allow_cpu=true", "--set=shard_time=0")
# Tasks with one stage and with two; the last two share a first one.
TASKS = "one,two,two_part"
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def call(home: Path) -> Call:
    """Return how to run a command that knows the toy framework."""
    env, run = install_toy(home / "plugin"), runner(home)
    base = f"--set=eval_base_dir={home}/base"

    def command(name: str, *arguments: str | Path, **how: Any) -> Any:
        options = (*LOCAL, base) if name in ("oe-fetch", "oe-render") else ()
        return run(name, *options, *arguments, env={**env, **how.pop("env", {})}, **how)

    return command


class Evaluated:
    """A run of three models: all is well, the generation fails, the evaluation fails."""

    def __init__(self, call: Call, directory: Path) -> None:
        self.good = complete_model(directory / "models/good")
        complete_model(directory / "models/mute", "generate fail", seed=1)
        self.late = complete_model(directory / "models/late", "evaluate fail", seed=2)
        asked = ("--models", directory / "models", "--eval_suite=toy")
        self.fetched = call("oe-fetch", stdin=call("oe-manifest", *asked, "--tasks", TASKS).stdout)
        self.path = directory / "runs" / "run"
        call("oe-render", "--run_dir", self.path, stdin=self.fetched.stdout)
        call("oe-submit", self.path, status=1)


@pytest.fixture(scope="module")
def evaluated(call: Call, home: Path) -> Evaluated:
    return Evaluated(call, home)


def states(text: str) -> list[str]:
    """Return model, task, stage and state of each row of oe-status that is not done."""
    rows = (row for row in rows_of(text) if row["state"] != "done")
    return [
        f"{Path(r['model_path']).name} {r['task_path']} {r['stage']} {r['state']}" for r in rows
    ]


def test_unknown_names_are_told_before_anything_runs(call: Call, tmp_path: Path) -> None:
    model = complete_model(tmp_path / "model")
    asked = ("--models", model.path, "--eval_suite=toy", "--tasks=two_prat")
    hint = "toy has no task 'two_prat' in version 1.0, did you mean two_part?"
    assert hint in call("oe-manifest", *asked, status=2).stderr
    rows = f"model_path,task_path,n_shot,eval_suite\n{model.path},two,,toy\n{model.path},tow,,toy\n"
    done = call("oe-render", "--run_dir", tmp_path / "run", stdin=rows, status=2)
    assert done.stderr.startswith("oe-render: stdin:3: task_path: toy has no task 'tow'")
    assert not (tmp_path / "run").exists()
    done = call("oe-fetch", stdin=rows, status=1)
    assert "stdin:3: task_path: toy has no task 'tow'" in done.stderr
    assert [row["task_path"] for row in rows_of(done.stdout)] == ["two"]


def test_a_suite_has_tasks_of_several_frameworks(call: Call, home: Path, tmp_path: Path) -> None:
    model = complete_model(tmp_path / "model")
    tasks = [
        {"task": "humaneval", "eval_suite": "evalplus"},
        {"task": "humaneval", "eval_suite": "bigcode_eval"},
    ]
    wrong = [{"task": "humanevl"}, {"task": "humaneval", "n_shot": [3]}]
    suites = home / "suites.json"
    suites.write_text(
        json.dumps(
            {
                "groups": {
                    "code": {"description": "right", "tasks": [*tasks, {"task": "mbpp"}]},
                    "none": {"description": "wrong", "eval_suite": "evalplus", "tasks": wrong},
                }
            }
        )
    )
    asked = ("oe-manifest", "--models", model.path, "--suites", suites, "--task_groups")
    printed = rows_of(call(*asked, "code").stdout)
    assert [row["eval_suite"] for row in printed] == ["evalplus", "bigcode_eval", "lm_eval"]
    told = call(*asked, "none", status=2).stderr
    assert "suite none: n_shot: evalplus has no few-shot examples" in told
    assert "suite none: evalplus has no task 'humanevl' in version 0.3.1, did you mean" in told
    # An option is to blame, whatever suite a task is of.
    told = call(*asked, "code", "--gen_kwargs=n_samples=2", status=2).stderr
    assert "oe-manifest: gen_kwargs: n_samples above 1 are all alike" in told


def test_both_stages_of_each_row_are_told_by_all_commands(
    call: Call, evaluated: Evaluated, home: Path
) -> None:
    facts = rows_of(evaluated.fetched.stdout)
    assert {(row["n_docs"], row["request_types"]) for row in facts} == {("4", "generate_until=4")}
    assert len({row["task_digest"] for row in facts}) == 3
    found = call("oe-status", evaluated.path, status=1).stdout
    assert states(found) == [
        *("late two evaluate failed", "late two_part evaluate failed"),
        *("mute two generate failed", "mute two_part generate failed"),
    ]
    failed = [row for row in rows_of(found) if row["state"] == "failed"]
    assert all(Path(row["log"]).is_file() for row in failed)
    content = json.loads(call("oe-status", "--format=json", evaluated.path, status=1).stdout)
    assert [(shard["stage"], shard["state"]) for shard in content["shards"]] == [
        *[("generate", "done")] * 2,
        *[("generate", "failed"), ("evaluate", "done")],
        *[("evaluate", "failed")] * 2,
    ]
    scores = rows_of(call("oe-collect", evaluated.path).stdout)
    assert {(row["task"], row["value"]) for row in scores} == {
        (task, "0.75") for task in TASKS.split(",")
    }
    page = call("oe-report", evaluated.path).stdout
    for stage in (GENERATE, "evaluate"):
        assert f"<td>{stage}: ProgramFailed: the program ended with status 3" in page
    missing = call("oe-missing", evaluated.path)
    assert missing.stderr == "oe-missing: 4 of 9 rows have no valid result\n"
    looked_up = call(
        "oe-missing",
        "--failed",
        "--in",
        home / "runs",
        *LOCAL[:1],
        stdin=evaluated.fetched.stdout,
    )
    for text in (missing.stdout, looked_up.stdout):
        assert {Path(row["model_path"]).name for row in rows_of(text)} == {"late", "mute"}


def test_keys_of_a_first_output_are_those_of_the_schema(evaluated: Evaluated) -> None:
    paths = sorted((evaluated.path / "stages").glob("*/*/stage.json"))
    # Of two models, one each for the tasks that share it.
    assert len(paths) == 2
    for path in paths:
        record = json.loads(path.read_text())
        assert list(record) == list(schema.table("stage"))
        assert (record["stage"], path.parent.name) == (GENERATE, GENERATE)


def test_a_first_output_of_other_weights_is_told_and_computed_again(
    call: Call, evaluated: Evaluated
) -> None:
    for model in (evaluated.good, evaluated.late):
        model.set_weights(weights(100, seed=9))
    evaluated.late.set_faults()
    assert states(call("oe-status", evaluated.path, status=75).stdout) == [
        *(f"good {row} not submitted" for row in ("one ", "two generate", "two_part generate")),
        *(f"late {row} not submitted" for row in ("one ", "two generate", "two_part generate")),
        *("mute two generate failed", "mute two_part generate failed"),
    ]
    before = count_steps(evaluated.late)
    done = call("oe-submit", evaluated.path, status=1)
    for model in (evaluated.good, evaluated.late):
        told = f"the output of a first stage of {model.path}: weights changed; set aside"
        assert told in done.stderr
    assert {step: n - before.get(step, 0) for step, n in count_steps(evaluated.late).items()} == {
        "both": 1,
        "generate": 1,
        "evaluate": 2,
    }
    assert states(call("oe-status", evaluated.path, status=1).stdout) == [
        *("mute two generate failed", "mute two_part generate failed")
    ]
    assert len(list((evaluated.path / "stages").glob("*/generate.stale-*"))) == 2
    assert len(list((evaluated.path / "stages").glob("*/generate/stage.json"))) == 2


def count_steps(model: ToyModel) -> dict[str, int]:
    steps = model.steps()
    return {step: steps.count(step) for step in steps}
