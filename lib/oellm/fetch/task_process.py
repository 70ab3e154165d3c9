"""Preparing tasks with oe-run-task, in the environment that the jobs will have."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.clusters.runtime import NLTK, pass_to_container, require_launcher, worker_command
from oellm.core import json_codec
from oellm.core.csv_records import csv_text
from oellm.core.log import Log
from oellm.core.paths import make_shared_directory
from oellm.errors import ExitStatus, InputError, MachineError
from oellm.fetch.task_records import DEMAND_COLUMNS, Obstacle, TaskRecord, demand_cells
from oellm.frameworks.interface import TaskFacts
from oellm.frameworks.stages import environment_key
from oellm.manifest.rows import Row
from oellm.runs.frozen_worker import freeze_worker
from oellm.runs.run_directory import WORKER
from oellm.task_sources.cache import source_directories

# Statuses with which oe-run-task has answered for all tasks.
_COMPLETE = (ExitStatus.DONE, ExitStatus.FAILED)


class TaskProcess:
    """Asks oe-run-task about the tasks of rows; with `fetch`, it first downloads what they need.

    Runs one process for each framework, with `jobs` processes below it. `relay` gets the lines of
    their messages.
    """

    def __init__(self, cluster: Cluster, fetch: bool, jobs: int, relay: Log) -> None:
        self._cluster = cluster
        self._relay = relay
        self._option = "--fetch_tasks" if fetch else "--check_tasks"
        self._jobs = jobs
        self._answers: dict[tuple[str, ...], TaskFacts | Obstacle] = {}

    def require(self, rows: Iterable[Row]) -> None:
        """Raise MachineError if the environment of a stage of a row is missing."""
        for environment in dict.fromkeys(name for row in rows for name in _environments(row)):
            require_launcher(self._cluster, environment)

    def ask(self, rows: Iterable[Row]) -> None:
        """Ask about the tasks of rows; `answer` has the answers then.

        Raises MachineError if the environment is missing or cannot be started.
        """
        wanted: dict[str, dict[tuple[str, ...], Row]] = {}
        for row in rows:
            wanted.setdefault(row.value("eval_suite"), {}).setdefault(demand_cells(row), row)
        with tempfile.TemporaryDirectory(prefix="oellm-") as directory:
            worker = Path(directory, WORKER)
            worker.write_bytes(freeze_worker(wanted))
            for suite, different in wanted.items():
                self._ask(suite, worker, list(different.values()))

    def answer(self, row: Row) -> TaskFacts | Obstacle:
        """Return the facts about the task of a row, or what is in its way."""
        return self._answers[demand_cells(row)]

    def _ask(self, suite: str, worker: Path, rows: list[Row]) -> None:
        paths = {os.path.dirname(row["task_path"]) for row in rows if "/" in row["task_path"]}
        for text in {row["include_path"] for row in rows}:
            paths.update(source_directories(text, os.environ))
        if hf_home := self._cluster.text("hf_home"):
            # NLTK downloads only into a directory that exists.
            make_shared_directory(Path(hf_home, NLTK))
        arguments = [self._option, f"--jobs={self._jobs}"]
        called = worker_command(
            self._cluster, suite, worker=worker, paths=paths, arguments=arguments
        )
        with (
            self._messages() as messages,
            subprocess.Popen(
                called,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                env=pass_to_container(os.environ),
                # A group of its own, so that all its processes can be killed. What they leave
                # half done is resumed next time.
                start_new_session=True,
            ) as process,
        ):
            try:
                output, _ = process.communicate(_manifest(rows))
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode in _COMPLETE:
            records = map(TaskRecord.from_json, map(json_codec.loads, output.splitlines()))
            self._answers.update((record.cells, record.answer) for record in records)
        # An error inside oe-run-task ends it with the status of a task that cannot start.
        if not all(demand_cells(row) in self._answers for row in rows):
            raise MachineError(
                f"cannot check the tasks: oe-run-task {self._option} in the environment "
                f"of cluster {self._cluster.text('name')} ended with status {process.returncode}"
            )

    @contextlib.contextmanager
    def _messages(self) -> Iterator[int]:
        """Give a file descriptor; `relay` gets all its lines before the context ends."""
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


def _environments(row: Row) -> list[str]:
    """Return the keys of the environments that the stages of a row need."""
    try:
        stages = frameworks.stages_of(row)
    except InputError:
        # There is no such task, which its own environment tells.
        stages = []
    suite = row.typed.eval_suite
    later = (environment_key(suite, stage, is_first=False) for stage in stages[1:])
    return [suite, *later]


def _manifest(rows: Iterable[Row]) -> bytes:
    """Return rows as CSV with the columns that the worker needs."""
    cells = ([row["model_path"], *demand_cells(row)] for row in rows)
    text = csv_text([["model_path", *DEMAND_COLUMNS], *cells])
    return text.encode("utf-8", "surrogateescape")
