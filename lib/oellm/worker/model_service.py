"""One model at a time for the rows that ask: which is loaded, and whom it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from oellm.manifest.model_key import ModelKey
from oellm.manifest.rows import Row
from oellm.models.staging import Stage
from oellm.worker.model_process import (
    Advanced,
    Answered,
    Ask,
    Failed,
    Load,
    Loaded,
    ModelProcess,
    Said,
)
from oellm.worker.row_process import AskHandle, AskModel, Given, RowProcess
from oellm.worker.row_record import Failure
from oellm.worker.scoring_progress import ScoringProgress


class ModelService:
    """Loads models as rows need them, answers rows in turn, and survives the model's crash.

    `answers` is where answers to the requests of unfinished rows are kept, if anywhere; `report`
    gets messages for the user, `status` shows a line on the terminal, where there is one.
    `stage_dir` is where models are copied to before they are loaded, empty for nowhere.
    """

    def __init__(
        self,
        answers: Path | None,
        report: Callable[[str], None],
        status: Callable[[str], None] | None,
        stage_dir: str = "",
    ) -> None:
        self._answers = answers
        self._report = report
        self._stage_dir = stage_dir
        self.progress = ScoringProgress(report, status)
        self._process: ModelProcess | None = None
        # What rows get that ask for the loaded model, once it is there.
        self._handle: Given | None = None
        # The row that the model answers.
        self._served: RowProcess | None = None
        # Models that did not load, and what their rows get.
        self.unloadable: dict[ModelKey, Failure] = {}

    @property
    def connections(self) -> list[Connection]:
        """What to wait for before `hear` is called: one connection, or none."""
        return [self._process.child.connection] if self._process is not None else []

    @property
    def is_there(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def loading(self) -> str:
        """The path of the model that is being loaded, empty where none is."""
        process = self._process
        is_loading = process is not None and process.is_busy and self._handle is None
        return process.key.model_path if is_loading and process and process.key else ""

    def load(self, key: ModelKey, row: Row) -> None:
        """Begin to load the model of a row, in the place of the one that is loaded."""
        self._handle = None
        if self._process is not None and not self._process.can_load(key):
            self.end()
        if self._process is None:
            self._process = ModelProcess()
        self._process.load(Load(key, row, self._stage_dir))

    def direct(self, rows: Sequence[RowProcess], next_key: ModelKey | None) -> None:
        """Give rows what they ask for, as far as it is there, and have the model do the next thing.

        `rows` are in the order in which they began; `next_key` is the model of the next to begin.
        """
        loaded = self._loaded_key()
        for process in rows:
            assert process.key is not None
            if process.asks is not None and process.key in self.unloadable:
                process.give(self.unloadable[process.key])
            elif isinstance(process.asks, AskHandle) and process.key == loaded:
                assert self._handle is not None
                process.give(self._handle)
                # The first row that uses a model pays for its loading.
                self._handle = self._handle._replace(seconds=0.0)
        if self._process is not None and self._process.is_busy:
            return
        for process in rows:
            if isinstance(process.asks, AskModel) and process.key == loaded:
                self._serve(process, process.asks)
                return
        unscored = [process for process in rows if not process.is_scored]
        if loaded is not None and loaded in (next_key, *(process.key for process in unscored)):
            return
        for process in unscored:
            assert process.key is not None and process.row is not None
            if process.key not in self.unloadable:
                self.load(process.key, process.row)
                return

    def hear(self) -> None:
        """Receive the model's next message, and see to it."""
        process = self._process
        assert process is not None
        try:
            message = process.receive()
        except (EOFError, ConnectionError):
            self._hear_crash(process)
            return
        if isinstance(message, Said):
            self._report(message.text)
        elif isinstance(message, Advanced):
            self.progress.note(*message)
        elif isinstance(message, Loaded):
            process.is_replaceable = message.is_replaceable
            self._handle = Given(message.handle, message.seconds)
        elif isinstance(message, Answered):
            self._give(Given(message.reply))
        elif isinstance(message, Failed):
            if self._handle is None:
                process.is_replaceable = not message.is_broken
                self._cannot_load(message.failure, process)
            else:
                self._give(message.failure)
            if message.is_broken:
                self.end()

    def serves(self, process: RowProcess) -> bool:
        """Return whether the model answers this row now."""
        return self._served is process

    def forget(self, process: RowProcess) -> None:
        """Answer a row no more: it has ended."""
        if self._served is process:
            self._served = None

    def stop(self) -> None:
        """Let the model end the batch that it is at."""
        if self._process is not None and self._process.is_busy and self._handle is not None:
            self._process.child.terminate()
        else:
            self.end()

    def end_if_idle(self) -> None:
        """End the model's process where it has nothing to do."""
        if self._process is not None and not self._process.is_busy:
            self.end()

    def end(self) -> None:
        """End the model's process at once."""
        if self._process is not None:
            self._process.child.kill()
        self._process = self._handle = None
        if self._stage_dir:
            # That process could not do it.
            Stage(self._stage_dir, self._report).release()

    def _loaded_key(self) -> ModelKey | None:
        return self._process.key if self._process is not None and self._handle is not None else None

    def _serve(self, process: RowProcess, request: AskModel) -> None:
        assert self._process is not None and process.row is not None
        self._process.ask(Ask(process.row["eval_id"], self._answers, request.call))
        self._served = process
        self.progress.begin(process.label)
        process.asks = None
        process.is_scored = request.is_last

    def _hear_crash(self, process: ModelProcess) -> None:
        failure = Failure("ProcessEnded", f"the model's process {process.child.wait()}")
        is_loaded = self._handle is not None
        self._process = self._handle = None
        if process.is_busy and is_loaded:
            self._give(failure)
        elif process.is_busy:
            self._cannot_load(failure, process)

    def _cannot_load(self, failure: Failure, process: ModelProcess) -> None:
        """Note that no row of a model can be evaluated; the next one does not try again."""
        assert process.key is not None
        message = f"the model did not load: {failure.message}"
        self.unloadable[process.key] = failure._replace(message=message)

    def _give(self, answer: Given | Failure) -> None:
        """Give the row that was served what came; it may have ended meanwhile."""
        process, self._served = self._served, None
        self.progress.end()
        if process is not None:
            # One that failed asks no more.
            process.is_scored = process.is_scored or isinstance(answer, Failure)
            process.give(answer)
