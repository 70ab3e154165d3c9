"""oe-missing --in: a manifest's rows are looked up in all runs below some directories."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oellm.collect import sources
from oellm.errors import InputError
from support import processes
from support.golden_run import rows
from support.processes import Run
from support.submitting import FakeSlurm

HEADER = "model_path,task_path,n_shot\n"
TASKS = ("a", "b", "c", "d")
MANIFEST = HEADER + "".join(f"acme/m,{task},0\n" for task in TASKS)
PINNED = "0123456789abcdef0123456789abcdef01234567"


def render(run: Run, manifest: str, *options: str) -> Path:
    printed = run("oe-render", *options, stdin=manifest).stdout
    return Path(json.loads(printed)["run_dir"])


def write_result(run_dir: Path, task: str, **changed: Any) -> Path:
    """Write a valid result of a task's row."""
    (row,) = (row for row in rows((run_dir / "jobs.csv").read_text()) if row["task_path"] == task)
    metric = {"task": task, "metric": "acc", "value": 0.5}
    ours = {"eval_id": row["eval_id"], "status": "done", "row": row, "metrics": [metric]}
    path = run_dir / "results" / f"{row['eval_id']}.json"
    path.write_text(json.dumps({"oellm": ours | changed}))
    return path


def write_failure(run_dir: Path, task: str) -> None:
    path = write_result(run_dir, task)
    (run_dir / "failures").mkdir(exist_ok=True)
    path.rename(run_dir / "failures" / path.name)


@pytest.fixture(autouse=True)
def local_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take this machine for the cluster `local`, whatever it is."""
    clean = processes.clean_environment
    monkeypatch.setattr(
        processes,
        "clean_environment",
        lambda home, extra=None: clean(home, {"OELLM_CLUSTER": "local", **(extra or {})}),
    )


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return the directory that oe-render writes runs below; it does not exist yet."""
    return tmp_path / "oellm-output"


@pytest.fixture
def missing(run: Run, output: Path) -> Callable[..., tuple[list[str], str]]:
    """Return what gives the tasks of the rows that are missing, and the messages."""

    def call(manifest: str = MANIFEST, *options: str, **how: Any) -> tuple[list[str], str]:
        done = run("oe-missing", f"--in={output}", *options, stdin=manifest, **how)
        return [row["task_path"] for row in rows(done.stdout)], done.stderr

    return call


def test_all_rows_are_missing_before_the_first_run(run: Run, output: Path, missing: Any) -> None:
    found, said = missing()
    assert found == list(TASKS)
    assert f"oe-missing: {output}: does not exist yet\n" in said
    output.mkdir()
    done = run("oe-missing", "--in", output, stdin=MANIFEST)
    # Rows pass through as they came.
    assert done.stdout == MANIFEST
    assert done.stderr == (
        "oe-missing: 4 of 4 rows are missing (0 of them failed); 0 have results, 0 are queued or "
        "running\n"
    )


def test_an_unset_variable_is_no_directory(run: Run) -> None:
    done = run("oe-missing", "--in=", stdin=MANIFEST, status=2)
    assert done.stderr == "oe-missing: --in: expected a directory, got nothing\n"
    assert done.stdout == ""


def test_a_row_is_done_in_whichever_run_has_its_result(run: Run, missing: Any) -> None:
    first, second = render(run, MANIFEST), render(run, MANIFEST)
    write_result(first, "a")
    write_result(second, "b")
    write_failure(first, "c")
    found, said = missing()
    assert found == ["c", "d"]
    assert said.endswith(
        "2 of 4 rows are missing (1 of them failed); 2 have results, 0 are queued or running\n"
    )
    assert missing(MANIFEST, "--failed")[0] == ["c"]
    assert missing(MANIFEST, "--check", status=1)[0] == ["c", "d"]
    # The newest run has no say: one valid result is enough, and a damaged one is none.
    damaged = write_result(second, "a", status="no")
    assert missing()[0] == ["c", "d"]
    (first / "results" / damaged.name).unlink()
    found, said = missing()
    assert found == ["a", "c", "d"]
    assert f"oe-missing: {damaged}: left out, its status is 'no'\n" in said


