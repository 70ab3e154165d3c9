"""The processes that evaluate rows: each builds a task, asks the model, and writes the result."""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from oellm.core import display, json_codec, processes, progress_bars
from oellm.core.processes import Child
from oellm.core.redaction import redact_json
from oellm.frameworks.interface import Evaluation, Evaluator
from oellm.manifest.model_key import ModelKey
from oellm.manifest.rows import Row
from oellm.runs import answers
from oellm.runs.answers import ANSWERS
from oellm.runs.result_store import Result, ResultStore, problem
from oellm.worker import row_record
from oellm.worker.row_record import FailedElsewhereError, Failure


class Job(NamedTuple):
    """A row to evaluate, with what is known about this run of the worker."""

    row: Row
    # Seconds that were spent before it and are booked on it.
    booked: Mapping[str, float]
    provenance: Mapping[str, Any]
    bootstrap_iters: int


class AskHandle(NamedTuple):
    """A row asks for what is known of its model."""


class AskModel(NamedTuple):
    """A row asks its model; `is_last`: the model can then serve others."""

    call: bytes
    is_last: bool


class Given(NamedTuple):
    """What a row asked for, and the seconds of loading that are booked on it."""

    content: bytes
    seconds: float = 0.0


class Ended(NamedTuple):
    """A row has its result or its failure."""

    is_done: bool
    # The record, as the line that goes to stdout.
    line: bytes
    # What the user gets to know about it.
    summary: str
    remarks: list[str]


class RowProcess:
    """A process that evaluates one row after the other, as its parent sees it."""

    def __init__(
        self,
        evaluators: Mapping[str, Evaluator],
        store: ResultStore | None,
        inherited: Iterable[Connection],
    ) -> None:
        self.child: Child = processes.fork(_server(evaluators, store), inherited)
        self.row: Row | None = None
        self.key: ModelKey | None = None
        self.label = ""
        self.started = ""
        # What it waits for, and whether it will ask the model for more.
        self.asks: AskHandle | AskModel | None = None
        self.is_scored = False

    def evaluate(self, key: ModelKey, label: str, job: Job) -> None:
        """Begin to evaluate a row."""
        self.row, self.key, self.label, self.started = job.row, key, label, display.utc_now()
        self.asks, self.is_scored = None, False
        self._send(job)

    def give(self, answer: Given | Failure) -> None:
        """Answer what it asks."""
        self.asks = None
        self._send(answer)

    def receive(self) -> AskHandle | AskModel | Ended:
        """Return its next message; raises EOFError or ConnectionError where it has ended."""
        message: AskHandle | AskModel | Ended = self.child.connection.recv()
        return message

    def _send(self, message: object) -> None:
        # That it has ended is seen when its next message is received.
        with contextlib.suppress(ConnectionError):
            self.child.connection.send(message)


def _server(
    evaluators: Mapping[str, Evaluator], store: ResultStore | None
) -> Callable[[Connection], None]:
    def serve(connection: Connection) -> None:
        progress_bars.silence_bars()
        while True:
            job: Job = connection.recv()
            row = job.row
            connection.send(_Evaluation(connection, job, store).ended(evaluators[_suite(row)]))

    return serve


def _suite(row: Row) -> str:
    suite: str = row.value("eval_suite")
    return suite


class _Evaluation:
    """One row, from its job to its end; also the model as the row sees it."""

    def __init__(self, connection: Connection, job: Job, store: ResultStore | None) -> None:
        self._connection = connection
        self._job = job
        self._store = store
        self._started = display.utc_now()
        self._timing = dict(job.booked)
        self._handle: Any = None

    def handle(self) -> Any:
        """Return what is known of the row's model; waits for it."""
        if self._handle is None:
            given = self._given(AskHandle())
            self._timing["model_load_s"] = given.seconds
            self._handle = pickle.loads(given.content)  # noqa: S301
        return self._handle

    def ask(self, call: Any, last: bool) -> Any:
        """Return what the row's model answers."""
        return pickle.loads(self._given(AskModel(pickle.dumps(call), last)).content)  # noqa: S301

    def _given(self, request: AskHandle | AskModel) -> Given:
        try:
            self._connection.send(request)
            answer: Given | Failure = self._connection.recv()
        except (EOFError, ConnectionError):
            # The worker has ended, and this row with it: it did not fail.
            os._exit(1)
        if isinstance(answer, Failure):
            raise FailedElsewhereError(answer)
        return answer

    def ended(self, evaluator: Evaluator) -> Ended:
        """Evaluate the row, and keep what comes of it."""
        clock = time.perf_counter()
        try:
            found = evaluator.evaluate(self._job.row, self, self._job.bootstrap_iters)
            self._timing |= found.timing | {"row_s": time.perf_counter() - clock}
            line, is_ours = self._kept(found)
        # A task may call sys.exit, and a harness may raise anything: that is one row's failure.
        except BaseException as error:
            self._timing["row_s"] = time.perf_counter() - clock
            return self._failed(Failure.of(error))
        seconds = self._timing["row_s"] - self._timing.get("wait_s", 0.0)
        remarks = list(found.remarks)
        if not is_ours:
            remarks.append("another worker was faster, its result stays")
        return Ended(True, line, f"done in {seconds:.1f} s: {_headline(found)}", remarks)

    def _kept(self, found: Evaluation) -> tuple[bytes, bool]:
        """Write the result; return its line, and whether it is ours or another worker's."""
        row, eval_id = self._job.row, self._job.row["eval_id"]
        provenance = {**self._job.provenance, **found.provenance}
        provenance["versions"] = {**self._job.provenance["versions"], **provenance["versions"]}
        record = row_record.record(row, "done", self._started, self._timing, provenance)
        record["metrics"] = [score.to_json() for score in found.scores]
        record["remarks"], record["usage"] = found.remarks, found.usage
        result: Result = {**found.native, "oellm": record}
        if reason := problem(result):
            raise ValueError(f"the result is not valid: {reason}")
        if self._store is None:
            return _line(result), True
        samples = found.samples if row.value("log_samples") else None
        is_ours = self._store.write_result(result, samples)
        answers.remove(self._store.directory / ANSWERS, eval_id)
        return _line(result), is_ours

    def _failed(self, failure: Failure) -> Ended:
        result = row_record.failed(
            self._job.row, failure, self._started, self._timing, self._job.provenance
        )
        return kept_failure(result, self._store)


def kept_failure(result: Result, store: ResultStore | None) -> Ended:
    """Write the failure file of a row; return how it ended."""
    if store is not None:
        store.write_failure(result)
    failure = result["oellm"]["failure"]
    summary = f"failed: {failure['class']}: {failure['message']}"
    return Ended(False, _line(result), summary, [])


def _line(result: Result) -> bytes:
    return redact_json(json_codec.dumps(result))


def _headline(found: Evaluation) -> str:
    first = found.scores[0] if found.scores else None
    return f"{first.metric} {first.value:.4f}" if first else "no metrics"
