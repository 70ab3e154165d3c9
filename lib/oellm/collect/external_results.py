"""Keeps the results outside of run directories, which may belong to the row of a run."""

from __future__ import annotations

import hashlib
import pickle
import tempfile
from collections.abc import Iterable
from typing import Any, NamedTuple

from oellm.manifest.argument_texts import json_text
from oellm.manifest.foreign_names import is_default
from oellm.manifest.rows import Row
from oellm.metrics.scored_rows import ScoredRow
from oellm.runs.run_directory import Run

# Bytes that are kept in memory; beyond that the file is on the disk.
_IN_MEMORY = 2**26
# Cells that a result takes over from the manifest row that it belongs to.
_FROM_MANIFEST = ("language", "task_group", "primary_metric")


class Identity(NamedTuple):
    """What tells whether two results are of one evaluation, and which is newer.

    Attributes:
        key: The eval_id, or for a result without one a key of all that it tells. A result whose
            model is guessed has a key of its own.
        finished: When the evaluation ended, in ISO 8601; empty if unknown.
        found_in: The run directory or file.
    """

    key: str
    finished: str
    found_in: str


class LooseScores:
    """A list of ScoredRow that keeps only the identities in memory.

    Attributes:
        identities: The identity of each.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        self._parts: list[tuple[int, int]] = []
        # For scores without an eval_id, by place: the key of a matching row, and the commit.
        self._keys: dict[int, tuple[str, str]] = {}
        self.identities: list[Identity] = []

    def add(self, scored: ScoredRow) -> int:
        """Add scores and return their place in the list."""
        place = len(self.identities)
        key = scored.row["eval_id"]
        if scored.has_guessed_model:
            # Nobody knows whether two of these are of one model: all of them count.
            key = f"{scored.run_dir}#{place}"
        elif not key:
            self._keys[place] = row_key(scored.row), scored.row["model_revision"]
            key = "@".join(self._keys[place])
        self.identities.append(Identity(key, scored.finished, scored.run_dir))
        self._parts.append(self._store(scored))
        return place

    def pickled(self, place: int) -> bytes:
        """Return the scores of a place, pickled."""
        start, size = self._parts[place]
        self._file.seek(start)
        return self._file.read(size)

    def match(self, runs: Iterable[Run]) -> list[str]:
        """Give scores without an eval_id the eval_id of the one row of the runs that they match.

        Return a message for each result that matches several rows; it belongs to none.
        """
        wanted = {key for key, _ in self._keys.values()}
        rows: dict[str, dict[str, Row]] = {}
        for run in runs if wanted else ():
            for row in run.rows():
                if (key := row_key(row)) in wanted:
                    rows.setdefault(key, {})[row["eval_id"]] = row
        messages = []
        for place, (key, commit) in list(self._keys.items()):
            commits = ("", commit) if commit else None
            matching = [
                row
                for row in rows.get(key, {}).values()
                if commits is None or row["model_revision"] in commits
            ]
            if len(matching) == 1:
                self._adopt(place, matching[0])
            elif matching:
                found_in = self.identities[place].found_in
                messages.append(f"{found_in}: fits {len(matching)} rows, so it counts for none")
        return messages

    def _adopt(self, place: int, row: Row) -> None:
        scored: ScoredRow = pickle.loads(self.pickled(place))  # noqa: S301
        cells = {name: row[name] for name in _FROM_MANIFEST if row[name]}
        scored = scored._replace(row=scored.row.with_cells(eval_id=row["eval_id"], **cells))
        self._parts[place] = self._store(scored)
        self.identities[place] = self.identities[place]._replace(key=row["eval_id"])
        del self._keys[place]

    def _store(self, scored: ScoredRow) -> tuple[int, int]:
        start = self._file.seek(0, 2)
        return start, self._file.write(pickle.dumps(scored))


# Arguments that change no score.
_HARMLESS = ("trust_remote_code",)
# What results of other tools tell besides the model; what they leave out has its default.
_COLUMNS = (
    *("task_path", "n_shot", "limit", "eval_suite", "backend", "seed", "gen_kwargs"),
    *("apply_chat_template", "fewshot_as_multiturn", "system_instruction"),
    # No manifest has it; readers say with it that only chosen documents were evaluated.
    "documents",
)


def row_key(row: Row) -> str:
    """Return a key that two rows share if all that a result of another tool tells is equal.

    That is the model with its arguments, and the cells of _COLUMNS. `iter_1000` does not match
    `iter_10000`, and a row that leaves the shots to its task matches no number of shots.
    """
    arguments = {"dtype": row["dtype"], **row.model_arguments}
    shown = sorted(
        (name, _argument_text(value))
        for name, value in arguments.items()
        if name not in _HARMLESS and value not in ("", None) and not is_default(name, value)
    )
    settings = [_comparable(row.value(name)) for name in _COLUMNS]
    return hashlib.sha256(repr((row.model.path, shown, settings)).encode()).hexdigest()


def _comparable(value: Any) -> Any:
    """Return a value in the form that is compared; a switch that is off equals an empty cell."""
    if isinstance(value, dict):
        return sorted((name, _argument_text(item)) for name, item in value.items()) or None
    return None if value is False else value


def _argument_text(value: Any) -> str:
    """Return the one text of an argument's value; the order of an object's keys does not count."""
    return json_text(value) if isinstance(value, (dict, list)) else str(value)
