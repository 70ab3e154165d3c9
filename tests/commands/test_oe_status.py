"""oe-status: its output for people and for pipes, and its exit status."""

from __future__ import annotations

import csv
import datetime
import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.environments import idle_venv
from support.golden_files import assert_golden
from support.processes import BIN, ROOT, Run, clean_environment, rows_of, runner

# Shard 1 runs, the rows of shard 2 failed, and shard 3 was cancelled.
QUEUE = """\
4711|1|RUNNING|None|n1|0|0|N/A|N/A|acme|normal|(null)|
4711|2|FAILED|NonZeroExitCode|n2|256|0|N/A|N/A|acme|normal|(null)|
4711|3|CANCELLED|None|n2|15|0|N/A|N/A|acme|normal|(null)|
"""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Render a run of five shards with two rows each."""
    directory = tmp_path_factory.mktemp("status")
    rows = "".join(f"acme/m{model},t{task},0\n" for model in range(5) for task in range(2))
    done = runner(directory)(
        *(
            "oe-render",
            "--cluster=slurm",
            f"--set=eval_base_dir={directory}",
            f"--set=venv={idle_venv()}",
        ),
        "--set=shard_time=0",
        *("--run_dir", directory / "run"),
        stdin="model_path,task_path,n_shot\n" + rows,
    )
    return Path(json.loads(done.stdout)["run_dir"])


class Fixture:
    """A run with one shard each that is done, runs, failed, is cancelled, and not submitted."""

    def __init__(self, rendered: Path, directory: Path) -> None:
        self.path = directory / "run"
        shutil.copytree(rendered, self.path)
        self.fake = directory / "fake"
        self.fake.mkdir()
        self.env = {
            "FAKE_SLURM": str(self.fake),
            "PATH": f"{ROOT}/tests/fake_slurm:{clean_environment(directory)['PATH']}",
        }
        self.rows = list(csv.DictReader((self.path / "jobs.csv").read_text().splitlines()))
        record = json.loads((self.path / "run.json").read_text())
        job = {"executor": "slurm", "array": 0, "elements": [0, 1, 2, 3], "offset": 0}
        job |= {"submitted": ago(600), "job_id": 4711}
        record |= {"run_dir": str(self.path), "jobs": [job], "plan": {"gpu_hours": 2}}
        record["shards"] = [{**shard, "estimate_s": 100.0} for shard in record["shards"]]
        self.write("run.json", record)
        (self.fake / "queue").write_text(QUEUE)
        (self.fake / "accounts").write_text(
            "4711_3|CANCELLED by 0|0:0|n2|Unknown|Unknown|Unknown|\n"
        )
        self.finish(0)
        self.begin(1)
        self.fail(2)

    def write(self, name: str, content: Any) -> None:
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))

    def of_shard(self, shard: int) -> list[str]:
        return [row["eval_id"] for row in self.rows if row["shard"] == str(shard)]

    def finish(self, *shards: int) -> None:
        for eval_id in (eval_id for shard in shards for eval_id in self.of_shard(shard)):
            metrics = [{"task": "t", "metric": "acc", "filter": "none", "value": 1}]
            row = {"model_path": "m", "task_path": "t"}
            ours = {"eval_id": eval_id, "status": "done", "row": row, "metrics": metrics}
            self.write(f"results/{eval_id}.json", {"oellm": ours})

    def begin(self, shard: int) -> None:
        times = {"started": ago(360), "updated": ago(0)}
        work = {"eval_id": self.of_shard(shard)[0], "phase": "scoring", "started": ago(100)}
        work |= {"requests_done": 30, "requests_total": 40, "requests_per_s": 1.5}
        attempt = {"job": "4711_1", "scoring_s": 90.0, "gpus": 4, **times}
        facts = {"shard": shard, "host": "n1", "pid": 1, "process_start": 1, "ended": ""}
        counts = {"total": 2, "skipped": 0, "done": 0, "failed": 0, "loading": ""}
        beat = {**facts, **counts, **attempt, "rows": [work], "attempts": [attempt]}
        self.write(f"progress/{shard}.json", beat)

    def fail(self, shard: int) -> None:
        for eval_id in self.of_shard(shard):
            failure = {"class": "ValueError", "message": "no documents,\nnone at all"}
            failure |= {"attempts": 2, "log": "/shared/run/slurm_logs/4711_2.log"}
            ours = {"failure": failure, "timing": {"finished": ago(60)}}
            self.write(f"failures/{eval_id}.json", {"oellm": ours})


def ago(seconds: float) -> str:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (now - datetime.timedelta(seconds=seconds)).isoformat()


@pytest.fixture
def made(rendered: Path, tmp_path: Path) -> Fixture:
    return Fixture(rendered, tmp_path)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_is_golden(run: Run, made: Fixture, width: int) -> None:
    env = {**made.env, "COLUMNS": str(width)}
    done = run("oe-status", "--format=table", made.path, env=env, status=75)
    first, _, table = done.stdout.partition("\n\n")
    assert first == str(made.path)
    assert_golden(f"status-{width}.table", table)
    assert max(map(len, table.splitlines())) <= width


@pytest.mark.slow
def test_a_pipe_gets_rows_and_the_exit_status_says_what_is_left(run: Run, made: Fixture) -> None:
    def states(status: int) -> list[str]:
        done = run("oe-status", made.path, env=made.env, status=status)
        return [row["state"] for row in rows_of(done.stdout)]

    assert states(75) == [
        *("done", "done", "running", "pending", "failed", "failed", "cancelled", "cancelled"),
        *("not submitted", "not submitted"),
    ]
    made.finish(1, 3, 4)
    assert states(1) == ["done"] * 4 + ["failed"] * 2 + ["done"] * 4
    made.finish(2)
    assert states(0) == ["done"] * 10
    damaged = made.path / "results" / f"{made.rows[0]['eval_id']}.json"
    damaged.write_text(damaged.read_text()[:-9])
    assert states(1)[:2] == ["lost", "done"]


def test_shards_and_totals_are_records_too(run: Run, made: Fixture) -> None:
    text = (made.path / "run.json").read_text()
    done = run("oe-status", "--format=json", "-", stdin=text, env=made.env, status=75)
    described = json.loads(done.stdout)
    assert [shard["state"] for shard in described["shards"]] == [
        *("done", "running", "failed", "cancelled", "not submitted")
    ]
    assert described["shards"][3]["reason"] == "its job was cancelled by root"
    assert described["shards"][1]["progress"] == 0.75
    assert described["gpu_hours"] == pytest.approx(0.4, abs=0.001)
    assert described["scoring_share"] == pytest.approx(0.25, abs=0.001)
    lines = run(
        *("oe-status", "--shards", "--format=jsonl", made.path, made.path),
        env=made.env,
        status=75,
    ).stdout.splitlines()
    assert [json.loads(line) for line in lines[:5]] == [
        shard | {"left_s": pytest.approx(shard["left_s"]) if shard["left_s"] else shard["left_s"]}
        for shard in described["shards"]
    ]
    assert len(lines) == 10


def test_without_slurm_or_accounting_oe_status_says_what_it_cannot_know(
    run: Run, made: Fixture
) -> None:
    (made.fake / "accounts").unlink()
    done = run("oe-status", made.path, env=made.env, status=75)
    assert "its job was cancelled," in done.stdout
    assert done.stderr == ""
    (made.fake / "queue").write_text("".join(QUEUE.splitlines(keepends=True)[:2]))
    done = run("oe-status", made.path, made.path, env=made.env, status=75)
    assert "its job is no longer known to Slurm," in done.stdout
    assert done.stderr == (
        "oe-status: Slurm accounting is off: how jobs ended that Slurm has forgotten is not known\n"
    )
    (made.fake / "squeue.fails").write_text("Unable to contact slurm controller\n")
    done = run("oe-status", made.path, env=made.env, status=75)
    assert done.stderr == (
        "oe-status: showing only what the files say: "
        "squeue failed: Unable to contact slurm controller\n"
    )
    assert done.stdout.count(",running,scoring,") == 1
    assert done.stdout.count(",failed,") == 2
    assert done.stdout.count("submitted as job 4711_3; no answer from Slurm") == 2


def test_late_accounting_does_not_make_a_job_run(run: Run, made: Fixture) -> None:
    (made.fake / "accounts").write_text("4711_3|RUNNING|0:0|n2|Unknown|Unknown|Unknown|\n")
    done = run("oe-status", made.path, env=made.env, status=75)
    assert done.stdout.count(",cancelled,its job was cancelled,") == 2


@pytest.mark.slow
def test_watch_prints_changes_and_ends_when_nothing_is_running_or_queued(made: Fixture) -> None:
    watching = subprocess.Popen(
        [BIN / "oe-status", "--watch", "--poll=1", made.path],
        env=clean_environment(made.fake, made.env),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    line = watching.stdout.readline()
    assert (
        line == "2 of 10 rows done, 1 running, 1 pending, 2 not submitted, 2 failed, 2 cancelled\n"
    )
    made.finish(1, 2, 3)
    last = "8 of 10 rows done, 2 not submitted\n"
    # oe-status may look between two of these results.
    while (line := watching.stdout.readline()) != last:
        assert " of 10 rows done, " in line
    assert watching.wait(10) == 75
    watching.stdout.close()


def test_ctrl_c_ends_watching(made: Fixture) -> None:
    watching = subprocess.Popen(
        [BIN / "oe-status", "--watch", made.path],
        env=clean_environment(made.fake, made.env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    assert watching.communicate(timeout=10) == ("", "oe-status: interrupted\n")
    assert watching.returncode == 130


@pytest.mark.slow
def test_a_failure_that_names_no_log_has_that_of_its_shard(run: Run, made: Fixture) -> None:
    log = made.path / "slurm_logs" / "4711_2.log"
    log.write_text("the failure\n")
    for eval_id in made.of_shard(2):
        path = made.path / "failures" / f"{eval_id}.json"
        path.write_text(path.read_text().replace("/shared/run/slurm_logs/4711_2.log", ""))
    done = run("oe-status", made.path, env=made.env, status=75)
    found = [row for row in rows_of(done.stdout) if row["state"] == "failed"]
    assert [row["log"] for row in found] == [str(log)] * 2


def test_logs_are_found_by_shard_and_by_row(run: Run, made: Fixture) -> None:
    logs = made.path / "slurm_logs"
    (logs / "4711_3.log").write_text("".join(f"line {n}\n" for n in range(100)))
    done = run("oe-status", "--log=3", "--lines=2", made.path)
    assert done.stdout == "line 98\nline 99\n"
    assert done.stderr == f"oe-status: {logs}/4711_3.log\n"
    of_row = run("oe-status", f"--log={made.of_shard(3)[1][:12]}", "--lines=1", made.path)
    assert of_row.stdout == "line 99\n"
    (made.path / "elsewhere.log").write_text("the failure\n")
    failed = made.of_shard(2)[0]
    path = made.path / "failures" / f"{failed}.json"
    path.write_text(
        path.read_text().replace(
            "/shared/run/slurm_logs/4711_2.log", str(made.path / "elsewhere.log")
        )
    )
    assert run("oe-status", f"--log={failed}", made.path).stdout == "the failure\n"
    none = run("oe-status", "--log=4", made.path, status=2)
    assert none.stderr == f"oe-status: {made.path}: --log: shard 4 has no log yet\n"
    high = run("oe-status", "--log=99", made.path, status=2)
    assert "--log: there is no shard 99: the run has shards 0 to 4" in high.stderr
    unknown = run("oe-status", "--log=xyz", made.path, status=2)
    assert "expected a shard, or the beginning of one row's eval_id; 0 rows" in unknown.stderr


def test_without_a_run_the_newest_are_listed(run: Run, made: Fixture, tmp_path: Path) -> None:
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    directory = tmp_path / "output" / user
    directory.mkdir(parents=True)
    made.path.rename(directory / "2026-01-01-12-00-00")
    (directory / "broken").mkdir()
    (directory / "broken" / "run.json").write_text("{")
    env = {**made.env, "EVAL_OUTPUT_DIR": str(tmp_path / "output")}
    done = run("oe-status", "--cluster=local", env=env)
    (row,) = rows_of(done.stdout)
    assert (row["run_dir"], row["rows"], row["done"], row["failed"], row["state"]) == (
        *(str(directory / "2026-01-01-12-00-00"), "10", "2", "2", "running"),
    )
    assert done.stderr.startswith(f"oe-status: {directory}/broken/run.json: expected JSON")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format=xml", "."], "--format: expected one of table, csv, jsonl, json, got 'xml'"),
        (["--watch", "--shards", "."], "--watch has its own format"),
        (["--shards", "--format=json", "."], "--shards is for the formats csv and jsonl"),
        (["--watch"], "--watch and --log need one run"),
        (["--watch", "--poll=0", "."], "--poll: expected a positive integer, got '0'"),
    ],
)
def test_options_that_do_not_fit_are_refused(run: Run, options: list[str], message: str) -> None:
    assert run("oe-status", *options, status=2).stderr.startswith(f"oe-status: {message}")
