"""Decides which of several results of one evaluation count.

Results that were computed from the same contents are the same evaluation, and the newest counts.
Those that were not, because the weights, the task or its data changed in between, all count: they
are scores of different things under one name.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from oellm.collect import result_files, result_states
from oellm.collect.external_results import Identity
from oellm.collect.result_states import ResultState
from oellm.core.display import format_count, parse_time

# The number of older results that messages name one by one, each with two long paths.
_NAMED = 3
# Clocks of machines differ by less than this.
_SKEW = datetime.timedelta(hours=1)


class _Copy(NamedTuple):
    """One of several results of an evaluation.

    Attributes:
        is_dated: whether its time is known, and not in the future.
        seconds: its time since the epoch.
        owner: its run directory, or its place among the results outside of runs.
    """

    is_dated: bool
    seconds: float
    identity: Identity
    owner: str | int
    state: ResultState


class Duplicates:
    """Finds the results that do not count, because a newer one is of the same evaluation.

    `runs` has the eval_ids of the results of each run directory, `loose` the identities of results
    outside of runs, and `read_loose` reads the state of one of these by its place.

    Attributes:
        of_run: The eval_ids of older results, by run directory.
        of_loose: The places of older results in `loose`.
        mixtures: A message for each result that stays beside a newer one, because it was computed
            from other contents.
    """

    def __init__(
        self,
        runs: Mapping[str, Sequence[str]],
        loose: Sequence[Identity],
        read_loose: Callable[[int], ResultState],
    ) -> None:
        self._loose = loose
        self._read_loose = read_loose
        self.of_run: dict[str, set[str]] = {run_dir: set() for run_dir in runs}
        self.of_loose: set[int] = set()
        self.mixtures: list[str] = []
        self._older: list[tuple[Identity, Identity]] = []
        self._undated: list[Identity] = []
        for key, owners in self._find_owners(runs).items():
            self._keep_newest(key, owners)

    def messages(self) -> Iterator[str]:
        """Yield a line for each result that does not count; after ten, their number."""
        for identity in self._undated[:_NAMED]:
            time = identity.finished
            yield f"{identity.found_in}: finished in the future ({time}), so it is no newer result"
        for older, newest in self._older[:_NAMED]:
            yield f"{older.found_in}: left out, {newest.found_in} is a newer result of the same row"
        if (more := len(self._older) - _NAMED) > 0:
            what = format_count(more, "more result")
            yield f"and {what} with a newer one (oe-collect --all prints them)"

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
        # An invalid result does not count; a message names it when it is read.
        copies = [copy for owner in owners if (copy := self._copy(key, owner)) is not None]
        if len(copies) < 2:
            return
        # Sorting is stable: of several at the same time, the last one that was named is the newest.
        newest, *others = sorted(copies, key=lambda copy: copy[:2])[::-1]
        kept = [newest]
        for copy in others:
            changes = [copy.state.find_changes(other.state) for other in kept]
            same = next((k for k, found in zip(kept, changes, strict=True) if not found), None)
            if same is None:
                kept.append(copy)
                self.mixtures.append(
                    f"{copy.identity.found_in}: printed beside {newest.identity.found_in}: two "
                    f"results of one row that are not of the same: {', '.join(changes[0])}"
                )
                continue
            self._older.append((copy.identity, same.identity))
            if isinstance(copy.owner, int):
                self.of_loose.add(copy.owner)
            else:
                self.of_run[copy.owner].add(key)
        for copy in copies:
            if copy.identity.finished and not copy.is_dated:
                self._undated.append(copy.identity)

    def _copy(self, key: str, owner: str | int) -> _Copy | None:
        if isinstance(owner, int):
            identity, state = self._loose[owner], self._read_loose(owner)
        else:
            path = result_files.result_path(owner, key)
            try:
                scored = result_files.read_row(owner, key)
                state = result_states.read_state(path)
            except (OSError, ValueError):
                return None
            identity = Identity(key, scored.finished, path)
        seconds = _seconds(identity.finished)
        return _Copy(
            is_dated=seconds is not None,
            seconds=seconds or 0.0,
            identity=identity,
            owner=owner,
            state=state,
        )


def _seconds(text: str) -> float | None:
    """Return seconds since the epoch; None for no time, and for one that is still to come."""
    try:
        moment = parse_time(text)
    except ValueError:
        return None
    if moment > datetime.datetime.now(datetime.timezone.utc) + _SKEW:
        return None
    return moment.timestamp()
