"""Why a row has no result: the true reason, the last line of the log, and its path."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from support.environments import idle_venv
from support.processes import Run
from support.submitting import HEADER, FakeSlurm, fake_worker, jobs

FATAL = "FATAL:   While checking container encryption: could not open image: not recognized"


def elements(slurm: FakeSlurm, record: dict[str, Any], state: str, status: int = 0) -> None:
    """Let Slurm know the elements of a run in one state."""
    (job,) = jobs(record)
    tail = f"{status}|0|N/A|N/A|acme|normal|{job['comment']}|"
    lines = (f"{job['job_id']}|{index}|{state}|None|n1|{tail}\n" for index in range(4))
    slurm.says("queue", "".join(lines))


def rows(run: Run, slurm: FakeSlurm, record: dict[str, Any], status: int) -> list[dict[str, Any]]:
    command = ("oe-status", "--format=jsonl", record["run_dir"])
    done = run(*command, env=slurm.env, status=status)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def table(run: Run, slurm: FakeSlurm, record: dict[str, Any], status: int) -> str:
    command = ("oe-status", "--format=table", record["run_dir"])
    return run(*command, env={**slurm.env, "COLUMNS": "100"}, status=status).stdout


def test_status_255_is_that_of_the_container_with_its_log(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    log = Path(rendered["run_dir"]) / "slurm_logs" / "4711_2.log"
    log.write_text(f"starting\n{FATAL}\n\n")
    elements(slurm, rendered, "FAILED", 255 << 8)
    found = rows(run, slurm, rendered, 1)
    reason = "its job ended with status 255"
    assert {(row["reason"], row["log"]) for row in found if row["shard"] != 2} == {(reason, "")}
    said = f"{reason}: the container did not start: {' '.join(FATAL.split())}"
    assert {(row["reason"], row["log"]) for row in found if row["shard"] == 2} == {(said, str(log))}
    assert {type(row["n_shot"]) for row in found} == {int}
    assert [line.strip() for line in table(run, slurm, rendered, 1).splitlines()][-6:] == [
        "6 rows lost: their job ended with status 255",
        f"for example {found[0]['eval_id']}: m0 t0",
        "2 rows lost: their job ended with status 255: the container did not start",
        " ".join(FATAL.split()),
        f"for example {found[4]['eval_id']}: m2 t0",
        str(log),
    ]


def test_the_last_line_of_a_log_shows_no_secret(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    secret = "hf_" + "S3CRET" * 6
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    log = Path(rendered["run_dir"]) / "slurm_logs" / "4711_0.log"
    log.write_text(f"token {secret}\n")
    elements(slurm, rendered, "FAILED", 1 << 8)
    for command in ("oe-status", "oe-submit"):
        done = run(command, rendered["run_dir"], env={**slurm.env, "HF_TOKEN": secret}, status=None)
        assert "S3CRET" not in done.stdout + done.stderr
    assert "S3CRET" not in (Path(rendered["run_dir"]) / "run.json").read_text()


def test_cancelled_is_a_state_of_its_own_with_who_did_it(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    run("oe-submit", "--cancel", rendered["run_dir"], env=slurm.env)
    user = run("id", "-un").stdout.strip()
    # Slurm still cleans up: nothing runs any more, and nothing takes minutes.
    elements(slurm, rendered, "COMPLETING")
    text = table(run, slurm, rendered, 75)
    assert "running" not in text
    assert " left;" not in text
    for state in ("CANCELLED", None):
        if state:
            elements(slurm, rendered, state)
        else:
            slurm.says("queue", "")
            slurm.says("accounts", "")
        found = rows(run, slurm, rendered, 1)
        reason = f"its job was cancelled by {user}"
        assert {(row["state"], row["reason"]) for row in found} == {("cancelled", reason)}
        assert table(run, slurm, rendered, 1).endswith(
            f"0 of 8 rows done, 8 cancelled\n\n8 rows: their job was cancelled by {user}\n"
        )
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert slurm.submitted() == ["0-3", "0-3"]


def test_a_job_that_ended_before_its_worker_started_says_so(
    run: Run, tmp_path: Path, rendered: dict[str, Any]
) -> None:
    fake_worker(tmp_path, "echo no module named lm_eval >&2; exit 1")
    run("oe-submit", "--executor=local", rendered["run_dir"], status=None)
    done = run("oe-status", "--format=jsonl", rendered["run_dir"], status=1)
    first = json.loads(done.stdout.splitlines()[0])
    assert (first["state"], first["log"]) == (
        "lost",
        f"{rendered['run_dir']}/slurm_logs/local_0.log",
    )
    assert first["reason"] == "its job ended before its worker started: no module named lm_eval"


def test_rows_that_differ_never_have_one_title(run: Run, tmp_path: Path) -> None:
    """Two experiments with checkpoints of one name, two numbers of shots, two limits."""
    models = [tmp_path / "x" / name / "hf" / "iter_0001000" for name in ("exp-a", "exp-b")]
    for model in models:
        model.mkdir(parents=True)
    lines = [f"{model},t,{shots},5\n" for model in models for shots in (0, 2)]
    lines.append(f"{models[0]},t,0,10\n")
    options = ("--cluster=slurm", f"--set=eval_base_dir={tmp_path}", f"--set=venv={idle_venv()}")
    header = HEADER.replace("n_shot", "n_shot,limit")
    record = json.loads(run("oe-render", *options, stdin=header + "".join(lines)).stdout)
    path = Path(record["run_dir"])
    (path / "failures").mkdir(exist_ok=True)
    ids = [row["eval_id"] for row in csv.DictReader((path / "jobs.csv").open())]
    for number, eval_id in enumerate(ids):
        failure = {"class": "ValueError", "message": "abcde"[number], "attempts": 1, "log": ""}
        timing = {"finished": "2026-01-01T00:00:00+00:00"}
        content = {"oellm": {"failure": failure, "timing": timing}}
        (path / "failures" / f"{eval_id}.json").write_text(json.dumps(content))
    done = run("oe-status", "--format=table", path, env={"COLUMNS": "80"}, status=1)
    titles = [line.partition(": ")[2] for line in done.stdout.splitlines() if " failed: " in line]
    assert len(set(titles)) == 5
    assert {title.split(" (")[0] for title in titles} == {
        f"{name} t {shots}-shot" for name in ("exp-a", "exp-b") for shots in (0, 2)
    }
