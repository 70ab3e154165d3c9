"""Several results of one evaluation: the newest counts."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence

from oellm.collect import result_files
from oellm.collect.external_results import Identity

# Those that are named one by one.
_NAMED = 20


class Duplicates:
    """Which results do not count, among those of runs (eval_ids by run) and loose ones."""

    def __init__(self, runs: Mapping[str, Sequence[str]], loose: Sequence[Identity]) -> None:
        self._loose = loose
        # What does not count: eval_ids by run, and places of loose results.
        self.of_run: dict[str, set[str]] = {run_dir: set() for run_dir in runs}
        self.of_loose: set[int] = set()
        self._older: list[tuple[Identity, Identity]] = []
        for key, owners in self._several(runs).items():
            self._decide(key, owners)

    def told(self) -> Iterator[str]:
        """Yield which results were left out for which others."""
        for older, newest in self._older[:_NAMED]:
            yield f"{older.found_in}: left out, {newest.found_in} is a newer result of the same row"
        if len(self._older) > _NAMED:
            yield f"and {len(self._older) - _NAMED} more results with a newer one (see --all)"

    def _several(self, runs: Mapping[str, Sequence[str]]) -> dict[str, list[str | int]]:
        """Return the evaluations with several results, and where these are."""
        if len(runs) < 2 and not self._loose:
            return {}
        first: dict[str, str | int] = {}
        several: dict[str, list[str | int]] = {}
        of_runs = ((eval_id, run_dir) for run_dir, ids in runs.items() for eval_id in ids)
        of_loose = ((each.key, place) for place, each in enumerate(self._loose))
        for owned in (of_runs, of_loose):
            for key, owner in owned:
                if first.setdefault(key, owner) != owner:
                    several.setdefault(key, [first[key]]).append(owner)
        return several

    def _decide(self, key: str, owners: Sequence[str | int]) -> None:
        copies: list[tuple[float, int, Identity, str | int]] = []
        for owner in owners:
            copy = self._loose[owner] if isinstance(owner, int) else _of_run(owner, key)
            # One that is not valid is no copy; it is named where it is read.
            if copy is not None:
                copies.append((_time(copy.finished), len(copies), copy, owner))
        if len(copies) < 2:
            return
        *older, newest = sorted(copies, key=lambda copy: copy[:2])
        for _, _, copy, owner in older:
            self._older.append((copy, newest[2]))
            if isinstance(owner, int):
                self.of_loose.add(owner)
            else:
                self.of_run[owner].add(key)


def _of_run(run_dir: str, eval_id: str) -> Identity | None:
    try:
        scored = result_files.of_row(run_dir, eval_id)
    except (OSError, ValueError):
        return None
    return Identity(eval_id, scored.finished, result_files.path_of(run_dir, eval_id))


def _time(text: str) -> float:
    """Return seconds since the epoch; what has no time is older than all that has one."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return moment.replace(tzinfo=moment.tzinfo or datetime.timezone.utc).timestamp()
