"""Second stages follow first ones: what is submitted after what, again, and not at all."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.processes import Run, clean_environment
from support.second_stages import HEADER, generate, install_toy, render
from support.submitting import FakeSlurm, finish, jobs, until_it_says, waiting
from support.toy_rows import ToyModel

# Slurm's reason why a job waits that can never begin.
NEVER = "DependencyNeverSatisfied"
MODELS = ("acme/m0", "acme/m1", "acme/m2")
# The last model has no second stage.
ROWS = "".join(f"{model},two,,toy\n{model},one,,toy\n" for model in MODELS) + "acme/m3,one,,toy\n"


@pytest.fixture
def record(run: Run, slurm: FakeSlurm, tmp_path: Path) -> dict[str, Any]:
    """Render a run of four shards, three of which are followed by second stages."""
    slurm.env |= install_toy(tmp_path / "plugin")
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").touch()
    settings = (f"eval_base_dir={tmp_path}/base", "shard_time=0", f"venvs.toy={tmp_path}/venv")
    made = render(run, ROWS, slurm.env, *settings)
    assert [array["elements"] for array in made["arrays"]] == [4, 4]
    assert [shard["rows"] for shard in made["shards"]] == [2, 2, 2, 1, 1, 1, 1, 0]
    return made


def submissions(record: dict[str, Any], since: int = 0) -> list[tuple[int, list[int], str]]:
    """Return array, elements and dependency of each submission."""
    found = []
    for job in jobs(record)[since:]:
        after = [word for word in job["command"] if word.startswith("--dependency=")]
        assert ("--kill-on-invalid-dep=yes" in job["command"]) == bool(after)
        text = after[0].removeprefix("--dependency=") if after else ""
        found.append((job["array"], job["elements"], text))
    return found


def ends(slurm: FakeSlurm, *lines: str) -> None:
    """Take elements, as `JOB|INDEX|`, out of the queue."""
    kept = [
        line
        for line in (slurm.directory / "queue").read_text().splitlines(keepends=True)
        if not line.startswith(lines)
    ]
    slurm.says("queue", "".join(kept))


def test_second_stages_follow_the_elements_with_their_indices(
    run: Run, slurm: FakeSlurm, record: dict[str, Any]
) -> None:
    done = run("oe-submit", record["run_dir"], env=slurm.env)
    assert "elements: 7 submitted" in done.stderr
    assert submissions(record) == [(0, [0, 1, 2, 3], ""), (1, [0, 1, 2], "aftercorr:4711")]
    assert slurm.submitted() == ["0-3", "0-2"]
    assert "as job 4712: elements 0-2 of " in done.stderr
    assert "submit_evals-evaluate.sbatch, each after that of job 4711" in done.stderr
    # All are in the queue.
    assert "7 already in the queue" in run("oe-submit", record["run_dir"], env=slurm.env).stderr
    assert slurm.submitted() == []


def test_only_what_is_missing_is_submitted_again(
    run: Run, slurm: FakeSlurm, record: dict[str, Any]
) -> None:
    finish(record, 0)
    # The rows of the first model have all results, those of the second only their answers.
    generate(Path(record["run_dir"]), *MODELS[1:2])
    run("oe-submit", record["run_dir"], env=slurm.env)
    assert submissions(record) == [
        # Of the second model, the row with one stage is missing.
        (0, [1, 2, 3], ""),
        (1, [1, 2], "aftercorr:4711"),
    ]
    slurm.says("queue", "")
    finish(record, 3)
    one_stage(record, MODELS[1])
    generate(Path(record["run_dir"]), MODELS[1])
    slurm.submitted()
    run("oe-submit", record["run_dir"], env=slurm.env)
    assert submissions(record, 2) == [
        (0, [2], ""),
        # Its answers are there, so it waits for nothing.
        (1, [1], ""),
        (1, [2], "aftercorr:4713"),
    ]


def one_stage(record: dict[str, Any], model: str) -> None:
    """Write the result of a model's row with one stage."""
    path = Path(record["run_dir"], "jobs.csv")
    text = path.read_text()
    others = [line for line in text.splitlines()[1:] if f"{model},one," not in line]
    path.write_text("\n".join(line for line in text.splitlines() if line not in others) + "\n")
    finish(record, *range(4))
    path.write_text(text)


