"""The array elements of a run, and which of them lack results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from oellm.errors import UsageError
from oellm.manifest.rows import identify_row
from oellm.runs.result_record import ResultRecord
from oellm.runs.result_store import ResultStore
from oellm.runs.run_directory import RESULTS, RUN, Run
from oellm.slurm.queue import QueuedElement
from oellm.submit.queue_limits import Limit
from oellm.submit.stale_rows import StaleRows


class Element(NamedTuple):
    """An array element: the position of its array in the run, and its number in that array."""

    array: int
    number: int


class Batch(NamedTuple):
    """Elements of one array for one call of sbatch; `offset` is the element of array index 0."""

    array: int
    offset: int
    elements: list[int]


class QueueFit(NamedTuple):
    """Elements to submit, divided by the room that the queue has.

    Attributes:
        admitted: The elements that fit.
        postponed: The elements that do not.
        limit: The tightest limit, None if there is none.
    """

    admitted: list[Element]
    postponed: list[Element]
    limit: Limit | None


class UnfinishedRows:
    """The rows of each shard without a result that counts.

    A result that counted is not read again. `stale` is told of all rows, and of the results that
    there are already. Raises InputError for a row that carries another row's eval_id.
    """

    def __init__(self, run: Run, stale: StaleRows) -> None:
        _require_own_results(run)
        self._store = ResultStore(run.path)
        self._rows_of_shard: dict[int, list[str]] = {}
        # When results that are out of date were finished: another one may take their place.
        self._stale: dict[str, str] = {}
        self.refresh()
        for row in run.rows():
            # A row that was changed since would get the place, and the result, of another one.
            identify_row(row)
            stale.note(row)
            eval_id, shard = row["eval_id"], run.shard_of(row)
            record = self._valid_record(eval_id)
            if record is not None and not stale.fits(row, record):
                self._stale[eval_id], record = record.finished, None
            if record is None:
                self._rows_of_shard.setdefault(shard, []).append(eval_id)

    def refresh(self) -> None:
        """List the results that exist now: one call, while opening each would be one per row."""
        self._names = self._store.result_names()

    def count(self) -> int:
        """Return the number of unfinished rows now."""
        self.refresh()
        return sum(map(self.count_in_shard, self._rows_of_shard))

    def count_in_shard(self, shard: int) -> int:
        """Return the number of unfinished rows in a shard at the last refresh."""
        rows = [
            eval_id for eval_id in self._rows_of_shard.get(shard, ()) if not self._is_done(eval_id)
        ]
        self._rows_of_shard[shard] = rows
        return len(rows)

    def _is_done(self, eval_id: str) -> bool:
        record = self._valid_record(eval_id)
        return record is not None and record.finished != self._stale.get(eval_id)

    def _valid_record(self, eval_id: str) -> ResultRecord | None:
        return self._store.valid_record(eval_id) if f"{eval_id}.json" in self._names else None


def _require_own_results(run: Run) -> None:
    """Raise UsageError if the results of a copy are links into the run that it was copied from."""
    real = (run.path / RESULTS).resolve().parent
    if real != run.path.resolve() and (real / RUN).exists():
        raise UsageError(
            f"{run.path / RESULTS}: these are the results of another run, {real}, which would "
            "change; copy them instead of the link (cp -rL)"
        )


def shards_by_element(run: Run) -> dict[Element, list[int]]:
    """Return the elements of a run, in order, with the shards of their workers."""
    shards: dict[Element, list[int]] = {}
    for shard in run.shards:
        shards.setdefault(Element(shard.array, shard.element), []).append(shard.index)
    return shards


def find_unfinished(
    run: Run, rows: UnfinishedRows, besides: Collection[Element] = ()
) -> list[Element]:
    """Return the elements, other than `besides`, with rows that have no valid result now."""
    rows.refresh()
    return [
        element
        for element, shards in shards_by_element(run).items()
        if element not in besides and any(map(rows.count_in_shard, shards))
    ]


def fit_into_queue(
    elements: list[Element], queue: Sequence[QueuedElement], limits: Collection[Limit]
) -> QueueFit:
    """Divide elements by the room that the limits leave beside what is in the queue."""
    limit = min(limits, key=lambda limit: limit.room(queue), default=None)
    room = len(elements) if limit is None else limit.room(queue)
    return QueueFit(admitted=elements[:room], postponed=elements[room:], limit=limit)


def make_batches(elements: Iterable[Element], array_size: int | None) -> list[Batch]:
    """Return the batches that submit these elements, in order.

    Array indices stay below `array_size`, if that is known.
    """
    numbers: dict[tuple[int, int], list[int]] = {}
    for array, number in sorted(elements):
        offset = number - number % array_size if array_size else 0
        numbers.setdefault((array, offset), []).append(number)
    return [Batch(array, offset, members) for (array, offset), members in numbers.items()]
