"""Damaged files of every kind: refused with its place, or read as a strict reader does.

`make fuzz` tries ten thousand of them, and prints how they ended; `make test` tries a few.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oellm.errors import ExitStatus
from support.fuzzing import PATIENCE_S, Outcome, call, damaged_bytes, damaged_csv, damaged_json
from support.golden_files import GOLDEN
from support.golden_run import CHOICE, CONTRACT, PROSE, make_run
from support.processes import BIN, clean_environment

# Inputs of each kind. Of these, some are tried as processes of their own, too.
EXAMPLES = int(os.environ.get("OELLM_FUZZ", "100")) // 10
REAL_PROCESSES = EXAMPLES // 50

FAILED = "203958e037c21b54"
WORKER = b"worker"
ENDS: Counter[tuple[str, str]] = Counter()

pytestmark = pytest.mark.slow


def record() -> dict[str, Any]:
    """Return the record of a run whose worker is a few bytes."""
    content: dict[str, Any] = read_json(CONTRACT / "run" / "run.json")
    return content | {"worker": {"file": "w", "sha256": hashlib.sha256(WORKER).hexdigest()}}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


class Place:
    """A run that is damaged, beside one that is not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.output = directory / "out"
        home = directory / "home"
        home.mkdir(parents=True)
        self.good = make_run(self.output / "ada" / "good")
        self.bad = make_run(self.output / "ada" / "bad")
        (self.bad / "progress").mkdir()
        (self.bad / "oe-run-task.pyz").write_bytes(WORKER)
        (self.bad / "submit_evals.sbatch").write_text("exit 0\n")
        (self.bad / "run.json").write_text(json.dumps(record()))
        self.environ = clean_environment(home) | {
            "OELLM_EVAL_OUTPUT_DIR": str(self.output),
            "OELLM_CACHE_DIR": str(directory / "cache"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "OELLM_CLUSTER": "local",
            "USER": "ada",
            "LOGNAME": "ada",
        }
        (home / "config" / "oellm").mkdir(parents=True)
        self.suites = home / "config" / "oellm" / "task-groups.json"

    def run(self, kind: str, path: Path, command: str, *arguments: object) -> Outcome:
        """Run a command on a damaged file; no command may fail in a way that nobody foresaw."""
        done = call(command, *arguments, environ=self.environ)
        self._check(kind, path, done, command)
        if random.random() < REAL_PROCESSES / EXAMPLES:
            process = subprocess.run(
                [BIN / command, *map(str, arguments)],
                env=self.environ,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=PATIENCE_S,
                check=False,
            )
            assert process.returncode == done.status
            ENDS[kind, "as a process"] += 1
        return done

    def _check(self, kind: str, path: Path, done: Outcome, command: str) -> None:
        assert done.status in set(ExitStatus), done
        assert "internal error" not in done.err, done.err
        assert "Traceback" not in done.err, done.err
        assert done.status != ExitStatus.MACHINE, done.err
        refused = done.status == ExitStatus.USAGE
        # Of records that do not fit together these name the columns.
        if refused and command not in ("oe-pivot", "oe-compare"):
            # A record may name another script, or another digest of the worker.
            place = path.parent if path.name == "run.json" else path
            assert str(place) in done.err, done.err
        ENDS[kind, "refused" if refused else f"status {done.status:d}"] += 1


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield Place(tmp_path_factory.mktemp("fuzz").resolve())
    kinds = sorted({kind for kind, _ in ENDS})
    for kind in kinds:
        ends = sorted((end, count) for (of, end), count in ENDS.items() if of == kind)
        total = sum(count for end, count in ends if end != "as a process")
        shown = ", ".join(f"{end}: {count}" for end, count in ends)
        sys.stdout.write(f"\n{kind:12} {total:6}  {shown}")
    total = sum(count for (_, end), count in ENDS.items() if end != "as a process")
    sys.stdout.write(f"\n{'all':12} {total:6}\n")


def fuzz(strategy: st.SearchStrategy[bytes]) -> Callable[[Any], Any]:
    """Call a test with damaged contents of a file, and with a number that chooses a command."""
    every = settings(
        max_examples=max(1, EXAMPLES),
        deadline=None,
        report_multiple_bugs=False,
        database=None,
        # `make test` tries the same ones each time.
        derandomize=EXAMPLES <= 10,
        suppress_health_check=list(HealthCheck),
    )
    given_inputs = given(content=strategy, choice=st.integers(0, 9))
    return lambda test: every(given_inputs(test))


def strict(content: bytes) -> Any:
    """Return what a strict reader of JSON reads; raises ValueError if it is none."""

    def refuse(name: str) -> Any:
        raise ValueError(name)

    try:
        return json.loads(content.decode("utf-8-sig"), parse_constant=refuse)
    except RecursionError:
        raise ValueError("too deep") from None


def strict_lines(content: bytes) -> list[dict[str, str]]:
    """Return what a strict reader of CSV reads."""
    text = content.decode("utf-8-sig")
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    return [dict(zip(header, row, strict=True)) for row in rows if row]


def members(content: bytes) -> dict[str, Any]:
    """Return the object in a text; an empty one if a strict reader finds none."""
    try:
        value = strict(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    """Give a file another content, for a while."""
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


def lines(done: Outcome) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


def heartbeat() -> dict[str, Any]:
    attempt = {"job": "4711_0", "gpus": 1, "started": "2026-11-22T18:53:31.000+00:00"}
    attempt |= {"updated": "2026-11-22T18:54:31.000+00:00", "scoring_s": 12.5}
    row = {"eval_id": FAILED, "phase": "scoring", "started": attempt["updated"]}
    row |= {"requests_done": 3, "requests_total": 12, "requests_per_s": 1.5}
    return {
        "shard": 0,
        "host": "node1",
        "pid": 4711,
        "process_start": 12,
        **attempt,
        "total": 3,
        "skipped": 0,
        "done": 2,
        "failed": 0,
        "loading": "",
        "ended": "",
        "rows": [row],
        "attempts": [attempt, attempt],
        "unusable": "",
    }


def result() -> Any:
    content = read_json(CONTRACT / "run" / "results" / f"{CHOICE}.json")
    return {"results": content["results"], "oellm": content["oellm"]}


def native(pattern: str) -> Any:
    (path,) = GOLDEN.glob(f"native/{pattern}")
    content = read_json(path)
    return {key: value for key, value in content.items() if key not in ("configs", "task_hashes")}


STATUS = ("oe-status", "--format=jsonl")


def check_rows(place: Place, kind: str, path: Path) -> list[dict[str, Any]]:
    """Return the rows of oe-status; the file may not change what is known of other rows."""
    done = place.run(kind, path, *STATUS, place.bad)
    rows = lines(done)
    assert [row["eval_id"] for row in rows] == [CHOICE, FAILED, PROSE]
    return rows


@fuzz(damaged_json(record()))
def test_run(place: Place, content: bytes, choice: int) -> None:
    path = place.bad / "run.json"
    with replaced(path, content):
        command: tuple[str, ...] = STATUS
        if choice < 5:
            command = (("oe-submit", "--dry_run"), ("oe-collect",), ("oe-missing",))[choice % 3]
        done = place.run("run.json", path, *command, place.bad)
        if done.status != ExitStatus.USAGE:
            record = strict(content)
            assert type(record["n_rows"]) is int
            assert all(isinstance(record[key], list) for key in ("arrays", "shards", "jobs"))
        # A damaged run takes nothing from the others.
        if choice == 0:
            beside = place.run("run.json", path, "oe-collect", "--format=jsonl", place.output)
            assert {CHOICE, PROSE} <= {record["eval_id"] for record in lines(beside)}


@fuzz(damaged_json(result()))
def test_result(place: Place, content: bytes, choice: int) -> None:
    path = place.bad / "results" / f"{CHOICE}.json"
    with replaced(path, content):
        check_result(place, path, content, choice)


def check_result(place: Place, path: Path, content: bytes, choice: int) -> None:
    if choice == 0:
        states = {row["eval_id"]: row["state"] for row in check_rows(place, "result", path)}
        assert states[PROSE] == "done"
        return
    if choice == 1:
        place.run("result", path, "oe-report", f"--output={place.directory}/page.html", place.bad)
        return
    source = path if choice < 4 else place.bad
    done = place.run("result", path, "oe-collect", "--format=jsonl", source)
    records = lines(done)
    if choice >= 4:
        assert {record["metric"] for record in records if record["eval_id"] == PROSE}
        records = [record for record in records if record["eval_id"] == CHOICE]
    if not records or "oellm" not in members(content):
        return
    ours = members(content)["oellm"]
    for record in records:
        same = [
            metric
            for metric in ours["metrics"]
            if (metric["task"], metric["metric"]) == (record["task"], record["metric"])
        ]
        assert any(math.isclose(metric["value"], record["value"], rel_tol=1e-15) for metric in same)


@fuzz(damaged_json(read_json(CONTRACT / "run" / "failures" / f"{FAILED}.json")))
def test_failure(place: Place, content: bytes, choice: int) -> None:
    path = place.bad / "failures" / f"{FAILED}.json"
    with replaced(path, content):
        check_failure(place, path, content, choice)


def check_failure(place: Place, path: Path, content: bytes, choice: int) -> None:
    if choice == 0:
        done = place.run("failure", path, "oe-missing", place.bad)
        assert len(done.out.splitlines()) == 2
        return
    rows = check_rows(place, "failure", path)
    assert [row["state"] for row in rows][::2] == ["done", "done"]
    reason, failure = rows[1]["reason"] or "", members(content).get("oellm", {})
    if rows[1]["state"] == "failed":
        assert str(failure["failure"].get("message", "")).split("\n")[0][:40].strip() in reason


@fuzz(damaged_json(heartbeat()))
def test_heartbeat(place: Place, content: bytes, choice: int) -> None:
    path = place.bad / "progress" / "0.json"
    with replaced(path, content):
        if choice == 0:
            done = place.run("heartbeat", path, "oe-status", "--format=json", place.bad)
            json.loads(done.out)
        elif choice == 1:
            place.run("heartbeat", path, "oe-status", "--format=table", place.bad)
        else:
            rows = check_rows(place, "heartbeat", path)
            assert [row["state"] for row in rows][::2] == ["done", "done"]


@fuzz(damaged_csv(list(csv.reader((CONTRACT / "run" / "jobs.csv").open()))))
def test_jobs(place: Place, content: bytes, choice: int) -> None:
    path = place.bad / "jobs.csv"
    with replaced(path, content):
        commands = (STATUS, ("oe-collect",), ("oe-missing",), ("oe-submit", "--dry_run"))
        command: tuple[str, ...] = commands[choice % 4]
        done = place.run("jobs.csv", path, *command, place.bad)
        if done.status != ExitStatus.USAGE and command is STATUS:
            rows = strict_lines(content)
            assert [row["eval_id"] for row in lines(done)] == [row["eval_id"] for row in rows]


MANIFEST = [
    ["model_path", "task_path", "n_shot", "limit", "batch_size", "gen_kwargs", "model_args", "x"],
    ["acme/a", "arc_easy", "0", "10", "8", "", "", "1"],
    ["acme/b,revision=1", "hellaswag", "5", "0.5", "auto", '{"do_sample":false}', "", "2"],
    ["acme/c", "mmlu", "", "", "", "temperature=0", '{"device_map":{"a":1}}', ""],
]


@fuzz(damaged_csv(MANIFEST))
def test_manifest(place: Place, content: bytes, choice: int) -> None:
    path = place.directory / "manifest.csv"
    path.write_bytes(content)
    done = place.run("manifest", path, "oe-render", "--explain", path)
    if done.status != ExitStatus.DONE:
        return
    wanted = strict_lines(content)
    given_shots = [float(row["n_shot"] or 0) for row in wanted]
    rows = list(csv.DictReader(io.StringIO(done.out.decode("utf-8", "surrogateescape"))))
    assert len(rows) <= len(wanted)
    assert {float(row["n_shot"] or 0) for row in rows} <= set(given_shots)
    assert {row["task_path"] for row in rows} <= {row["task_path"].strip() for row in wanted}
    limits = {row.get("limit", "").strip() for row in wanted}
    for row in rows:
        assert row["limit"] in limits or float(row["limit"]) in {float(x) for x in limits if x}


MINE: dict[str, Any] = {
    "hostnames": ["login*"],
    "executor": "slurm",
    "account": "acme",
    "partition": "gpu",
    "time_limit": "1-00:00:00",
    "gpus_per_node": 4,
    "whole_node": False,
    "mem": "64G",
    "eval_base_dir": "/scratch/{user}",
    "images": {"lm_eval": "a.sif"},
    "container_args": ["--nv"],
    "env": {"A": "b"},
    "sbatch": {"mail-type": "FAIL"},
}
CLUSTER = {
    "defaults": {"queue_limit": 100, "batch_size": "auto"},
    "clusters": {"mine": MINE},
}


@fuzz(damaged_json(CLUSTER))
def test_clusters(place: Place, content: bytes, choice: int) -> None:
    path = place.directory / "clusters.json"
    path.write_bytes(content)
    place.environ["OELLM_CONFIG"] = str(path)
    try:
        done = place.run("clusters", path, "oe-detect", "--cluster=local")
        if done.status == ExitStatus.DONE:
            strict(content)
            done = call("oe-detect", "--cluster=mine", environ=place.environ)
            check_settings(done, members(content).get("clusters", {}).get("mine", {}))
    finally:
        del place.environ["OELLM_CONFIG"]


@fuzz(damaged_json(MINE | {"name": "mine"}))
def test_cluster(place: Place, content: bytes, choice: int) -> None:
    path = place.directory / "cluster.json"
    path.write_bytes(content)
    done = place.run("cluster", path, "oe-detect", f"--cluster={path}")
    check_settings(done, members(content))


def check_settings(done: Outcome, wanted: dict[str, Any]) -> None:
    assert "internal error" not in done.err, done.err
    if done.status != ExitStatus.DONE:
        return
    settled = json.loads(done.out)
    for key, value in wanted.items():
        if isinstance(value, (int, float)) or (isinstance(value, str) and key == "account"):
            assert settled.get(key) == value or "{" in str(value)


SUITES = {
    "languages": {"ltz_Latn": {"alpha2": "lb", "name": "luxembourgish"}},
    "groups": {
        "nordic": {
            "description": "What we look at.",
            "languages": ["dan_Latn", "sv"],
            "tasks": [
                {"task": "belebele_{language}", "n_shot": [0, 5], "primary_metric": "acc"},
                {"task": "saga", "language": "isl_Latn", "gen_kwargs": {"max_gen_toks": 64}},
            ],
        },
        "weekly": {"suites": ["nordic", "open-sci-0.01"]},
    },
}


@fuzz(damaged_json(SUITES))
def test_suites(place: Place, content: bytes, choice: int) -> None:
    with replaced(place.suites, content):
        done = place.run("suites", place.suites, "oe-manifest", "--list")
        if done.status == ExitStatus.DONE:
            strict(content)


RECORDS = list(csv.reader((CONTRACT / "metrics.csv").open()))


@fuzz(
    st.one_of(
        damaged_csv(RECORDS),
        damaged_json([dict(zip(RECORDS[0], row, strict=True)) for row in RECORDS[1:]]),
    )
)
def test_records(place: Place, content: bytes, choice: int) -> None:
    path = place.directory / "records.csv"
    path.write_bytes(content)
    if choice < 3:
        command = ("oe-pivot", "oe-compare", "oe-report")[choice]
        more: list[object] = [path] if command == "oe-compare" else []
        if command == "oe-report":
            more = [f"--output={place.directory}/page.html"]
        place.run("records", path, command, *more, path)
        return
    done = place.run("records", path, "oe-collect", "--format=jsonl", path)
    records = lines(done)
    if not records or done.status == ExitStatus.USAGE:
        return
    try:
        wanted = strict(content)
        wanted = wanted if isinstance(wanted, list) else []
    except ValueError:
        wanted = strict_lines(content)
    assert len(records) <= len(wanted)
    values = [float(one["value"]) for one in wanted if isinstance(one, dict)]
    assert all(record["value"] in values for record in records)


NATIVE = [
    native("lm_eval-0.4.8-group/results*.json"),
    native("lighteval-*/results*.json"),
    native("evalplus-*/*eval_results.json"),
    native("nvidia*/bigcode.json"),
]


@fuzz(st.sampled_from(NATIVE).flatmap(damaged_json))
def test_native(place: Place, content: bytes, choice: int) -> None:
    path = place.directory / "results_x.json"
    path.write_bytes(content)
    command = "oe-collect" if choice else "oe-pivot"
    place.run("native", path, command, path)


SMALL = ("submit.lock", "stops/0", "contents.json", "binds", "slurm_logs/local_0.log")


@fuzz(st.one_of(damaged_bytes(b"4711 2\n"), damaged_json({"host": "a", "pid": 1, "token": "x"})))
def test_small_files(place: Place, content: bytes, choice: int) -> None:
    with contextlib.ExitStack() as stack:
        for name in SMALL:
            stack.enter_context(replaced(place.bad / name, content))
        path = place.bad
        if choice < 5:
            place.run("small files", path, "oe-status", "--log=0", place.bad)
        else:
            check_rows(place, "small files", path)


def test_nothing_is_left_behind(place: Place) -> None:
    shutil.rmtree(place.directory / "cache", ignore_errors=True)
    assert not list(place.bad.rglob("*.tmp"))