def test_an_element_follows_what_is_in_the_queue_already(
    run: Run, slurm: FakeSlurm, record: dict[str, Any]
) -> None:
    slurm.says("array_size", "2")
    run("oe-submit", record["run_dir"], env=slurm.env)
    batches = [(0, [0, 1], ""), (0, [2, 3], "")]
    assert submissions(record) == [
        *batches,
        (1, [0, 1], "aftercorr:4711"),
        (1, [2], "aftercorr:4712"),
    ]
    assert slurm.submitted() == ["0-1", "0-1", "0-1", "0"]
    # Somebody cancels two evaluations.
    ends(slurm, "4713|1|", "4714|")
    run("oe-submit", record["run_dir"], env=slurm.env)
    assert submissions(record, 4) == [(1, [1], "aftercorr:4711"), (1, [2], "aftercorr:4712")]
    assert slurm.submitted() == ["1", "0"]


def test_the_queue_limit_counts_both_and_none_is_submitted_without_what_it_follows(
    run: Run, slurm: FakeSlurm, record: dict[str, Any]
) -> None:
    for limit, expected in (
        (3, [(0, [0, 1, 2], "")]),
        (5, [(0, [3], ""), (1, [0], "aftercorr:4711")]),
        (9, [(1, [1, 2], "aftercorr:4711")]),
    ):
        before = len(jobs(record))
        done = run("oe-submit", f"--queue_limit={limit}", record["run_dir"], env=slurm.env)
        assert submissions(record, before) == expected
        assert ("waiting for room" in done.stderr) == (limit < 9)


def test_what_failed_is_tried_again_with_what_follows_it(
    run: Run, slurm: FakeSlurm, record: dict[str, Any]
) -> None:
    run("oe-submit", record["run_dir"], env=slurm.env)
    finish(record, 0, 3)
    # The second model's job failed; Slurm ends its evaluation. The third was evaluated, in vain.
    generate(Path(record["run_dir"]), MODELS[2])
    one_stage(record, MODELS[2])
    slurm.says("queue", "")
    run("oe-submit", record["run_dir"], env=slurm.env)
    assert submissions(record, 2) == [
        (0, [1], ""),
        (1, [2], ""),
        (1, [1], "aftercorr:4713"),
    ]


def test_a_waiting_call_evaluates_what_a_failed_job_has_left(
    tmp_path: Path, slurm: FakeSlurm, record: dict[str, Any]
) -> None:
    with waiting(tmp_path, slurm, record, "--poll=1") as process:
        until_it_says(process, "elements: 7 submitted")
        finish(record, 0, 2, 3)
        # The first stage of this row is there, but its job was killed, so Slurm ends what follows.
        generate(Path(record["run_dir"]), MODELS[1])
        slurm.says("queue", "")
        until_it_says(process, "submitted as job 4713: elements 1 of ")
        assert submissions(record, 2) == [(1, [1], "")]
        # That job leaves nothing either; one call tries it once.
        slurm.says("queue", "")
        until_it_says(process, "elements: 2 ended")
    assert len(jobs(record)) == 3


def test_what_was_cancelled_meanwhile_is_not_submitted_again(
    run: Run, tmp_path: Path, slurm: FakeSlurm, record: dict[str, Any]
) -> None:
    with waiting(tmp_path, slurm, record, "--poll=1") as process:
        until_it_says(process, "elements: 7 submitted")
        generate(Path(record["run_dir"]), MODELS[1])
        run("oe-submit", "--cancel", record["run_dir"], env=slurm.env)
        until_it_says(process, "elements: 7 ended")
    assert len(jobs(record)) == 2


def test_a_second_stage_that_nothing_came_for_is_not_submitted_alone(
    tmp_path: Path, slurm: FakeSlurm, record: dict[str, Any]
) -> None:
    with waiting(tmp_path, slurm, record, "--poll=1") as process:
        until_it_says(process, "elements: 7 submitted")
        finish(record, 0, 2, 3)
        slurm.says("queue", "")
        until_it_says(process, "1 without anything from a first stage")
        assert process.wait() == 1
    assert len(jobs(record)) == 2


