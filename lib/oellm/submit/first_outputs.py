"""The outputs of the first stages of a run's rows, as far as oe-submit needs to know them."""

from __future__ import annotations

from oellm import frameworks
from oellm.frameworks.stages import GENERATE
from oellm.manifest.rows import Row
from oellm.runs.run_directory import Run
from oellm.runs.stages.stage_store import StageStore
from oellm.submit.stale_rows import StaleRows


class FirstOutputs:
    """Tells which rows have the output of their first stage.

    An output that was there is not read again. `stale` is told of those that are there when their
    rows are added.
    """

    def __init__(self, run: Run, stale: StaleRows) -> None:
        self._store = StageStore(run.path)
        self._stale = stale
        self._key_of: dict[str, str] = {}
        self._known: set[str] = set()
        # When outputs that are out of date were finished: another one may take their place.
        self._finished_stale: dict[str, str] = {}
        self.refresh()

    def refresh(self) -> None:
        """List the outputs that exist now: one call, while opening each would be one per row."""
        self._keys = self._store.keys()

    def add(self, row: Row) -> None:
        """Add a row with two stages."""
        key = self._key_of[row["eval_id"]] = frameworks.generation_key(row)
        output = self._store.valid(key, GENERATE) if key in self._keys else None
        if output is not None and not self._stale.output_fits(row, output):
            self._finished_stale[key] = output.record.timing.finished

    def has(self, eval_id: str) -> bool:
        """Return whether a row has two stages, and had the first one's output when last listed."""
        key = self._key_of.get(eval_id)
        if key is None or key in self._known or key not in self._keys:
            return key in self._known
        output = self._store.valid(key, GENERATE)
        if output is None or output.record.timing.finished == self._finished_stale.get(key):
            return False
        self._known.add(key)
        return True
