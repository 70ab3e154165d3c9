"""The preparation of tasks by oe-run-task, in the environment that the jobs will have."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from oellm.clusters.cluster import Cluster
from oellm.clusters.runtime import NLTK, command, passed_on, require
from oellm.core import json_codec
from oellm.core.csv_records import csv_text
from oellm.errors import ExitStatus, MachineError
from oellm.fetch import task_preparation
from oellm.manifest.rows import Row
from oellm.runs.frozen_worker import frozen_worker

_ENDED_IN_ORDER = (ExitStatus.DONE, ExitStatus.FAILED)

# What is known about the task of a row (schema.json, table `task`).
TaskRecord = dict[str, Any]


class TaskProcess:
    """Asks about the tasks of rows, with `fetch` after downloading what they need.

    One process for each framework, with `jobs` processes below it; `relay` gets the lines of their
    messages.
    """

    def __init__(
        self, cluster: Cluster, fetch: bool, jobs: int, relay: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._relay = relay
        self._option = "--fetch_tasks" if fetch else "--check_tasks"
        self._jobs = jobs
        self._records: dict[tuple[str, ...], TaskRecord] = {}

    def require(self, rows: Iterable[Row]) -> None:
        """Raise MachineError where the environment of a row's framework is missing."""
        for suite in dict.fromkeys(row.value("eval_suite") for row in rows):
            require(self._cluster, suite)

    def ask(self, rows: Iterable[Row]) -> None:
        """Ask about the tasks of rows; `record` has the answers then.

        Raises MachineError where the environment is missing, or cannot be started.
        """
        wanted: dict[str, dict[tuple[str, ...], Row]] = {}
        for row in rows:
            wanted.setdefault(row.value("eval_suite"), {}).setdefault(_key(row), row)
        with tempfile.TemporaryDirectory(prefix="oellm-") as directory:
            worker = Path(directory, "oe-run-task.pyz")
            worker.write_bytes(frozen_worker())
            for suite, different in wanted.items():
                self._ask(suite, worker, list(different.values()))

    def record(self, row: Row) -> TaskRecord:
        """Return what is known about the task of a row."""
        return self._records[_key(row)]

    def _ask(self, suite: str, worker: Path, rows: list[Row]) -> None:
        paths = {os.path.dirname(row["task_path"]) for row in rows if "/" in row["task_path"]}
        paths |= {row["include_path"] for row in rows}
        if hf_home := self._cluster.text("hf_home"):
            # NLTK downloads only into a directory that exists.
            Path(hf_home, NLTK).mkdir(parents=True, exist_ok=True)
        arguments = [self._option, f"--jobs={self._jobs}"]
        called = command(self._cluster, suite, worker, paths - {""}, arguments)
        with (
            self._messages() as messages,
            subprocess.Popen(
                called,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                env=passed_on(os.environ),
                # A group of its own, so that all of it can be ended; what is half done, goes on.
                start_new_session=True,
            ) as process,
        ):
            try:
                output, _ = process.communicate(_manifest(rows))
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode not in _ENDED_IN_ORDER:
            raise MachineError(
                f"cannot check the tasks: oe-run-task {self._option} in the environment "
                f"of cluster {self._cluster.text('name')} ended with status {process.returncode}"
            )
        for line in output.splitlines():
            record = json_codec.loads(line)
            self._records[tuple(record[column] for column in _columns())] = record

    @contextlib.contextmanager
    def _messages(self) -> Iterator[int]:
        """Give a file descriptor whose lines go to `relay`, all of them before the context ends."""
        source, target = os.pipe()

        def pass_on() -> None:
            with open(source, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    self._relay(line)

        thread = threading.Thread(target=pass_on, daemon=True)
        thread.start()
        try:
            yield target
        finally:
            os.close(target)
            thread.join()


def _columns() -> tuple[str, ...]:
    return task_preparation.DEMAND_COLUMNS


def _key(row: Row) -> tuple[str, ...]:
    return tuple(row[column] for column in _columns())


def _manifest(rows: Iterable[Row]) -> bytes:
    """Return rows as CSV that have all that the worker needs to know of them."""
    cells = ([row["model_path"], *_key(row)] for row in rows)
    text = csv_text([["model_path", *_columns()], *cells])
    return text.encode("utf-8", "surrogateescape")
