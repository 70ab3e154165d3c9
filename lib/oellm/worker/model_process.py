"""The process that holds the model: it loads the model and answers the requests of rows."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from oellm import frameworks
from oellm.core.processes import children, log_lines, progress_bars
from oellm.frameworks.interface import StoppedError
from oellm.manifest.model_key import ModelKey
from oellm.manifest.rows import Row
from oellm.models.model_digests import ModelDigests
from oellm.models.staging import Source, Stage
from oellm.runs.answers import Answers
from oellm.runs.contents import Contents
from oellm.worker import gpu_check
from oellm.worker.gpu_check import GpuDemand
from oellm.worker.job_script import JobScript
from oellm.worker.row_contents import require_same
from oellm.worker.row_record import RowFailure

# Minimum seconds between two messages about the progress of a row.
_PROGRESS_EVERY = 1.0


class LoadRequest(NamedTuple):
    """Asks for a model, in place of the loaded one.

    Attributes:
        key: The model.
        row: The first row that uses it.
        stage_dir: The directory on this node's disk that the model is copied to before it is
            loaded; empty for no copy.
        gpus: What the worker was given.
        expected: What the row must be evaluated from, as far as that is known.
    """

    key: ModelKey
    row: Row
    stage_dir: str
    gpus: GpuDemand
    expected: Contents


class ScoreRequest(NamedTuple):
    """Asks for the answers to a row's call.

    Attributes:
        eval_id: The row.
        directory: The directory that keeps answers until the row is done; None to keep none.
        call: The framework's call, pickled.
    """

    eval_id: str
    directory: Path | None
    call: bytes


class Loaded(NamedTuple):
    """The model is loaded.

    Attributes:
        handle: What rows must know about the model, pickled.
        seconds: The duration of loading.
        is_replaceable: Whether the process can load another model after this one.
    """

    handle: bytes
    seconds: float
    is_replaceable: bool


class Scores(NamedTuple):
    """The reply to a ScoreRequest, pickled."""

    reply: bytes


class RequestFailed(NamedTuple):
    """A request failed. `is_broken` says that the process can do nothing more."""

    failure: RowFailure
    is_broken: bool


class GpusUnusable(NamedTuple):
    """The GPUs of this node cannot be used, and no model is loaded."""

    reason: str


class ModelStopped(NamedTuple):
    """The model stopped between two batches."""


class RequestProgress(NamedTuple):
    """The numbers of requests: answered, in total, and answered by earlier attempts."""

    done: int
    total: int
    kept: int


class Staging(NamedTuple):
    """The model is being copied to this node, perhaps by another worker; `is_over`: no longer."""

    is_over: bool


class LogLine(NamedTuple):
    """A message for the user."""

    text: str


# What a process tells while it works on a request.
_MEANWHILE = (LogLine, RequestProgress, Staging)

ModelMessage = (
    Loaded
    | Scores
    | RequestFailed
    | GpusUnusable
    | ModelStopped
    | RequestProgress
    | Staging
    | LogLine
)


class ModelProcess:
    """The model's process, as its parent sees it.

    Attributes:
        key: The model that is loaded or being loaded.
        is_busy: Whether a request is unanswered.
        is_replaceable: Whether the process can load another model.
    """

    def __init__(self) -> None:
        self.child = children.start_python("oellm.worker.model_process")
        self.key: ModelKey | None = None
        self.is_busy = False
        self.is_replaceable = False

    def can_load(self, key: ModelKey) -> bool:
        """Return whether the process can load this model in place of its present one."""
        return (
            self.is_replaceable and self.key is not None and self.key.eval_suite == key.eval_suite
        )

    def load(self, request: LoadRequest) -> None:
        """Begin to load the model of a row."""
        self.key = request.key
        self._send(request)

    def score(self, request: ScoreRequest) -> None:
        """Begin to answer a row's call."""
        self._send(request)

    def receive(self) -> ModelMessage:
        """Return the next message; raises EOFError or ConnectionError if the process has ended."""
        message: ModelMessage = self.child.connection.recv()
        if not isinstance(message, _MEANWHILE):
            self.is_busy = False
        return message

    def _send(self, request: LoadRequest | ScoreRequest) -> None:
        self.is_busy = True
        # If the process has ended, `receive` notices it.
        with contextlib.suppress(ConnectionError):
            self.child.connection.send(request)


