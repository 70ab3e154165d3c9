"""The rows of a run on disk, between reading and writing them, so that they take no memory."""

from __future__ import annotations

import contextlib
import csv
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, TextIO

from oellm.core import schema
from oellm.errors import MachineError
from oellm.manifest.csv_file import ManifestWriter
from oellm.manifest.model_key import ModelKey
from oellm.manifest.rows import Row
from oellm.models.model_digests import KnownDirectory
from oellm.plan.costs import Estimate
from oellm.runs.run_record import SHARD_COLUMNS

MODEL_DIGEST, TASK_DIGEST = "model_digest", "task_digest"

# The shards of each model's rows, in the order of the manifest.
ShardOf = Mapping[ModelKey, "array[int]"]


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


class RowSpool:
    """Rows in a temporary file, which ends with the process.

    The file is in TMPDIR: the run directory is created only after the whole manifest is valid.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8", newline="")  # noqa: SIM115
        self._writer = csv.writer(self._file)
        self._columns: list[str] = []
        self._numbers: dict[ModelKey, int] = {}

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

    def add(self, row: Row, key: ModelKey, estimate: Estimate) -> None:
        """Add a row whose model is loaded by `key`; all rows have the columns of the first.

        Raises MachineError if the disk has no room for it.
        """
        if not self._columns:
            # A row that comes from another run has the shard and the digest of that run.
            self._columns = [
                name for name in row.cells if name not in (*SHARD_COLUMNS, MODEL_DIGEST)
            ]
        number = self._numbers.setdefault(key, len(self._numbers))
        texts = [row.cells[name] for name in self._columns]
        texts += (str(number), f"{estimate.seconds:.3f}", estimate.basis)
        try:
            self._writer.writerow(texts)
        except OSError as error:
            _refuse(error)

    def write_jobs(self, stream: TextIO, shard_of: ShardOf, digests: RowDigests) -> None:
        """Write the rows as jobs.csv, each with its digests, if there are any, and its shard."""
        writer = ManifestWriter(stream)
        if not digests.models and not digests.tasks:
            writer.header([*self._columns, "shard"])
            writer.write_texts([*texts, shard] for texts, shard, *_ in self._jobs(shard_of))
            return
        models = [digests.models.get(key, "") for key in self._numbers]
        columns = list(dict.fromkeys([*self._columns, TASK_DIGEST]))
        task, include, own = (
            columns.index(name) if name in columns else -1
            for name in ("task_path", "include_path", TASK_DIGEST)
        )
        is_new = own >= len(self._columns)
        writer.header([*columns, MODEL_DIGEST, "shard"])

        def complete() -> Iterator[list[str]]:
            for texts, shard, _, number in self._jobs(shard_of):
                if is_new:
                    texts.append("")
                name = texts[task], texts[include] if include >= 0 else ""
                texts[own] = digests.tasks.get(name, texts[own])
                yield [*texts, models[number], shard]

        writer.write_texts(complete())

    def estimates(self, shard_of: ShardOf) -> Iterator[dict[str, Any]]:
        """Yield the estimate of each row (schema.json, table `estimate`)."""
        for texts, shard, (seconds, basis), _ in self._jobs(shard_of):
            cells = dict(zip(self._columns, texts, strict=True))
            ours = {"shard": int(shard), "seconds": float(seconds), "basis": basis}
            yield {
                column: ours.get(column, cells.get(column)) for column in schema.table("estimate")
            }

    def _jobs(self, shard_of: ShardOf) -> Iterator[tuple[list[str], str, list[str], int]]:
        """Yield the texts of each row, its shard, its seconds with their basis, and its model."""
        try:
            self._file.seek(0)
        except OSError as error:
            _refuse(error)
        shards = [iter(shard_of[key]) for key in self._numbers]
        for texts in csv.reader(self._file, strict=True):
            number, *estimate = texts[-3:]
            model = int(number)
            yield texts[:-3], str(next(shards[model])), estimate, model


def _refuse(error: OSError) -> NoReturn:
    raise MachineError(
        f"{tempfile.gettempdir()}: {error.strerror}; set TMPDIR to a directory with more room"
    ) from None
