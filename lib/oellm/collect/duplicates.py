"""Decides which of several results of one evaluation counts: the newest."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence

from oellm.collect import result_files
from oellm.collect.external_results import Identity

# The number of older results that messages name one by one.
_NAMED = 20


class Duplicates:
    """Finds the results that do not count, because a newer one is of the same evaluation.

    `runs` has the eval_ids of the results of each run directory, `loose` the identities of results
    outside of runs.

    Attributes:
        of_run: The eval_ids of older results, by run directory.
        of_loose: The places of older results in `loose`.
    """

    def __init__(self, runs: Mapping[str, Sequence[str]], loose: Sequence[Identity]) -> None:
        self._loose = loose
        self.of_run: dict[str, set[str]] = {run_dir: set() for run_dir in runs}
        self.of_loose: set[int] = set()
        self._older: list[tuple[Identity, Identity]] = []
        for key, owners in self._find_owners(runs).items():
            self._keep_newest(key, owners)

    def messages(self) -> Iterator[str]:
        """Yield a line for each result that does not count; after twenty, their number."""
        for older, newest in self._older[:_NAMED]:
            yield f"{older.found_in}: left out, {newest.found_in} is a newer result of the same row"
        if len(self._older) > _NAMED:
            more = len(self._older) - _NAMED
            yield f"and {more} more results with a newer one (oe-collect --all prints them)"

    def _find_owners(self, runs: Mapping[str, Sequence[str]]) -> dict[str, list[str | int]]:
        """Return the evaluations that have several results, with the runs or places of these."""
        if len(runs) < 2 and not self._loose:
            return {}
        first: dict[str, str | int] = {}
        owners: dict[str, list[str | int]] = {}
        of_runs = ((eval_id, run_dir) for run_dir, ids in runs.items() for eval_id in ids)
        of_loose = ((identity.key, place) for place, identity in enumerate(self._loose))
        for keys in (of_runs, of_loose):
            for key, owner in keys:
                if first.setdefault(key, owner) != owner:
                    owners.setdefault(key, [first[key]]).append(owner)
        return owners

    def _keep_newest(self, key: str, owners: Sequence[str | int]) -> None:
        copies: list[tuple[float, int, Identity, str | int]] = []
        for owner in owners:
            copy = self._loose[owner] if isinstance(owner, int) else _run_identity(owner, key)
            # An invalid result does not count; a message names it when it is read.
            if copy is not None:
                copies.append((_seconds(copy.finished), len(copies), copy, owner))
        if len(copies) < 2:
            return
        *older, newest = sorted(copies, key=lambda copy: copy[:2])
        for _, _, copy, owner in older:
            self._older.append((copy, newest[2]))
            if isinstance(owner, int):
                self.of_loose.add(owner)
            else:
                self.of_run[owner].add(key)


def _run_identity(run_dir: str, eval_id: str) -> Identity | None:
    try:
        scored = result_files.read_row(run_dir, eval_id)
    except (OSError, ValueError):
        return None
    return Identity(eval_id, scored.finished, result_files.result_path(run_dir, eval_id))


def _seconds(text: str) -> float:
    """Return seconds since the epoch; a result without a time counts as the oldest."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return moment.replace(tzinfo=moment.tzinfo or datetime.timezone.utc).timestamp()