def serve(connection: Connection) -> None:
    """Run the model's process. SIGTERM asks it to stop after the current batch."""
    progress_bars.silence_bars()
    log_lines.keep_lines(is_stamped=JobScript(os.environ).exists)
    _Server(connection).serve()


def _require_model(request: LoadRequest) -> None:
    """Raise ContentsChangedError if the files of a model are not those that are expected."""
    found = Contents(model=ModelDigests().digest(request.row))
    require_same(request.expected, found, request.row)


class _Server:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._model: Any = None
        self._stage: Stage | None = None
        self._is_stopping = False
        self._progress_sent = 0.0
        signal.signal(signal.SIGTERM, self._stop)

    def serve(self) -> None:
        while True:
            request: LoadRequest | ScoreRequest = self._connection.recv()
            try:
                message = self._execute(request)
            except StoppedError:
                message = ModelStopped()
            # Model code may raise anything and may call sys.exit.
            except BaseException as error:
                message = RequestFailed(
                    RowFailure.from_error(error), self._is_broken_by(error, request)
                )
            self._connection.send(message)

    def _is_broken_by(self, error: BaseException, request: LoadRequest | ScoreRequest) -> bool:
        if self._model is None or self._model.is_broken_by(error):
            return True
        return isinstance(request, LoadRequest) and not self._model.replaceable

    def _execute(self, request: LoadRequest | ScoreRequest) -> ModelMessage:
        if isinstance(request, LoadRequest):
            if self._model is None:
                self._model = frameworks.create_model(request.key.eval_suite, self._log)
                if (refusal := self._refuse_gpus(request)) is not None:
                    return refusal
            # Its files may be replaced before and while they are read.
            _require_model(request)
            handle = self._model.load(request.key, request.row, self._copy_to_node(request))
            _require_model(request)
            return Loaded(pickle.dumps(handle), handle.seconds, self._model.replaceable)
        answers = None
        if request.directory is not None:
            answers = Answers(
                request.directory, request.eval_id, origin=self._model.origin, log=self._log
            )
        try:
            call = pickle.loads(request.call)  # noqa: S301
            reply = self._model.answer(call, answers, self._report_progress)
        finally:
            if answers is not None:
                answers.flush()
        return Scores(pickle.dumps(reply))

    def _refuse_gpus(self, request: LoadRequest) -> GpusUnusable | None:
        """Return a message if the GPUs that the worker was given cannot be used."""
        gpus = request.gpus
        if not gpus.number:
            return None
        # Other backends start processes, which must initialise the GPUs themselves.
        obstacle = gpu_check.find_obstacle_of_torch(
            gpus.number, may_touch=request.key.backend == "hf"
        )
        if not obstacle:
            return None
        if not gpus.allow_cpu:
            return GpusUnusable(obstacle)
        self._log(gpu_check.warn_of_cpu(gpus.number, obstacle))
        return None

    def _copy_to_node(self, request: LoadRequest) -> Source:
        if not request.stage_dir:
            return Source(request.row.model.path)
        if self._stage is None:
            self._stage = Stage(request.stage_dir, self._log)
        self._connection.send(Staging(is_over=False))
        source = self._stage.copy_model(request.row)
        self._connection.send(Staging(is_over=True))
        return source

    def _report_progress(self, done: int, total: int, kept: int) -> bool:
        """Report the progress now and then; return whether the model should go on."""
        now = time.monotonic()
        if now - self._progress_sent >= _PROGRESS_EVERY:
            self._progress_sent = now
            self._connection.send(RequestProgress(done, total, kept))
        return not self._is_stopping

    def _log(self, text: str) -> None:
        self._connection.send(LogLine(text))

    def _stop(self, *_: object) -> None:
        self._is_stopping = True