def test_rows_are_identified_as_oe_render_will_do_it(
    run: Run, tmp_path: Path, output: Path, missing: Any
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    relative = HEADER + "./model,a,0\n"
    run_dir = render(run, relative, "--set=dtype=bfloat16")
    write_result(run_dir, "a")
    # The cluster's default belongs to the identity, and so does the place of a local model.
    assert missing(relative, "--set=dtype=bfloat16")[0] == []
    assert missing(HEADER + f"{model},a,0\n", "--set=dtype=bfloat16")[0] == []
    assert missing(relative)[0] == ["a"]
    assert missing(HEADER + "./other,a,0\n", "--set=dtype=bfloat16")[0] == ["a"]
    # A row that carries its eval_id has no defaults.
    (row,) = rows((run_dir / "jobs.csv").read_text())
    identified = (
        f"model_path,task_path,n_shot,dtype,eval_id\n{model},a,0,bfloat16,{row['eval_id']}\n"
    )
    assert missing(identified)[0] == []
    wrong = identified.replace(",a,", ",b,")
    refused = run("oe-missing", f"--in={output}", stdin=wrong, status=2)
    assert refused.stderr.startswith("oe-missing: stdin:2: eval_id: expected ")


def test_a_row_without_a_commit_is_done_at_any_commit(run: Run, missing: Any) -> None:
    fetched = "model_path,task_path,n_shot,model_revision\n"
    for name in ("acme/m", "acme/m,revision=step1"):
        write_result(render(run, fetched + f'"{name}",a,0,{PINNED}\n'), "a")
    found, said = missing(MANIFEST)
    assert found == ["b", "c", "d"]
    assert "1 rows have results at a commit of the hub, and the manifest names none" in said
    # Another revision, another commit, and other shots are other evaluations.
    others = ('"acme/m,revision=step2",a,0,', f"acme/m,a,0,{PINNED[::-1]}", "acme/m,a,1,")
    for row in others:
        assert missing(f"{fetched}{row}\n")[0] == ["a"]
    for row in ('"acme/m,revision=step1",a,0,', f"acme/m,a,0,{PINNED}"):
        assert missing(f"{fetched}{row}\n")[0] == []
    # The result of a row at a commit is also one of the row without it in the same manifest.
    assert missing(f"{fetched}acme/m,a,0,{PINNED}\nacme/m,a,0,\n")[0] == []


def test_places_that_cannot_be_read_are_named_and_the_others_count(
    run: Run, output: Path, missing: Any
) -> None:
    good, damaged, other = (render(run, MANIFEST) for _ in range(3))
    write_result(good, "a")
    write_result(damaged, "b")
    (damaged / "jobs.csv").write_text("eval_id,shard,model_path\nx\n")
    (other / "run.json").write_text("{")
    (output / "loop").symlink_to(output)
    (output / ".hidden").mkdir()
    shutil.copytree(good, output / ".hidden" / "run")
    write_result(output / ".hidden" / "run", "c")
    # As it is while oe-render writes it.
    (output / "unfinished").mkdir()
    (output / "unfinished" / "jobs.csv").write_text(MANIFEST)
    found, said = missing()
    assert found == ["c", "d"]
    assert f"{damaged}/jobs.csv:2: expected 3 cells as in the header, got 1; what this run" in said
    assert f"{other}/run.json: expected JSON: " in said
    # A directory that is named twice, and one inside the other, count once.
    twice = (f"--in={output}", f"--in={good}")
    assert missing(MANIFEST, *twice)[0] == ["c", "d"]


@pytest.mark.parametrize(
    ("key", "damage"),
    [("jobs", [{}]), ("jobs", "x"), ("arrays", []), ("shards", [[]]), ("cluster", [])],
)
def test_a_damaged_record_of_a_run_stops_nobody(
    run: Run, output: Path, missing: Any, key: str, damage: object
) -> None:
    good, damaged = render(run, MANIFEST), render(run, MANIFEST)
    write_result(good, "a")
    path = damaged / "run.json"
    record = json.loads(path.read_text())
    entry = {"executor": "local", "job_id": 1, "array": 0, "elements": [0], "offset": 0}
    record["jobs"] = [entry | {"submitted": "2024-01-15T14:30:45+00:00"}]
    path.write_text(json.dumps(record | {key: damage}))
    found, said = missing()
    assert found == ["b", "c", "d"]
    assert f"{path}: " in said
    assert (
        "; what this run still evaluates is not known" in said or "; this run is left out" in said
    )


def test_parts_of_a_run_that_cannot_be_listed_stop_nobody(
    run: Run, output: Path, missing: Any
) -> None:
    good, no_results, no_progress = (render(run, MANIFEST) for _ in range(3))
    write_result(good, "a")
    shutil.rmtree(no_results / "results")
    (no_results / "results").touch()
    record = json.loads((no_progress / "run.json").read_text())
    entry = {"executor": "local", "job_id": 1, "array": 0, "elements": [0], "offset": 0}
    record["jobs"] = [entry | {"submitted": "2024-01-15T14:30:45+00:00"}]
    (no_progress / "run.json").write_text(json.dumps(record))
    (no_progress / "progress").touch()
    found, said = missing()
    assert found == ["b", "c", "d"]
    assert f"{no_results}/results: Not a directory; this run is left out\n" in said
    assert f"{no_progress}/progress: Not a directory; what this run still evaluates is" in said


def test_a_directory_that_cannot_be_listed_is_passed_over_below_and_refused_above() -> None:
    """As nobody, since nothing is closed to root."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    place = Path(tempfile.mkdtemp())
    said: list[str] = []
    try:
        closed = place / "runs" / "closed"
        closed.mkdir(parents=True, mode=0o700)
        (place / "runs" / "run").mkdir()
        (place / "runs" / "run" / "run.json").touch(mode=0o600)
        place.chmod(0o755)
        os.seteuid(65534)
        assert sources.find_runs([str(place / "runs")], said.append) == []
        with pytest.raises(InputError, match="closed: expected a directory: Permission denied"):
            sources.find_runs([str(closed)], said.append)
    finally:
        os.seteuid(0)
        shutil.rmtree(place)
    assert said == [
        f"{closed}: Permission denied",
        f"{place}/runs/run/run.json: Permission denied; this run is left out",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--in=.", "a.csv", "b.csv"], "--in: expected one manifest at most, got 2 paths"),
        (["--in=a.csv", "a.csv"], "a.csv: expected a directory: Not a directory"),
        (["--also_running", "."], "--also_running needs --in"),
        (
            ["--in=evals", "--also_running", "--failed"],
            "--failed and --also_running ask for different rows",
        ),
        (["--cluster=local", "."], "--cluster needs --in"),
        (["--set=dtype=float16", "."], "--set needs --in"),
        (["--in=.", "none.csv"], "none.csv: No such file or directory"),
        (["--in=.", "empty.csv"], "empty.csv: expected a CSV header, got nothing"),
    ],
)
def test_bad_arguments_are_refused(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "a.csv").write_text(MANIFEST)
    (tmp_path / "empty.csv").write_text("")
    refused = run("oe-missing", *arguments, status=2)
    assert refused.stderr.startswith(f"oe-missing: {message}")
    assert refused.stdout == ""


def test_with_nothing_to_do_the_whole_pipeline_ends_well(run: Run, output: Path) -> None:
    run_dir = render(run, MANIFEST)
    for task in TASKS:
        write_result(run_dir, task)
    header = run("oe-missing", f"--in={output}", stdin=MANIFEST).stdout
    assert header == HEADER
    fetched = run("oe-fetch", stdin=header)
    assert fetched.stdout.startswith(HEADER.rstrip("\n"))
    assert fetched.stdout.count("\n") == 1
    rendered = run("oe-render", stdin=fetched.stdout)
    assert json.loads(rendered.stdout) == {"run_dir": None, "n_rows": 0}
    submitted = run("oe-submit", stdin=rendered.stdout)
    assert submitted.stdout == rendered.stdout
    for command, done in (("fetch", fetched), ("render", rendered), ("submit", submitted)):
        text = f"oe-{command}: nothing to do: the manifest has no rows\n"
        assert done.stderr == text.replace("has", "had" if command == "submit" else "has")
    assert len(list(output.glob("*/*"))) == 1
    # What follows has nothing to do either.
    for command in ("oe-collect", "oe-missing"):
        assert run(command, stdin=submitted.stdout).stdout.count("\n") == 1
    assert run("oe-status", "-", stdin=submitted.stdout).stdout == ""
    for option in ("--dry_run", "--explain"):
        assert run("oe-render", option, stdin=header).stdout == ""
    # Empty input still means that the command before failed.
    for command in ("oe-missing", "oe-fetch", "oe-render", "oe-submit"):
        arguments = [f"--in={output}"] if command == "oe-missing" else []
        refused = run(command, *arguments, stdin="", status=2)
        assert "got nothing" in refused.stderr


SLURM = ("--cluster=slurm", "--set=shard_time=0")


class SubmittedRun:
    """A run of four shards with a row each, on stand-ins for Slurm's commands."""

    def __init__(self, run: Run, slurm: FakeSlurm, base: Path) -> None:
        self._run = run
        self._slurm = slurm
        self._options = (*SLURM, f"--set=eval_base_dir={base}", f"--set=venv={base}")
        (base / "bin").mkdir(parents=True)
        (base / "bin" / "python").touch(mode=0o755)
        # Models of their own, so that each has a shard of its own.
        self.manifest = HEADER + "".join(f"acme/{task},{task},0\n" for task in TASKS)
        rendered = run("oe-render", *self._options, stdin=self.manifest).stdout
        self.path = Path(json.loads(rendered)["run_dir"])
        run("oe-submit", self.path, env=slurm.env)
        (self.job_id,) = (job["job_id"] for job in self.record["jobs"])

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.path / "run.json").read_text())

    def edit(self, **changed: Any) -> None:
        """Change the submission in run.json."""
        record = self.record
        record["jobs"][0] |= changed
        (self.path / "run.json").write_text(json.dumps(record))

    def queue(self, *states: str) -> None:
        """Let Slurm know the first elements, in these states."""
        lines = [
            f"{self.job_id}|{index}|{state}|None|n1|0|0|N/A|acme|normal|(null)|\n"
            for index, state in enumerate(states)
        ]
        self._slurm.says("queue", "".join(lines))

    def beat(self, shard: int, age_s: float = 0, **changed: Any) -> None:
        """Write a heartbeat of a worker on another machine."""
        now = datetime.datetime.now(datetime.timezone.utc)
        updated = (now - datetime.timedelta(seconds=age_s)).isoformat()
        attempt = {"job": f"{self.job_id}_{shard}", "gpus": 1, "started": updated}
        attempt |= {"updated": updated, "scoring_s": 0.0}
        content = {
            **attempt,
            "shard": shard,
            "host": "elsewhere",
            "pid": 1,
            "process_start": 1,
            "total": 1,
            "skipped": 0,
            "done": 0,
            "failed": 0,
            "rows": [],
            "loading": "",
            "ended": "",
            "attempts": [attempt],
            **changed,
        }
        (self.path / "progress").mkdir(exist_ok=True)
        (self.path / "progress" / f"{shard}.json").write_text(json.dumps(content))

    def missing(self, *options: str, **how: Any) -> tuple[str, str]:
        """Return the tasks of the missing rows, and the messages."""
        directory = f"--in={self.path.parents[1]}"
        env = {**self._slurm.env, **how.pop("env", {})}
        given = (*self._options, *options)
        done = self._run("oe-missing", directory, *given, stdin=self.manifest, env=env, **how)
        return "".join(row["task_path"] for row in rows(done.stdout)), done.stderr