def test_what_can_never_begin_is_taken_out_of_the_queue_and_tried_again(
    run: Run, slurm: FakeSlurm, record: dict[str, Any]
) -> None:
    run("oe-submit", record["run_dir"], env=slurm.env)
    lines = (slurm.directory / "queue").read_text()
    # A site that ignores --kill-on-invalid-dep.
    waits, hopeless = (f"4712|1|PENDING|{reason}|" for reason in ("Dependency", NEVER))
    slurm.says("queue", lines.replace(waits, hopeless))
    ends(slurm, "4711|1|")
    done = run("oe-submit", "--dry_run", record["run_dir"], env=slurm.env)
    assert "--array=1 " in done.stdout
    assert not (slurm.directory / "scancel.arguments").exists()
    run("oe-submit", record["run_dir"], env=slurm.env)
    assert (slurm.directory / "scancel.arguments").read_text() == "4712_1\n"
    assert submissions(record, 2) == [(0, [1], ""), (1, [1], "aftercorr:4713")]


def test_cancelling_takes_what_follows_first(
    run: Run, slurm: FakeSlurm, record: dict[str, Any]
) -> None:
    run("oe-submit", record["run_dir"], env=slurm.env)
    done = run("oe-submit", "--cancel", record["run_dir"], env=slurm.env)
    assert (slurm.directory / "scancel.arguments").read_text() == "4712\n4711\n"
    assert "cancelled job 4712: elements 0-2" in done.stderr
    assert [job["cancelled"] for job in jobs(record)] == [[0, 1, 2, 3], [0, 1, 2]]
    assert slurm.queue() == []


def test_a_dry_run_is_a_script_that_submits_the_same(
    run: Run, tmp_path: Path, slurm: FakeSlurm, record: dict[str, Any]
) -> None:
    lines = run("oe-submit", "--dry_run", record["run_dir"], env=slurm.env).stdout
    assert slurm.submitted() == []
    subprocess.run(["bash", "-euc", lines], env=clean_environment(tmp_path, slurm.env), check=True)
    words = (slurm.directory / "sbatch.arguments").read_text().splitlines()
    assert [word for word in words if word.startswith("--dependency")] == [
        "--dependency=aftercorr:4711"
    ]
    assert slurm.submitted() == ["0-3", "0-2"]


def test_jobs_on_another_cluster_are_followed_there(
    run: Run, slurm: FakeSlurm, record: dict[str, Any]
) -> None:
    env = slurm.env | {"SBATCH_CLUSTERS": "east"}
    run("oe-submit", record["run_dir"], env=env)
    assert submissions(record) == [(0, [0, 1, 2, 3], ""), (1, [0, 1, 2], "aftercorr:4711")]
    assert [job["cluster"] for job in jobs(record)] == ["east", "east"]
    queue = slurm.directory / "queue.east"
    queue.write_text("".join(line for line in queue.open() if not line.startswith("4712|")))
    run("oe-submit", record["run_dir"], env=env)
    (again,) = jobs(record)[2:]
    assert {"--clusters=east", "--dependency=aftercorr:4711"} <= set(again["command"])


def test_a_node_is_excluded_from_the_kind_of_jobs_that_it_ends(
    run: Run, slurm: FakeSlurm, record: dict[str, Any]
) -> None:
    generate(Path(record["run_dir"]), *MODELS)
    run("oe-submit", record["run_dir"], env=slurm.env)
    times = "2026-01-01T00:00:00|2026-01-01T00:00:09"
    comment = jobs(record)[1]["comment"]
    assert submissions(record)[1] == (1, [0, 1, 2], "aftercorr:4711")
    tail = f"256|0|{times}|acme|normal|{comment}|\n"
    lines = [f"4712|{index}|FAILED|NonZeroExitCode|n1|{tail}" for index in range(3)]
    slurm.says("queue", "".join(lines))
    done = run("oe-submit", record["run_dir"], env=slurm.env)
    assert "node n1 is excluded from now on: 3 jobs ended there" in done.stderr
    words = [
        [word for word in job["command"] if word.startswith("--exclude")]
        for job in jobs(record)[2:]
    ]
    assert words == [[], ["--exclude=n1"]]
    (node,) = jobs_content(record)["nodes"]
    assert (node["node"], node["cpu_only"]) == ("n1", True)
    run("oe-submit", "--include_nodes=n1", record["run_dir"], env=slurm.env)
    (node,) = jobs_content(record)["nodes"]
    assert (node["ended"], len(node["forgiven"])) == ([], 3)


def jobs_content(record: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(record["run_dir"], "run.json").read_text())
    return content


