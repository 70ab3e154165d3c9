"""The array elements of a run, and which of them lack results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from oellm.errors import UsageError
from oellm.manifest.rows import identify_row
from oellm.runs.result_record import ResultRecord
from oellm.runs.result_store import ResultStore
from oellm.runs.run_directory import RESULTS, RUN, Run
from oellm.slurm.commands import JobNumber
from oellm.slurm.queue import QueuedElement
from oellm.submit.first_outputs import FirstOutputs
from oellm.submit.queue_limits import Limit
from oellm.submit.stale_rows import StaleRows


class Element(NamedTuple):
    """An array element: the position of its array in the run, and its number in that array."""

    array: int
    number: int


class Placement(NamedTuple):
    """Where an element is in the queue: its job, and the element that has array index 0 there."""

    job: JobNumber
    offset: int


class Batch(NamedTuple):
    """Elements of one array for one call of sbatch.

    Attributes:
        array: The position of the array in the run.
        offset: The element of array index 0.
        elements: The numbers of the elements.
        after: The job whose elements with the same indices they follow; None if they follow none.
    """

    array: int
    offset: int
    elements: list[int]
    after: JobNumber | None = None

    def placements(self, job: JobNumber) -> dict[Element, Placement]:
        """Return its elements, and where they are if it was submitted as a job."""
        placement = Placement(job, self.offset)
        return {Element(self.array, number): placement for number in self.elements}


class Candidates(NamedTuple):
    """The unfinished elements that may be submitted, by what they have to wait for.

    Attributes:
        ready: They can be computed at once; those without a GPU come first.
        following: They follow elements that are in the queue, or among the ready ones.
        barren: Second stages that will get no output of a first stage.
    """

    ready: list[Element]
    following: list[Element]
    barren: list[Element]


class QueueFit(NamedTuple):
    """Elements to submit, divided by the room that the queue has.

    Attributes:
        ready: The elements that fit and can be computed at once.
        following: Those that fit and follow others.
        postponed: The elements that do not fit, or follow one that does not.
        limit: The tightest limit, None if there is none.
    """

    ready: list[Element]
    following: list[Element]
    postponed: list[Element]
    limit: Limit | None

    @property
    def admitted(self) -> list[Element]:
        """The elements that fit."""
        return [*self.ready, *self.following]


class UnfinishedRows:
    """The rows of each shard whose stage there is not finished.

    A first stage of two is finished if its output is there, any other if the row has a result that
    counts. A result that counted is not read again. `stale` is told of all rows, and of the results
    and outputs that there are already. Raises InputError for a row that carries another row's
    eval_id.
    """

    def __init__(self, run: Run, stale: StaleRows) -> None:
        _require_own_results(run)
        self._store = ResultStore(run.path)
        self._outputs = FirstOutputs(run, stale)
        self._rows_of_shard: dict[int, list[str]] = {}
        self._second_shards: set[int] = set()
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
            if record is not None:
                continue
            self._rows_of_shard.setdefault(shard, []).append(eval_id)
            if (second := run.evaluate_shard_of(row)) is not None:
                self._rows_of_shard.setdefault(second, []).append(eval_id)
                self._second_shards.add(second)
                self._outputs.add(row)

    def refresh(self) -> None:
        """List the results that exist now: one call, while opening each would be one per row."""
        self._names = self._store.result_names()
        self._outputs.refresh()

    def count(self) -> int:
        """Return the number of rows without a result now."""
        self.refresh()
        for shard in self._rows_of_shard:
            self.count_in_shard(shard)
        # A row with two stages is in two shards.
        return len(set().union(*self._rows_of_shard.values()))

    def count_in_shard(self, shard: int) -> int:
        """Return the number of rows whose stage in a shard was unfinished at the last refresh."""
        is_second = shard in self._second_shards
        rows = [
            eval_id
            for eval_id in self._rows_of_shard.get(shard, ())
            if not self._is_done(eval_id) and (is_second or not self._outputs.has(eval_id))
        ]
        self._rows_of_shard[shard] = rows
        return len(rows)

    def count_ready(self, shard: int) -> int:
        """Return the number of unfinished rows in a shard that can be computed there now.

        The second stage of a row needs the output of the first.
        """
        unfinished = self.count_in_shard(shard)
        if shard not in self._second_shards:
            return unfinished
        return sum(map(self._outputs.has, self._rows_of_shard[shard]))

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
    """Return the elements of a run that have rows, in order, with the shards of their workers."""
    shards: dict[Element, list[int]] = {}
    for shard in run.shards:
        if shard.rows:
            shards.setdefault(Element(shard.array, shard.element), []).append(shard.index)
    return shards


def followed_element(run: Run, element: Element) -> Element | None:
    """Return the element that has the first stages of an element's rows, None if it has them."""
    leader = run.arrays[element.array].follows
    return None if leader is None else Element(leader, element.number)


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
    run: Run,
    found: Candidates,
    *,
    limits: Collection[Limit],
    queue: Sequence[QueuedElement],
    queued: Collection[Element],
) -> QueueFit:
    """Divide elements by the room that the limits leave beside what is in the queue.

    `queued` are the run's own elements there.
    """
    limit = min(limits, key=lambda limit: limit.room(queue), default=None)
    waiting = [*found.ready, *found.following]
    room = len(waiting) if limit is None else limit.room(queue)
    ready = found.ready[:room]
    expected = {*ready, *queued}
    # Followers of elements that are postponed take no place of those that can be submitted.
    able = [each for each in found.following if followed_element(run, each) in expected]
    following = able[: max(0, room - len(ready))]
    taken = {*ready, *following}
    postponed = [element for element in waiting if element not in taken]
    return QueueFit(ready, following, postponed=postponed, limit=limit)


def make_batches(elements: Iterable[Element], array_size: int | None) -> list[Batch]:
    """Return the batches that submit these elements, in order.

    Array indices stay below `array_size`, if that is known.
    """
    numbers: dict[tuple[int, int], list[int]] = {}
    for array, number in sorted(elements):
        offset = number - number % array_size if array_size else 0
        numbers.setdefault((array, offset), []).append(number)
    return [Batch(array, offset, members) for (array, offset), members in numbers.items()]


def make_following_batches(
    run: Run, elements: Iterable[Element], placements: Mapping[Element, Placement]
) -> list[Batch]:
    """Return the batches that submit elements after those which they follow.

    `placements` has these; an element and the one that it follows have the same array index.
    """
    numbers: dict[tuple[int, Placement], list[int]] = {}
    for element in sorted(elements):
        leader = followed_element(run, element)
        assert leader is not None
        numbers.setdefault((element.array, placements[leader]), []).append(element.number)
    return [
        Batch(array, placement.offset, members, after=placement.job)
        for (array, placement), members in numbers.items()
    ]


def find_candidates(
    run: Run,
    rows: UnfinishedRows,
    unfinished: Iterable[Element],
    *,
    queued: Collection[Element],
    tried: Collection[Element],
) -> Candidates:
    """Return what to do with unfinished elements, which are not in the queue.

    `tried` are those that are not submitted again.
    """
    waiting = [element for element in unfinished if element not in tried]
    expected, shards = {*waiting, *queued}, shards_by_element(run)
    first: list[Element] = []
    found = Candidates([], [], [])
    for element in waiting:
        leader = followed_element(run, element)
        if leader is None:
            first.append(element)
        elif leader in expected:
            found.following.append(element)
        elif any(map(rows.count_ready, shards[element])):
            found.ready.append(element)
        else:
            found.barren.append(element)
    return found._replace(ready=[*found.ready, *first])