@pytest.fixture
def submitted(run: Run, slurm: FakeSlurm, tmp_path: Path) -> SubmittedRun:
    return SubmittedRun(run, slurm, tmp_path / "base")


def test_what_is_queued_or_running_is_not_missing(submitted: SubmittedRun) -> None:
    submitted.queue("PENDING", "RUNNING", "FAILED")
    found, said = submitted.missing()
    assert found == "cd"
    assert said.endswith(
        "2 of 4 rows are missing (0 of them failed); 0 have results, 2 are queued or running\n"
    )
    assert submitted.missing("--also_running")[0] == "abcd"
    # A result says more than a job that still runs, and a failure less.
    write_result(submitted.path, "b")
    write_failure(submitted.path, "a")
    assert submitted.missing("--also_running")[0] == "acd"
    assert submitted.missing("--check", status=1)[0] == "cd"
    submitted.queue(*["COMPLETED"] * 4)
    assert submitted.missing("--failed")[0] == "a"


def test_a_row_without_a_commit_is_queued_at_any_commit(submitted: SubmittedRun) -> None:
    lines = [
        f"acme/a,a,0,{commit},{shard:016x},{shard}\n"
        for shard, commit in enumerate((PINNED, PINNED[::-1]))
    ]
    header = "model_path,task_path,n_shot,model_revision,eval_id,shard\n"
    (submitted.path / "jobs.csv").write_text(header + "".join(lines))
    for states, found in (
        (("RUNNING", "COMPLETED"), "bcd"),
        (("COMPLETED", "RUNNING"), "bcd"),
        (("COMPLETED", "COMPLETED"), "abcd"),
    ):
        submitted.queue(*states)
        assert submitted.missing()[0] == found