@pytest.mark.slow
def test_the_local_executor_evaluates_what_could_be_generated(run: Run, tmp_path: Path) -> None:
    env = install_toy(tmp_path / "plugin")
    good, bad = (ToyModel(tmp_path / name) for name in ("good", "bad"))
    bad.set_faults("generate fail")
    rows = "".join(
        f"{model.path},{task},,toy\n"
        for model in (good, bad)
        for task in ("two", "two_part", "one")
    )
    options = ("--cluster=local", "--set=shard_time=0", f"--set=eval_base_dir={tmp_path}/base")
    rendered = run("oe-render", *options, stdin=HEADER + rows, env=env)
    run_dir = json.loads(rendered.stdout)["run_dir"]
    done = run("oe-submit", "--jobs=4", run_dir, env=env, status=1)
    assert "4 of 6 rows have results" in done.stderr
    assert "without anything from a first stage, not started" in done.stderr
    # The two rows share a generation.
    assert sorted(good.steps()) == ["both", "evaluate", "evaluate", "generate"]
    assert good.steps()[-2:] == ["evaluate", "evaluate"]
    assert "evaluate" not in bad.steps()
    bad.set_faults()
    before = len(good.steps())
    run("oe-submit", run_dir, env=env)
    assert len(good.steps()) == before
    assert bad.steps()[-3:] == ["generate", "evaluate", "evaluate"]
    # The next plan knows how long both stages took.
    explained = run("oe-render", "--explain", *options, stdin=HEADER + rows, env=env).stdout
    lines = list(csv.DictReader(explained.splitlines()))
    stages = {"two": ["generate", "evaluate"], "two_part": ["generate", "evaluate"], "one": [""]}
    for model in (good, bad):
        ours = [line for line in lines if line["model_path"] == str(model.path)]
        for task, expected in stages.items():
            assert [line["stage"] for line in ours if line["task_path"] == task] == expected
        first, *others = [line for line in ours if line["stage"] == "generate"]
        assert 0 < float(first["seconds"]) < 30
        assert [float(line["seconds"]) for line in others] == [0]
    assert {line["basis"] for line in lines} == {"measured"}


@pytest.mark.slow
def test_answers_of_a_model_that_was_changed_are_generated_again(run: Run, tmp_path: Path) -> None:
    env = install_toy(tmp_path / "plugin")
    model = ToyModel(tmp_path / "model")
    model.set_faults("evaluate fail")
    rows = "".join(f"{model.path},{task},,toy\n" for task in ("two", "two_part"))
    options = ("--cluster=local", f"--set=eval_base_dir={tmp_path}/base")
    rendered = run("oe-render", *options, stdin=HEADER + rows, env=env)
    run_dir = json.loads(rendered.stdout)["run_dir"]
    run("oe-submit", run_dir, env=env, status=1)
    assert model.steps() == ["generate", "evaluate", "evaluate"]
    model.set_weights(b"others, of another size")
    model.set_faults()
    dry = run("oe-submit", "--dry_run", run_dir, env=env)
    assert "the output of a first stage of " in dry.stderr
    assert "would be evaluated again" in dry.stderr
    assert len(dry.stdout.splitlines()) == 2
    said = run("oe-submit", run_dir, env=env)
    assert "set aside, to be evaluated again" in said.stderr
    assert model.steps()[3:] == ["generate", "evaluate", "evaluate"]
    assert len(list(Path(run_dir).glob("stages/*/generate.stale-*"))) == 1


@pytest.mark.slow
def test_a_node_of_second_stages_needs_no_place_for_models(run: Run, tmp_path: Path) -> None:
    env = install_toy(tmp_path / "plugin") | {"LOCAL_SSD": str(tmp_path / "ssd")}
    model = ToyModel(tmp_path / "model")
    options = (f"--set=eval_base_dir={tmp_path}/base", "--set=stage_dir=$LOCAL_SSD")
    rows = f"{HEADER}{model.path},two,,toy\n"
    rendered = run("oe-render", "--cluster=local", *options, stdin=rows, env=env)
    run_dir = json.loads(rendered.stdout)["run_dir"]
    path = Path(run_dir, "submit_evals-evaluate.sbatch")
    text = path.read_text()
    assert text.count("\nset -u\n") == 1
    path.write_text(text.replace("\nset -u\n", "\nset -u\nunset LOCAL_SSD\n"))
    assert "1 of 1 rows have results" in run("oe-submit", run_dir, env=env).stderr
