"""The processes that evaluate rows: each builds a task, asks the model, and writes the result."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from oellm.core import display
from oellm.core.processes import children, progress_bars
from oellm.core.processes.children import Child
from oellm.frameworks.interface import Evaluator, ModelClient
from oellm.frameworks.stages import GENERATE
from oellm.hub import data_sets
from oellm.manifest.model_key import ModelKey
from oellm.manifest.rows import Row
from oellm.runs.contents import Contents
from oellm.runs.result_record import RowTiming
from oellm.runs.stages.stage_store import StageStore
from oellm.worker import halts
from oellm.worker.halts import Halt
from oellm.worker.row_contents import require_same
from oellm.worker.row_ledger import Stores
from oellm.worker.row_record import (
    Ended,
    FailedElsewhereError,
    Job,
    RowFailure,
    RowRecorder,
    UnwritableError,
)
from oellm.worker.time_limit import RowLimit, Stopwatch


class AskHandle(NamedTuple):
    """A row asks for the handle of its model."""


class AskModel(NamedTuple):
    """A row asks its model; `is_last` says that it makes no further call."""

    call: bytes
    is_last: bool


class Reply(NamedTuple):
    """The reply to a row, pickled, and the seconds of loading that count as the row's own."""

    content: bytes
    load_s: float = 0.0


class RowProcess:
    """A process that evaluates one row after the other, as its parent sees it.

    Attributes:
        child: The process.
        row: The row that it evaluates.
        key: The model of that row.
        label: The name of the row in messages.
        started: When the row began, in UTC.
        asks: The unanswered message of the row; None if there is none.
        is_scored: Whether the row will ask the model nothing more.
        stopwatch: The time that the row has taken.
    """

    def __init__(
        self,
        evaluators: Mapping[str, Evaluator],
        stores: Stores,
        inherited: Iterable[Connection],
    ) -> None:
        self.child: Child = children.fork(_make_server(evaluators, stores), inherited)
        self.row: Row | None = None
        self.key: ModelKey | None = None
        self.label = ""
        self.started = ""
        self.asks: AskHandle | AskModel | None = None
        self.is_scored = False
        self.stopwatch = Stopwatch()

    def evaluate(self, key: ModelKey, label: str, job: Job, limit: RowLimit) -> None:
        """Begin to evaluate a row, which may take as long as the limit says."""
        self.row, self.key, self.label, self.started = job.row, key, label, display.utc_now()
        self.asks, self.is_scored = None, False
        self.stopwatch.start(limit)
        self._send(job)

    def ask(self, message: AskHandle | AskModel) -> None:
        """Note what the row asks. It may wait for other rows, which is no part of its time."""
        self.asks = message
        self.stopwatch.pause()

    def begin_scoring(self, request: AskModel) -> None:
        """Note that the model begins to answer what the row asks."""
        self.asks, self.is_scored = None, request.is_last
        self.stopwatch.resume()

    def reply(self, reply: Reply | RowFailure) -> None:
        """Answer what the row asks."""
        self.asks = None
        self.stopwatch.resume()
        self._send(reply)

    def receive(self) -> AskHandle | AskModel | Ended | Halt:
        """Return the next message; raises EOFError or ConnectionError if the process has ended."""
        message: AskHandle | AskModel | Ended | Halt = self.child.connection.recv()
        return message

    def _send(self, message: object) -> None:
        # If the process has ended, `receive` notices it.
        with contextlib.suppress(ConnectionError):
            self.child.connection.send(message)


def _make_server(
    evaluators: Mapping[str, Evaluator], stores: Stores
) -> Callable[[Connection], None]:
    def serve(connection: Connection) -> None:
        progress_bars.silence_bars()
        while True:
            job: Job = connection.recv()
            evaluator = evaluators[str(job.row.value("eval_suite"))]
            connection.send(_evaluate_row(job, evaluator, connection=connection, stores=stores))

    return serve


def _evaluate_row(
    job: Job, evaluator: Evaluator, connection: Connection, stores: Stores
) -> Ended | Halt:
    """Evaluate a row, or its first stage, and write its result, its output or its failure.

    Returns a Halt, and writes nothing, if the machine cannot write: that is no failure of the row.
    """
    recorder = RowRecorder(job, stores.results, display.utc_now())
    model = _ModelProxy(connection, recorder.timing, lambda: _require_data(job))
    clock = time.perf_counter()
    try:
        if job.key:
            return _generate(job, evaluator, model, recorder=recorder, stages=stores.stages)
        evaluation = evaluator.evaluate(job.row, model, job.bootstrap_iters)
        recorder.timing.add(evaluation.timing)
        recorder.timing.row_s = time.perf_counter() - clock
        return recorder.write_result(evaluation)
    except UnwritableError as error:
        return Halt(str(error))
    # A task may call sys.exit, and a framework may raise anything: only this row fails.
    except BaseException as error:
        recorder.timing.row_s = time.perf_counter() - clock
        failure = RowFailure.from_error(error)._replace(stage=job.stage)
    if failure.full_disk:
        return Halt(failure.full_disk)
    try:
        return recorder.write_failure(failure)
    except UnwritableError as error:
        return Halt(str(error))


def _generate(
    job: Job,
    evaluator: Evaluator,
    model: ModelClient,
    *,
    recorder: RowRecorder,
    stages: StageStore,
) -> Ended:
    """Compute the first stage of a row, and store its output."""
    clock = time.perf_counter()
    try:
        attempt = stages.new_attempt(job.key, GENERATE)
    except OSError as error:
        raise UnwritableError(halts.describe_storage(error)) from error
    try:
        generation = evaluator.generate(job.row, model, attempt)
        recorder.timing.add(generation.timing)
        recorder.timing.row_s = time.perf_counter() - clock
        return recorder.write_output(generation, attempt, stages)
    finally:
        shutil.rmtree(attempt, ignore_errors=True)


def _require_data(job: Job) -> None:
    """Raise ContentsChangedError if other data were loaded than the row was prepared with."""
    loaded = Contents(data=" ".join(data_sets.loaded_commits()))
    require_same(Contents(data=job.expected.data), loaded, job.row)


class _ModelProxy:
    """The model as its row sees it; adds the time of loading to the row's timing.

    `before_requests` is called before each call of the model.
    """

    def __init__(
        self, connection: Connection, timing: RowTiming, before_requests: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._timing = timing
        self._before_requests = before_requests
        self._handle: Any = None

    def wait_for_model(self) -> Any:
        """Return the handle of the row's model; waits for it."""
        if self._handle is None:
            reply = self._exchange(AskHandle())
            self._timing.model_load_s = reply.load_s
            self._handle = pickle.loads(reply.content)  # noqa: S301
        return self._handle

    def request_reply(self, call: Any, is_last: bool) -> Any:
        """Return the model's reply to a call; `is_last` says that the row makes no further call."""
        # By now the row's data are loaded, and the model has not worked for it yet.
        self._before_requests()
        reply = self._exchange(AskModel(pickle.dumps(call), is_last=is_last))
        return pickle.loads(reply.content)  # noqa: S301

    def _exchange(self, message: AskHandle | AskModel) -> Reply:
        try:
            self._connection.send(message)
            reply: Reply | RowFailure = self._connection.recv()
        except (EOFError, ConnectionError):
            # The worker has ended. The row did not fail, so nothing is recorded.
            os._exit(1)
        if isinstance(reply, RowFailure):
            raise FailedElsewhereError(reply)
        return reply
