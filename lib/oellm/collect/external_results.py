"""Scores that are in no run directory; they wait in a temporary file."""

from __future__ import annotations

import hashlib
import pickle
import tempfile
from collections.abc import Iterable
from typing import Any, NamedTuple

from oellm.manifest.rows import Row
from oellm.metrics.scored_rows import ScoredRow
from oellm.runs.run_directory import Run

# Bytes that wait in memory; more wait on the disk.
_IN_MEMORY = 2**26
# Cells that a manifest's row tells of itself, whatever its result tells.
_FROM_MANIFEST = ("language", "task_group", "primary_metric")


class Identity(NamedTuple):
    """Of which evaluation scores are, when they were made, and where they were found."""

    # An eval_id, or the key of what a result tells that has none.
    key: str
    finished: str
    found_in: str


class LooseScores:
    """A list of ScoredRow, of which only the identities are in memory."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        self._parts: list[tuple[int, int]] = []
        # Of scores without an eval_id: what their rows would be known by, and the model's commit.
        self._told: dict[int, tuple[str, str]] = {}
        self.identities: list[Identity] = []

    def add(self, scored: ScoredRow) -> int:
        """Keep scores; return their place in the list."""
        place = len(self.identities)
        key = scored.row["eval_id"]
        if not key:
            self._told[place] = of_row(scored.row), scored.row["model_revision"]
            key = "@".join(self._told[place])
        self.identities.append(Identity(key, scored.finished, scored.run_dir))
        self._parts.append(self._written(scored))
        return place

    def pickled(self, place: int) -> bytes:
        """Return scores as they are kept."""
        start, size = self._parts[place]
        self._file.seek(start)
        return self._file.read(size)

    def match(self, runs: Iterable[Run]) -> list[str]:
        """Give scores without an eval_id that of the row of a run with exactly what they tell.

        Returns what to know of scores that several rows would fit; they match none.
        """
        wanted = {key for key, _ in self._told.values()}
        rows: dict[str, dict[str, Row]] = {}
        for run in runs if wanted else ():
            for row in run.rows():
                if (key := of_row(row)) in wanted:
                    rows.setdefault(key, {})[row["eval_id"]] = row
        remarks = []
        for place, (key, commit) in list(self._told.items()):
            known = ("", commit) if commit else None
            fitting = [
                row
                for row in rows.get(key, {}).values()
                if known is None or row["model_revision"] in known
            ]
            if len(fitting) == 1:
                self._adopt(place, fitting[0])
            elif fitting:
                found_in = self.identities[place].found_in
                remarks.append(f"{found_in}: fits {len(fitting)} rows, so it counts for none")
        return remarks

    def _adopt(self, place: int, row: Row) -> None:
        scored: ScoredRow = pickle.loads(self.pickled(place))  # noqa: S301
        told = {name: row[name] for name in _FROM_MANIFEST if row[name]}
        scored = scored._replace(row=scored.row.with_cells(eval_id=row["eval_id"], **told))
        self._parts[place] = self._written(scored)
        self.identities[place] = self.identities[place]._replace(key=row["eval_id"])
        del self._told[place]

    def _written(self, scored: ScoredRow) -> tuple[int, int]:
        start = self._file.seek(0, 2)
        return start, self._file.write(pickle.dumps(scored))


# Values of model arguments that say no more than their absence.
_DEFAULTS = {"dtype": "auto", "revision": "main"}


# Arguments that change no score.
_HARMLESS = ("trust_remote_code",)


# What results of other tools tell besides the model; what they leave out has its default.
_COLUMNS = (
    *("task_path", "n_shot", "limit", "eval_suite", "backend", "seed", "gen_kwargs"),
    *("apply_chat_template", "fewshot_as_multiturn", "system_instruction"),
)


def of_row(row: Row) -> str:
    """Return a key that two rows share if what a result of another tool tells is exactly equal.

    That is the model with its arguments, and the cells of _COLUMNS:
    `iter_1000` is not `iter_10000`, and shots that a row leaves to the task are no number of shots.
    """
    arguments = {"dtype": row["dtype"], **row.model_arguments}
    told = sorted(
        (name, str(value))
        for name, value in arguments.items()
        if name not in _HARMLESS and value not in ("", _DEFAULTS.get(name))
    )
    settings = [_plain(row.value(name)) for name in _COLUMNS]
    return hashlib.sha256(repr((row.model.path, told, settings)).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return a value as it is compared: what is switched off is not there."""
    if isinstance(value, dict):
        return sorted((name, str(item)) for name, item in value.items()) or None
    return None if value is False else value
