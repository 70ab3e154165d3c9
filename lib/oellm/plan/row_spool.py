"""The rows of a run on disk, between reading and writing them, so that they take no memory."""

from __future__ import annotations

import contextlib
import csv
import itertools
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, TextIO

from oellm.core import schema
from oellm.errors import MachineError
from oellm.frameworks.stages import EVALUATE, GENERATE
from oellm.manifest.csv_file import ManifestWriter
from oellm.manifest.model_key import ModelKey
from oellm.manifest.rows import Row
from oellm.models.model_digests import KnownDirectory
from oellm.plan.costs import Estimate
from oellm.plan.row_stages import StagedRow, WorkKey
from oellm.runs.run_record import SHARD_COLUMNS

MODEL_DIGEST, TASK_DIGEST = "model_digest", "task_digest"

# The shard of a second stage that a row does not have.
NO_SHARD = -1


class Places(NamedTuple):
    """Where rows are evaluated.

    Attributes:
        shards: The shards of the rows of each load, in the order of the manifest.
        second_shards: The same for their second stages, if any of the rows has one; NO_SHARD for
            a row that has none.
    """

    shards: Mapping[WorkKey, array[int]]
    second_shards: Mapping[WorkKey, array[int]]


class RowDigests(NamedTuple):
    """The digests of what rows are evaluated from, as far as they are known.

    Attributes:
        models: Those of local models.
        tasks: Those of tasks, by task_path and include_path.
        directories: What was read of the directories of models, by path.
    """

    models: Mapping[ModelKey, str]
    tasks: Mapping[tuple[str, str], str]
    directories: Mapping[str, KnownDirectory]


class _Job(NamedTuple):
    """A row with its cells, and what the plan says of both stages; `model` numbers its load."""

    texts: list[str]
    shards: tuple[str, str]
    seconds: tuple[float, float]
    bases: tuple[str, str]
    model: int


class RowSpool:
    """Rows in a temporary file, which ends with the process.

    The file is in TMPDIR: the run directory is created only after the whole manifest is valid.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8", newline="")  # noqa: SIM115
        self._writer = csv.writer(self._file)
        self._columns: list[str] = []
        self._numbers: dict[WorkKey, int] = {}

    def __enter__(self) -> RowSpool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closing may fail to write what is buffered; `add` or `write` has reported that.
        with contextlib.suppress(OSError):
            self._file.close()

    def add(self, row: Row, staged: StagedRow, estimate: Estimate) -> None:
        """Add a row with the estimate of its first stage; all have the columns of the first row.

        Raises MachineError if the disk has no room for it.
        """
        if not self._columns:
            # A row that comes from another run has the shard and the digest of that run.
            self._columns = [
                name for name in row.cells if name not in (*SHARD_COLUMNS, MODEL_DIGEST)
            ]
        number = self._numbers.setdefault(staged.key, len(self._numbers))
        texts = [row.cells[name] for name in self._columns]
        texts += (str(number), f"{estimate.seconds:.3f}", estimate.basis)
        second = staged.second
        texts += ("", "") if second is None else (f"{second.seconds:.3f}", second.basis)
        try:
            self._writer.writerow(texts)
        except OSError as error:
            _refuse(error)

    def write_jobs(self, stream: TextIO, places: Places, digests: RowDigests) -> None:
        """Write the rows as jobs.csv, each with its digests, if there are any, and its shards."""
        writer = ManifestWriter(stream)
        shards = SHARD_COLUMNS if places.second_shards else SHARD_COLUMNS[:1]
        if not digests.models and not digests.tasks:
            writer.header([*self._columns, *shards])
            writer.write_texts(
                [*job.texts, *job.shards[: len(shards)]] for job in self._jobs(places)
            )
            return
        models = [digests.models.get(key.model, "") for key in self._numbers]
        columns = list(dict.fromkeys([*self._columns, TASK_DIGEST]))
        task, include, own = (
            columns.index(name) if name in columns else -1
            for name in ("task_path", "include_path", TASK_DIGEST)
        )
        is_new = own >= len(self._columns)
        writer.header([*columns, MODEL_DIGEST, *shards])

        def complete() -> Iterator[list[str]]:
            for job in self._jobs(places):
                texts = job.texts
                if is_new:
                    texts.append("")
                name = texts[task], texts[include] if include >= 0 else ""
                texts[own] = digests.tasks.get(name, texts[own])
                yield [*texts, models[job.model], *job.shards[: len(shards)]]

        writer.write_texts(complete())

    def estimates(self, places: Places) -> Iterator[dict[str, Any]]:
        """Yield the estimate of each stage of each row (schema.json, table `estimate`)."""
        for job in self._jobs(places):
            cells = dict(zip(self._columns, job.texts, strict=True))
            stages = (GENERATE, EVALUATE) if job.shards[1] else ("",)
            for number, stage in enumerate(stages):
                ours = {
                    "shard": int(job.shards[number]),
                    "stage": stage,
                    "seconds": job.seconds[number],
                    "basis": job.bases[number],
                }
                yield {
                    column: ours.get(column, cells.get(column))
                    for column in schema.table("estimate")
                }

    def _jobs(self, places: Places) -> Iterator[_Job]:
        """Yield the rows with what the plan says of them."""
        try:
            self._file.seek(0)
        except OSError as error:
            _refuse(error)
        shards = [iter(places.shards[key]) for key in self._numbers]
        none = itertools.repeat(NO_SHARD)
        second_shards = [iter(places.second_shards.get(key, none)) for key in self._numbers]
        for texts in csv.reader(self._file, strict=True):
            number, seconds, basis, second_s, second_basis = texts[-5:]
            model = int(number)
            second = next(second_shards[model])
            yield _Job(
                texts=texts[:-5],
                shards=(str(next(shards[model])), "" if second == NO_SHARD else str(second)),
                seconds=(float(seconds), float(second_s or 0)),
                bases=(basis, second_basis),
                model=model,
            )


def _refuse(error: OSError) -> NoReturn:
    raise MachineError(
        f"{tempfile.gettempdir()}: {error.strerror}; set TMPDIR to a directory with more room"
    ) from None
