"""A node that ends jobs before their first row is loaded gets no more of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from oellm.errors import OellmError
from oellm.runs import run_directory
from oellm.slurm.job_states import ArrayTask, JobState
from oellm.submit import failing_nodes
from oellm.submit.array_elements import Element
from support.processes import Run
from support.submitting import FakeSlurm, fake_worker, jobs, queue_line

REASON = "its job ended with status 1: no GPU"


def ended(
    slurm: FakeSlurm,
    record: dict[str, Any],
    nodes: Sequence[str],
    *,
    state: str = "FAILED|NonZeroExitCode",
    status: int = 1 << 8,
    times: str = "2026-01-01T00:00:00|2026-01-01T00:00:09",
) -> None:
    """Let the elements of the newest submission end, each on a node."""
    job = jobs(record)[-1]
    lines = []
    for index, node in enumerate(nodes):
        log = Path(record["run_dir"]) / "slurm_logs" / f"{job['job_id']}_{index}.log"
        log.write_text("no GPU\n")
        tail = f"{status}|0|{times}|acme|normal|{job['comment']}|"
        lines.append(f"{job['job_id']}|{index}|{state}|{node}|{tail}\n")
    slurm.says("queue", "".join(lines))


def beat(record: dict[str, Any], shard: int, job: str, **state: Any) -> None:
    now = "2026-01-01T00:00:00+00:00"
    attempt = {"job": job, "gpus": 1, "started": now, "updated": now, "scoring_s": 0.0}
    content = {"total": 2, "skipped": 0, "done": 0, "failed": 0, "rows": [], "loading": ""}
    content |= {"shard": shard, "host": "n1", "pid": 1, "process_start": 1, "ended": ""}
    path = Path(record["run_dir"]) / "progress" / f"{shard}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**content, **attempt, "attempts": [attempt], **state}))


def nodes(record: dict[str, Any]) -> dict[str, list[str]]:
    """Return the ends on each node, as run.json has them."""
    content = json.loads((Path(record["run_dir"]) / "run.json").read_text())
    return {entry["node"]: entry["ended"] for entry in content.get("nodes", [])}


def excluded(record: dict[str, Any]) -> list[str]:
    """Return the option of the newest sbatch command line."""
    return [word for word in jobs(record)[-1]["command"] if word.startswith("--exclude")]


def test_a_node_is_excluded_after_two_ends_and_included_again(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    run_dir = rendered["run_dir"]
    run("oe-submit", run_dir, env=slurm.env)
    ended(slurm, rendered, ["n1", "n2", "n3", "n1"])
    dry = run("oe-submit", "--dry_run", run_dir, env=slurm.env)
    assert "--exclude=n1" in dry.stdout
    assert "node n1 would be excluded: 2 jobs ended there before their first row was" in dry.stderr
    assert "from now on" not in dry.stderr
    assert nodes(rendered) == {}
    done = run("oe-submit", run_dir, env=slurm.env)
    assert (
        f"node n1 is excluded from now on: 2 jobs ended there before their first row was loaded: "
        f"{REASON}; oe-submit --include_nodes=n1 {run_dir} undoes this\n"
    ) in done.stderr
    assert nodes(rendered) == {"n1": ["4711_0", "4711_3"], "n2": ["4711_1"], "n3": ["4711_2"]}
    assert excluded(rendered) == ["--exclude=n1"]
    table = run("oe-status", "--format=table", run_dir, env=slurm.env, status=75).stdout
    assert "node n1 is excluded: 2 jobs ended there" in table
    described = run("oe-status", "--format=json", run_dir, env=slurm.env, status=75).stdout
    assert json.loads(described)["excluded_nodes"] == "n1"
    unknown = run("oe-submit", "--include_nodes=n7", run_dir, env=slurm.env, status=2)
    assert "'n7' is not excluded; excluded nodes: n1" in unknown.stderr
    ended(slurm, rendered, [])
    again = run("oe-submit", "--include_nodes=n1", run_dir, env=slurm.env)
    assert "node n1 is included again" in again.stderr
    assert excluded(rendered) == []
    # What was forgiven does not count again; two new ends do.
    ended(slurm, rendered, ["n1", "n1", "n2", "n4"])
    run("oe-submit", run_dir, env=slurm.env)
    assert excluded(rendered) == ["--exclude=n1,n2"]


def test_elements_that_wait_get_to_know_it(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    ended(slurm, rendered, ["n1", "n1"])
    comment = jobs(rendered)[0]["comment"]
    lines = (slurm.directory / "queue").read_text()
    waiting = (queue_line("4711", index, comment=comment) for index in "23")
    slurm.says("queue", lines + "".join(waiting))
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert (slurm.directory / "scontrol.updates").read_text() == (
        "update JobId=4711_[2-3] ExcNodeList=n1\n"
    )


def test_nothing_more_is_submitted_if_all_nodes_do_it(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    run_dir = rendered["run_dir"]
    run("oe-submit", run_dir, env=slurm.env)
    slurm.submitted()
    ended(slurm, rendered, ["n1", "n2", "n1", "n2"])
    for options in ([], ["--dry_run"], ["--wait=done", "--poll=1"]):
        done = run("oe-submit", *options, run_dir, env=slurm.env, status=3)
        said = "all 2 nodes that jobs of this run were sent to (n1, n2) ended them before their"
        assert f"nothing is submitted: {said} first row was loaded: {REASON}; " in done.stderr
        assert f"when that is mended: oe-submit --include_nodes=all {run_dir}" in done.stderr
    assert slurm.submitted() == []
    run("oe-submit", "--include_nodes=all", run_dir, env=slurm.env)
    assert slurm.submitted() == ["0-3"]


def test_a_job_that_still_loads_elsewhere_may_be_on_a_good_node(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    path = Path(rendered["run_dir"]) / "run.json"
    content = json.loads(path.read_text())
    ends = {"ended": ["1_0", "1_1"], "reason": "no GPU", "since": "2026-01-01T00:00:00+00:00"}
    content["nodes"] = [{"node": node, **ends} for node in ("n1", "n2")]
    path.write_text(json.dumps(content))
    refused = run("oe-submit", path.parent, env=slurm.env, status=3)
    assert "nothing is submitted: all 2 nodes" in refused.stderr
    content["nodes"] = []
    path.write_text(json.dumps(content))
    run("oe-submit", "--queue_limit=1", path.parent, env=slurm.env)
    (job,) = jobs(rendered)
    content = json.loads(path.read_text())
    content["nodes"] = [{"node": node, **ends} for node in ("n1", "n2")]
    path.write_text(json.dumps(content))
    slurm.says("queue", queue_line("4711", "0", comment=job["comment"]))
    run("oe-submit", path.parent, env=slurm.env)
    assert slurm.submitted() == ["0", "1-3"]


def test_the_excluded_nodes_of_the_settings_stay_excluded(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    path = Path(rendered["run_dir"]) / "run.json"
    content = json.loads(path.read_text())
    content["cluster"]["exclude"] = "n[7-9]"
    path.write_text(json.dumps(content))
    run("oe-submit", path.parent, env=slurm.env)
    ended(slurm, rendered, ["n1", "n1", "n2", "n3"])
    run("oe-submit", path.parent, env=slurm.env)
    assert excluded(rendered) == ["--exclude=n[7-9],n1"]


@pytest.mark.parametrize(
    "how",
    [
        {"state": "CANCELLED|None", "status": 15},
        {"state": "TIMEOUT|TimeLimit"},
        {"state": "NODE_FAIL|NodeDown"},
        {"state": "PREEMPTED|None"},
        {"state": "OUT_OF_MEMORY|OutOfMemory"},
        {"status": 75 << 8},
        # The run itself is wrong, on every node.
        {"status": 2 << 8},
        {"status": 137 << 8},
        {"status": 9},
        {"state": "FAILED|JobLaunchFailure", "status": 9},
        {"times": "2026-01-01T00:00:00|2026-01-01T01:00:00"},
    ],
)
def test_what_is_not_the_nodes_fault_is_not_counted(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any], how: dict[str, Any]
) -> None:
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    ended(slurm, rendered, ["n1"] * 4, **how)
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert nodes(rendered) == {"n1": []}
    assert excluded(rendered) == []


def test_a_job_that_got_as_far_as_a_row_is_not_counted(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    ended(slurm, rendered, ["n1"] * 4)
    beat(rendered, 0, "4711_0", failed=1)
    beat(rendered, 1, "4711_1", scoring_s=3.0)
    # Of an earlier job, and of one that was still loading.
    beat(rendered, 2, "17_2", done=1)
    beat(rendered, 3, "4711_3", loading="acme/m3")
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert nodes(rendered) == {"n1": ["4711_2", "4711_3"]}


def test_a_worker_that_finds_its_node_unusable_is_counted_also_without_slurms_word(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    slurm.says("queue", "")
    for shard in (0, 1):
        beat(rendered, shard, f"4711_{shard}", unusable="nvidia-smi shows no GPU")
    done = run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert "node n1 is excluded from now on" in done.stderr
    assert "first row was loaded: nvidia-smi shows no GPU;" in done.stderr
    assert nodes(rendered) == {"n1": ["4711_0", "4711_1"]}


def test_what_slurm_does_not_answer_is_asked_again(
    slurm: FakeSlurm, run: Run, rendered: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    loaded = run_directory.load_run(rendered["run_dir"])
    answers: list[dict[Any, Any]] = []

    def ask(_jobs: Any) -> dict[Any, Any]:
        if not answers:
            raise OellmError("Unable to contact slurm controller")
        return answers[-1]

    monkeypatch.setattr(failing_nodes, "ask_job_states", ask)
    monkeypatch.setattr(failing_nodes, "ask_accounting", ask)
    said: list[str] = []
    watch = failing_nodes.FailingNodes(said.append)
    elements = [Element(0, number) for number in range(4)]
    assert not watch.look(loaded, elements)
    job = jobs(rendered)[0]
    tasks = [ArrayTask(job["job_id"], index, comment=job["comment"]) for index in range(4)]
    state = JobState("FAILED", exit_code=1, nodes="n1")
    answers.append(dict.fromkeys(tasks[:2], state))
    assert watch.look(loaded, elements)
    assert said[0].startswith("node n1 is excluded from now on")
    # That the others are forgotten is an answer, too.
    answers.append(dict.fromkeys(tasks[2:], state))
    assert not watch.look(loaded, elements)
    assert len(loaded.nodes[0].ended) == 2


def test_this_machine_is_given_up_after_two_ends_one_after_the_other(
    run: Run, tmp_path: Path, rendered: dict[str, Any]
) -> None:
    ran = tmp_path / "ran"
    fake_worker(tmp_path, f"echo $5 >> {ran}; echo no GPU here >&2; exit 1")
    done = run("oe-submit", "--executor=local", rendered["run_dir"], status=3)
    assert "2 elements ended before their first row was loaded; 2 more are not started" in (
        done.stderr
    )
    assert f"no GPU here; log: {rendered['run_dir']}/slurm_logs/local_1.log\n" in done.stderr
    assert ran.read_text().split() == ["0", "1"]
    # A success in between shows that the machine is all right.
    ran.unlink()
    fake_worker(tmp_path, f"echo $5 >> {ran}; exit $(($5 % 2))")
    run("oe-submit", "--executor=local", rendered["run_dir"], status=1)
    assert ran.read_text().split() == ["0", "1", "2", "3"]
