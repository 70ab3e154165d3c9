"""One model at a time for all rows: decides which model to load and which row it answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from oellm.core.log import Log
from oellm.manifest.model_key import ModelKey
from oellm.manifest.rows import Row
from oellm.models.staging import Stage
from oellm.worker.gpu_check import NO_GPUS, GpuDemand
from oellm.worker.model_process import (
    GpusUnusable,
    Loaded,
    LoadRequest,
    LogLine,
    ModelProcess,
    RequestFailed,
    RequestProgress,
    ScoreRequest,
    Scores,
    Staging,
)
from oellm.worker.row_contents import RowContents
from oellm.worker.row_process import AskHandle, AskModel, Reply, RowProcess
from oellm.worker.row_record import RowFailure
from oellm.worker.scoring_progress import ScoringProgress
from oellm.worker.time_limit import LEAST_LOAD_S, RowLimit, Stopwatch, describe_excess


class ModelService:
    """Loads models as rows need them, answers rows in turn, and survives crashes of the model.

    `answers` is the directory that keeps answers to the requests of unfinished rows; None keeps
    none. `contents` says what rows must be evaluated from. `log` gets messages for the user.
    `status` shows a line on the terminal; None if there is no terminal. Models are copied to
    `stage_dir` before they are loaded unless it is empty.

    Attributes:
        gpus: What the worker was given; the model's process must be able to use them.
        longest_rows: By model, the limit of the row that may take longest, in seconds.
        progress: How far the model is with the row that it answers.
        unloadable: The models that cannot be loaded, with the failure of their rows.
        unusable: Why this node's GPUs cannot be used; empty if nothing is known against them.
    """

    def __init__(
        self,
        answers: Path | None,
        contents: RowContents,
        log: Log,
        *,
        status: Log | None,
        stage_dir: str = "",
        gpus: GpuDemand = NO_GPUS,
    ) -> None:
        self._answers = answers
        self._contents = contents
        self._log = log
        self._stage_dir = stage_dir
        self.gpus = gpus
        self.unusable = ""
        self.longest_rows: dict[ModelKey, float] = {}
        self._stopwatch = Stopwatch()
        self.progress = ScoringProgress(log, status)
        self._process: ModelProcess | None = None
        # The reply to rows that ask for the loaded model; None until it is loaded.
        self._handle: Reply | None = None
        # The row that the model is answering.
        self._served: RowProcess | None = None
        self.unloadable: dict[ModelKey, RowFailure] = {}

    @property
    def connections(self) -> list[Connection]:
        """The connections to wait for before calling `receive`: one or none."""
        return [self._process.child.connection] if self._process is not None else []

    @property
    def has_process(self) -> bool:
        """Whether the model's process exists."""
        return self._process is not None

    @property
    def loading(self) -> str:
        """The path of the model that is being loaded; empty if none is."""
        process = self._process
        is_loading = process is not None and process.is_busy and self._handle is None
        return process.key.model_path if is_loading and process and process.key else ""

    def load(self, key: ModelKey, row: Row) -> None:
        """Begin to load the model of a row, in place of the loaded one."""
        self._handle = None
        if self._process is not None and not self._process.can_load(key):
            self.kill()
        if self._process is None:
            self._process = ModelProcess()
        self._stopwatch.start(RowLimit(max(LEAST_LOAD_S, self.longest_rows.get(key, 0.0))))
        self._process.load(
            LoadRequest(
                key=key,
                row=row,
                stage_dir=self._stage_dir,
                gpus=self.gpus,
                expected=self._contents.expect(row),
            )
        )

    def dispatch(self, rows: Sequence[RowProcess], next_key: ModelKey | None) -> None:
        """Answer rows that need no work of the model, and give the model its next work.

        `rows` are in the order in which they began. `next_key` is the model of the next row to
        begin, None if there is no such row.
        """
        self._answer_without_model(rows)
        if self._process is not None and self._process.is_busy:
            return
        loaded = self._loaded_key()
        for process in rows:
            if isinstance(process.asks, AskModel) and process.key == loaded:
                self._score(process, process.asks)
                return
        unscored = [process for process in rows if not process.is_scored]
        if loaded is not None and loaded in (next_key, *(process.key for process in unscored)):
            return
        for process in unscored:
            assert process.key is not None and process.row is not None
            if process.key not in self.unloadable:
                self.load(process.key, process.row)
                return

    def receive(self) -> None:
        """Receive the model's next message and act on it."""
        process = self._process
        assert process is not None
        try:
            message = process.receive()
        except (EOFError, ConnectionError):
            self._note_crash(process)
            return
        if isinstance(message, LogLine):
            self._log(message.text)
        elif isinstance(message, RequestProgress):
            self._note_progress(message)
        elif isinstance(message, Staging):
            # Copying takes as long as the file system needs, or another worker that does it.
            if message.is_over:
                self._stopwatch.resume()
            else:
                self._stopwatch.pause()
        elif isinstance(message, GpusUnusable):
            self.unusable = message.reason
            self.kill()
        elif isinstance(message, Loaded):
            process.is_replaceable = message.is_replaceable
            self._handle = Reply(message.handle, message.seconds)
        elif isinstance(message, Scores):
            self._reply(Reply(message.reply))
        elif isinstance(message, RequestFailed):
            self._note_failure(message, process)

    def seconds_to_load(self) -> float:
        """Return the seconds that are left for loading; infinite if none loads, or no limit."""
        return self._stopwatch.seconds_left if self.loading else math.inf

    def end_overdue_loading(self) -> None:
        """End a process that does not come to the end of loading; the rows of the model fail."""
        if (process := self._process) is not None and self.seconds_to_load() <= 0:
            message = describe_excess(self._stopwatch.limit.seconds, "and its process hangs")
            self.kill()
            self._note_unloadable(RowFailure("LoadTimeout", message), process)

    def fail_served(self, failure: RowFailure) -> None:
        """End the model's process, and the row that it is answering with a failure."""
        self.kill()
        self._reply(failure)

    def is_serving(self, process: RowProcess) -> bool:
        """Return whether the model is answering this row."""
        return self._served is process

    def drop(self, process: RowProcess) -> None:
        """Forget a row that has ended; nothing is sent to it any more."""
        if self._served is process:
            self._served = None

    def stop(self) -> None:
        """Let the model finish its batch; end its process if it is not answering."""
        if self._process is not None and self._process.is_busy and self._handle is not None:
            self._process.child.terminate()
        else:
            self.kill()

    def kill_if_idle(self) -> None:
        """End the model's process if it has nothing to do."""
        if self._process is not None and not self._process.is_busy:
            self.kill()

    def kill(self) -> None:
        """End the model's process at once."""
        if self._process is not None:
            self._process.child.kill()
        self._process = self._handle = None
        if self._stage_dir:
            # The killed process could not do it.
            Stage(self._stage_dir, self._log).release()

    def _loaded_key(self) -> ModelKey | None:
        return self._process.key if self._process is not None and self._handle is not None else None

    def _answer_without_model(self, rows: Sequence[RowProcess]) -> None:
        loaded = self._loaded_key()
        for process in rows:
            assert process.key is not None
            if process.asks is not None and process.key in self.unloadable:
                process.reply(self.unloadable[process.key])
            elif isinstance(process.asks, AskHandle) and process.key == loaded:
                assert self._handle is not None
                process.reply(self._handle)
                # Only the first row of a model is charged for loading it.
                self._handle = self._handle._replace(load_s=0.0)

    def _score(self, process: RowProcess, request: AskModel) -> None:
        assert self._process is not None and process.row is not None
        self._process.score(
            ScoreRequest(eval_id=process.row["eval_id"], directory=self._answers, call=request.call)
        )
        self._served = process
        self.progress.begin(process.label)
        process.begin_scoring(request)

    def _note_progress(self, progress: RequestProgress) -> None:
        has_answers = progress.done > self.progress.done
        self.progress.note(*progress)
        if has_answers and self._served is not None:
            self._served.stopwatch.note_progress()

    def _note_failure(self, message: RequestFailed, process: ModelProcess) -> None:
        if self._handle is None:
            process.is_replaceable = not message.is_broken
            self._note_unloadable(message.failure, process)
        else:
            self._reply(message.failure)
        if message.is_broken:
            self.kill()

    def _note_crash(self, process: ModelProcess) -> None:
        failure = RowFailure("ProcessEnded", f"the model's process {process.child.wait()}")
        is_loaded = self._handle is not None
        self._process = self._handle = None
        if process.is_busy and is_loaded:
            self._reply(failure)
        elif process.is_busy:
            self._note_unloadable(failure, process)

    def _note_unloadable(self, failure: RowFailure, process: ModelProcess) -> None:
        """Remember that a model cannot be loaded, so that its next row does not try again."""
        assert process.key is not None
        message = f"the model did not load: {failure.message}"
        self.unloadable[process.key] = failure._replace(message=message)

    def _reply(self, reply: Reply | RowFailure) -> None:
        """Send a reply to the served row, unless that has ended."""
        process, self._served = self._served, None
        self.progress.end()
        if process is not None:
            # A failed row asks nothing more.
            process.is_scored = process.is_scored or isinstance(reply, RowFailure)
            process.reply(reply)