def test_a_row_may_run_if_slurm_does_not_answer(submitted: SubmittedRun, slurm: FakeSlurm) -> None:
    slurm.says("squeue.fails", "slurm_load_jobs error: Unable to contact slurm controller")
    submitted.beat(2, ended="finished")
    found, said = submitted.missing()
    assert found == "c"
    assert "squeue failed: slurm_load_jobs error: Unable to contact slurm controller; rows" in said
    assert said.endswith("0 are queued or running, 3 may be\n")
    assert submitted.missing("--also_running")[0] == "abcd"
    # A worker that was stopped is requeued by its job.
    submitted.beat(2, ended="stopped by SIGUSR1")
    assert submitted.missing()[0] == ""
    slurm.says("squeue.fails", "error: no configuration\nfatal: no source\n")
    assert "failed: error: no configuration; fatal: no source; rows" in submitted.missing()[1]


def test_a_row_may_run_on_a_cluster_that_cannot_be_asked(submitted: SubmittedRun) -> None:
    submitted.queue()
    assert submitted.missing()[0] == "abcd"
    submitted.beat(1, ended="finished")
    found, said = submitted.missing("--set=name=other")
    assert found == "b"
    assert said.endswith("0 are queued or running, 3 may be\n")


def test_a_submission_without_a_number_may_be_in_the_queue(submitted: SubmittedRun) -> None:
    submitted.queue()
    submitted.edit(job_id=None)
    found, said = submitted.missing()
    assert (found, said.endswith("0 are queued or running, 4 may be\n")) == ("", True)


