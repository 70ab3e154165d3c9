"""The rows of a run between reading and writing them, where they take no memory."""

from __future__ import annotations

import contextlib
import csv
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import NoReturn, TextIO

from oellm.errors import MachineError
from oellm.manifest import Row, Writer
from oellm.shards import ModelKey


class RowSpool:
    """Rows in a temporary file, each with the number of its model; it ends with the process.

    It is in TMPDIR, not where the run directory will be: nothing may be made there before the
    last row is read and found right.
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
        # It may have something left that it cannot write; `add` or `write` said so.
        with contextlib.suppress(OSError):
            self._file.close()

    def add(self, row: Row, key: ModelKey) -> None:
        """Add a row, whose model is loaded by `key`; all rows have the columns of the first.

        Raises MachineError where there is no room for it.
        """
        if not self._columns:
            self._columns = [name for name in row.cells if name != "shard"]
        number = self._numbers.setdefault(key, len(self._numbers))
        texts = [row.cells[name] for name in self._columns]
        texts.append(str(number))
        try:
            self._writer.writerow(texts)
        except OSError as error:
            _refuse(error)

    def write(self, stream: TextIO, shard_of: Mapping[ModelKey, int]) -> None:
        """Write the rows as jobs.csv, each with the shard of its model."""
        try:
            self._file.seek(0)
        except OSError as error:
            _refuse(error)
        writer = Writer(stream)
        writer.header([*self._columns, "shard"])
        writer.write_texts(self._jobs([str(shard_of[key]) for key in self._numbers]))

    def _jobs(self, shards: Sequence[str]) -> Iterator[list[str]]:
        """Yield the texts of the rows; `shards` are those of the models, by their numbers."""
        for texts in csv.reader(self._file, strict=True):
            texts[-1] = shards[int(texts[-1])]
            yield texts


def _refuse(error: OSError) -> NoReturn:
    raise MachineError(
        f"{tempfile.gettempdir()}: {error.strerror}; set TMPDIR to a directory with more room"
    ) from None
