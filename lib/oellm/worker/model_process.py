"""The process that holds the model: it loads it, and answers what rows ask."""

from __future__ import annotations

import contextlib
import pickle
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from oellm import frameworks
from oellm.core import processes, progress_bars
from oellm.frameworks.interface import StoppedError
from oellm.manifest.model_key import ModelKey
from oellm.manifest.rows import Row
from oellm.models.staging import Source, Stage
from oellm.runs.answers import Answers
from oellm.worker.row_record import Failure


class Load(NamedTuple):
    """Asks the model's process to load a model, in the place of the one that it has."""

    key: ModelKey
    row: Row
    # Where on this node's disk it is copied to before; empty for nowhere.
    stage_dir: str


class Ask(NamedTuple):
    """Asks the model's process for answers, which are kept in a directory meanwhile."""

    eval_id: str
    directory: Path | None
    call: bytes


class Loaded(NamedTuple):
    """A model is there: what rows must know of it, and whether another can take its place."""

    handle: bytes
    seconds: float
    is_replaceable: bool


class Answered(NamedTuple):
    """What a row asked for."""

    reply: bytes


class Failed(NamedTuple):
    """What was asked for cannot be had; `is_broken`: nor can anything else in that process."""

    failure: Failure
    is_broken: bool


class Stopped(NamedTuple):
    """The model stopped between two batches."""


class Advanced(NamedTuple):
    """So many requests are answered, of so many; so many had been before."""

    done: int
    total: int
    kept: int


class Said(NamedTuple):
    """A message for the user."""

    text: str


Message = Loaded | Answered | Failed | Stopped | Advanced | Said

# Seconds between two messages about how far it is.
_TELL_EVERY = 1.0


class ModelProcess:
    """The model's process, as its parent sees it."""

    def __init__(self) -> None:
        self.child = processes.start_python("oellm.worker.model_process")
        # What is loaded, or is being loaded.
        self.key: ModelKey | None = None
        self.is_busy = False
        self.is_replaceable = False

    def can_load(self, key: ModelKey) -> bool:
        """Return whether a model can be loaded in the place of the one that is there."""
        return (
            self.is_replaceable and self.key is not None and self.key.eval_suite == key.eval_suite
        )

    def load(self, request: Load) -> None:
        """Begin to load the model of a row."""
        self.key = request.key
        self._send(request)

    def ask(self, request: Ask) -> None:
        """Begin to answer."""
        self._send(request)

    def receive(self) -> Message:
        """Return its next message; raises EOFError or ConnectionError where it has ended."""
        message: Message = self.child.connection.recv()
        if not isinstance(message, (Said, Advanced)):
            self.is_busy = False
        return message

    def _send(self, request: Load | Ask) -> None:
        self.is_busy = True
        # That it has ended is seen when its answer is received.
        with contextlib.suppress(ConnectionError):
            self.child.connection.send(request)


def serve(connection: Connection) -> None:
    """Be the model's process; a signal SIGTERM asks it to stop after the batch that it is at."""
    progress_bars.silence_bars()
    _Server(connection).serve()


class _Server:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._model: Any = None
        self._stage: Stage | None = None
        self._is_stopping = False
        self._told = 0.0
        signal.signal(signal.SIGTERM, self._stop)

    def serve(self) -> None:
        while True:
            request: Load | Ask = self._connection.recv()
            try:
                message = self._done(request)
            except StoppedError:
                message = Stopped()
            # Model code may raise anything, and call sys.exit.
            except BaseException as error:
                message = Failed(Failure.of(error), self._is_broken_by(error, request))
            self._connection.send(message)

    def _is_broken_by(self, error: BaseException, request: Load | Ask) -> bool:
        if self._model is None or self._model.is_broken_by(error):
            return True
        return isinstance(request, Load) and not self._model.replaceable

    def _done(self, request: Load | Ask) -> Message:
        if isinstance(request, Load):
            if self._model is None:
                self._model = frameworks.create_model(request.key.eval_suite, self._say)
            handle = self._model.load(request.key, request.row, self._source(request))
            return Loaded(pickle.dumps(handle), handle.seconds, self._model.replaceable)
        answers = None
        if request.directory is not None:
            answers = Answers(request.directory, request.eval_id, self._model.origin, self._say)
        try:
            call = pickle.loads(request.call)  # noqa: S301
            reply = self._model.answer(call, answers, self._go_on)
        finally:
            if answers is not None:
                answers.flush()
        return Answered(pickle.dumps(reply))

    def _source(self, request: Load) -> Source:
        if not request.stage_dir:
            return Source(request.row.model.path)
        if self._stage is None:
            self._stage = Stage(request.stage_dir, self._say)
        return self._stage.copy_model(request.row)

    def _go_on(self, done: int, total: int, kept: int) -> bool:
        """Tell how far the model is, now and then; return whether it should go on."""
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY:
            self._told = now
            self._connection.send(Advanced(done, total, kept))
        return not self._is_stopping

    def _say(self, text: str) -> None:
        self._connection.send(Said(text))

    def _stop(self, *_: object) -> None:
        self._is_stopping = True