def test_a_fresh_heartbeat_counts_where_slurm_knows_nothing(submitted: SubmittedRun) -> None:
    submitted.queue("CANCELLED")
    for shard, age in ((0, 0), (1, 0), (2, 3600), (3, -3600)):
        submitted.beat(shard, age)
    # The job of shard 0 has ended, the worker of shard 2 is silent, or from before, and the clock
    # of that of shard 3 was wrong: it would be fresh for an hour.
    assert submitted.missing()[0] == "acd"


def test_slurm_may_hide_the_jobs_of_others(submitted: SubmittedRun, slurm: FakeSlurm) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a run somebody else's")
    submitted.queue()
    os.chown(submitted.path, 65534, 65534)
    assert submitted.missing()[0] == "abcd"
    slurm.says("private_data", "accounts,jobs")
    submitted.beat(3, ended="finished")
    found, said = submitted.missing()
    assert (found, said.endswith("0 are queued or running, 3 may be\n")) == ("d", True)


def test_the_lock_tells_that_oe_submit_still_runs_elements(submitted: SubmittedRun) -> None:
    submitted.queue()
    submitted.edit(executor="local", job_id=os.getpid())
    assert submitted.missing()[0] == "abcd"
    lock = submitted.path / "submit.lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    submitted.beat(0, ended="finished")
    submitted.beat(1)
    # What ended in it is over, what has not begun waits for its turn.
    assert submitted.missing()[0] == "a"
    hour_ago = time.time() - 3600
    os.utime(lock, (hour_ago, hour_ago))
    assert submitted.missing()[0] == "acd"
    for pid, found in ((os.getpid(), "a"), (2**22 + 1, "acd")):
        lock.write_text(json.dumps({"host": socket.gethostname(), "pid": pid}))
        assert submitted.missing()[0] == found
    lock.write_text("{")
    assert submitted.missing()[0] == "acd"
