"""The array elements of a run, and which of them lack results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from oellm.runs.run_directory import Run
from oellm.slurm.commands import QueuedElement
from oellm.submit.queue_limits import Limit


class Element(NamedTuple):
    """An array element: position of its array in the run, and its number in that."""

    array: int
    number: int


class Batch(NamedTuple):
    """Elements for one call of sbatch; `offset` is the element of array index 0."""

    array: int
    offset: int
    elements: list[int]


class Pending(NamedTuple):
    """The unfinished elements of a run that are not in the queue."""

    # Elements to submit now.
    ready: list[Element]
    # Elements for which the queue has no room, and the limit that says so.
    postponed: list[Element]
    limit: Limit | None


def shards_of(run: Run) -> dict[Element, list[int]]:
    """Return the elements of a run, in order, with the shards of their workers."""
    shards: dict[Element, list[int]] = {}
    for shard in run.shards:
        shards.setdefault(Element(shard.array, shard.element), []).append(shard.index)
    return shards


def unfinished(run: Run, rows: UnfinishedRows, besides: Collection[Element] = ()) -> list[Element]:
    """Return the elements with rows that have no valid result now, but for some elements."""
    rows.look()
    return [
        element
        for element, shards in shards_of(run).items()
        if element not in besides and any(map(rows.in_shard, shards))
    ]


def queued(run: Run, queue: Iterable[QueuedElement]) -> set[Element]:
    """Return the elements of a run that are in the queue."""
    jobs = {job["job_id"]: job for job in run.record["jobs"] if job["executor"] == "slurm"}
    return {
        Element(jobs[found.job_id]["array"], found.index + jobs[found.job_id]["offset"])
        for found in queue
        if found.job_id in jobs and found.index is not None
    }


def pending(
    waiting: list[Element], queue: Sequence[QueuedElement], limits: Collection[Limit]
) -> Pending:
    """Divide elements by what the queue has room for."""
    limit = min(limits, key=lambda limit: limit.room(queue), default=None)
    room = len(waiting) if limit is None else limit.room(queue)
    return Pending(waiting[:room], waiting[room:], limit)


def batches(ready: Iterable[Element], array_size: int | None) -> list[Batch]:
    """Return the calls of sbatch that submit these elements, in order.

    Array indices stay below `array_size`, if that is known.
    """
    numbers: dict[tuple[int, int], list[int]] = {}
    for array, number in sorted(ready):
        offset = number - number % array_size if array_size else 0
        numbers.setdefault((array, offset), []).append(number)
    return [Batch(array, offset, found) for (array, offset), found in numbers.items()]


class UnfinishedRows:
    """The rows of each shard without a valid result; one that was valid is not read again."""

    def __init__(self, run: Run) -> None:
        self._store = run.store
        self._names: frozenset[str] = frozenset()
        self._of_shard: dict[int, list[str]] = {}
        for row in run.rows():
            self._of_shard.setdefault(int(row["shard"]), []).append(row["eval_id"])

    def look(self) -> None:
        """See which results are there now: one question, where opening each would be one a row."""
        self._names = self._store.result_names()

    def count(self) -> int:
        """Return how many there are now."""
        self.look()
        return sum(self.in_shard(shard) for shard in self._of_shard)

    def in_shard(self, shard: int) -> int:
        """Return how many there were in a shard at the last look."""
        rows = [
            eval_id
            for eval_id in self._of_shard.get(shard, ())
            if f"{eval_id}.json" not in self._names or self._store.valid_result(eval_id) is None
        ]
        self._of_shard[shard] = rows
        return len(rows)
