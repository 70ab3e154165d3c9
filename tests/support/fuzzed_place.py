"""A run that damaged files are put into, and what a strict reader finds in them."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oellm.errors import ExitStatus
from support.fuzzing import Outcome, call
from support.golden_run import CONTRACT, make_run
from support.processes import BIN, assert_foreseen, clean_environment, run_in_time

# Inputs of each kind. If there are many, one in so many is tried as a process of its own, too.
EXAMPLES = int(os.environ.get("OELLM_FUZZ", "100")) // 10
PROCESS_EVERY = 50
WORKER = b"worker"


def run_record() -> dict[str, Any]:
    """Return the record of a run whose worker is a few bytes."""
    content: dict[str, Any] = read_json(CONTRACT / "run" / "run.json")
    return content | {"worker": {"file": "w", "sha256": hashlib.sha256(WORKER).hexdigest()}}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


class Place:
    """A run that is damaged, beside one that is not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # How often commands on files of a kind ended in some way, by kind and way.
        self.ends: Counter[tuple[str, str]] = Counter()
        self._runs = 0
        self.output = directory / "out"
        home = directory / "home"
        home.mkdir(parents=True)
        self.good = make_run(self.output / "ada" / "good")
        self.bad = make_run(self.output / "ada" / "bad")
        (self.bad / "progress").mkdir()
        (self.bad / "oe-run-task.pyz").write_bytes(WORKER)
        (self.bad / "submit_evals.sbatch").write_text("exit 0\n")
        (self.bad / "run.json").write_text(json.dumps(run_record()))
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
        self._runs += 1
        # Not by chance: for each example, hypothesis makes Python's random numbers anew.
        if EXAMPLES >= PROCESS_EVERY and self._runs % PROCESS_EVERY == 0:
            home = self.directory / "home"
            process = run_in_time(BIN / command, *arguments, env=self.environ, cwd=home)
            assert process.returncode == done.status
            self.ends[kind, "as a process"] += 1
        return done

    def describe_ends(self) -> str:
        """Return a line for each kind of file, which says how often commands ended how."""
        text = ""
        for kind in sorted({kind for kind, _ in self.ends}):
            ends = sorted((end, count) for (of, end), count in self.ends.items() if of == kind)
            total = sum(count for end, count in ends if end != "as a process")
            shown = ", ".join(f"{end}: {count}" for end, count in ends)
            text += f"\n{kind:12} {total:6}  {shown}"
        total = sum(count for (_, end), count in self.ends.items() if end != "as a process")
        return f"{text}\n{'all':12} {total:6}\n"

    def _check(self, kind: str, path: Path, done: Outcome, command: str) -> None:
        assert done.status in set(ExitStatus), done
        assert_foreseen(done.err)
        assert done.status != ExitStatus.MACHINE, done.err
        refused = done.status == ExitStatus.USAGE
        # Of records that do not fit together these name the columns.
        if refused and command not in ("oe-pivot", "oe-compare"):
            # A record may name another script, or another digest of the worker.
            place = path.parent if path.name == "run.json" else path
            assert str(place) in done.err, done.err
        self.ends[kind, "refused" if refused else f"status {done.status:d}"] += 1


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
