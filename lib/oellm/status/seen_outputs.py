"""The outputs of the first stages of a run's rows, looked at again and again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from oellm import frameworks
from oellm.core.log import Log
from oellm.errors import OellmError
from oellm.frameworks.stages import GENERATE
from oellm.manifest.rows import Row
from oellm.runs.run_directory import Run
from oellm.runs.stages.stage_record import StageRecord
from oellm.runs.stages.stage_store import StageStore


class _Seen(NamedTuple):
    """An output as it was seen: which directory it was, and its record."""

    inode: int
    record: StageRecord


class SeenOutputs:
    """Tells which rows with two stages have the output of their first one.

    An output is read when it is first seen. Later looks only see whether that directory is still
    there. `log` gets the rows of which nothing is known.
    """

    def __init__(self, run: Run, rows: Iterable[Row], log: Log) -> None:
        self._store = StageStore(run.path)
        self._seen: dict[str, _Seen] = {}
        self._key_of: dict[str, str] = {}
        for row in rows:
            run.shard_of(row)
            if run.evaluate_shard_of(row) is None:
                continue
            try:
                self._key_of[row["eval_id"]] = frameworks.generation_key(row)
            except OellmError as error:
                log(f"{error}: whether rows have the output of their first stage is not known")

    def look(self, eval_ids: Iterable[str]) -> dict[str, StageRecord]:
        """Return the records of the outputs that are there now, by eval_id of the row."""
        wanted = {e: self._key_of[e] for e in eval_ids if e in self._key_of}
        there = self._store.keys() & set(wanted.values()) if wanted else set()
        before, self._seen = self._seen, {}
        for key in there:
            if (seen := self._find(key, before.get(key))) is not None:
                self._seen[key] = seen
        return {e: self._seen[key].record for e, key in wanted.items() if key in self._seen}

    def _find(self, key: str, before: _Seen | None) -> _Seen | None:
        try:
            inode = self._store.path(key, GENERATE).lstat().st_ino
        except OSError:
            return None
        if before is not None and before.inode == inode:
            return before
        output = self._store.valid(key, GENERATE)
        return None if output is None else _Seen(inode, output.record)
