"""What is submitted after what, whatever has failed, waits or is there already."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.runs.run_directory import Run
from oellm.slurm.commands import JobNumber
from oellm.submit import array_elements
from oellm.submit.array_elements import Element, Placement, UnfinishedRows
from oellm.submit.queue_limits import Limit


class ReadyRows:
    """Stands in for the rows of a run: the shards that have something to compute now."""

    def __init__(self, ready: set[int]) -> None:
        self._ready = ready

    def count_ready(self, shard: int) -> int:
        return shard in self._ready


ELEMENTS = 5
NUMBERS = st.sets(st.integers(0, ELEMENTS - 1))


@settings(deadline=None)
@given(
    unfinished=st.tuples(NUMBERS, NUMBERS),
    queued=NUMBERS,
    tried=st.tuples(NUMBERS, NUMBERS),
    ready=NUMBERS,
    room=st.none() | st.integers(0, 12),
)
def test_every_element_waits_for_what_it_needs_and_for_nothing_else(
    unfinished: tuple[set[int], set[int]],
    queued: set[int],
    tried: tuple[set[int], set[int]],
    ready: set[int],
    room: int | None,
) -> None:
    first = {"script": "s", "eval_suite": "toy", "workers": 1, "elements": ELEMENTS}
    arrays = [first | {"gpus": 1, "first_shard": 0}]
    arrays.append(first | {"gpus": 0, "first_shard": ELEMENTS, "follows": 0, "cpus": 1})
    shards = [
        {"index": n, "array": n // ELEMENTS, "element": n % ELEMENTS}
        | {"models": 1, "rows": 1, "estimate_s": 1.0}
        for n in range(2 * ELEMENTS)
    ]
    made = Run(Path("/run"), {"arrays": arrays, "shards": shards})
    left = (unfinished[0] - queued, unfinished[1])
    open_elements = [Element(a, n) for a in (0, 1) for n in sorted(left[a])]
    done = {Element(a, n) for a in (0, 1) for n in tried[a]}
    in_queue = {Element(0, n): Placement(JobNumber(7, ""), 0) for n in queued}
    rows = cast("UnfinishedRows", ReadyRows({ELEMENTS + n for n in ready}))
    found = array_elements.find_candidates(made, rows, open_elements, queued=in_queue, tried=done)
    # Each of them once, but for what is not tried again.
    everything = [*found.ready, *found.following, *found.barren]
    assert sorted(everything) == [element for element in open_elements if element not in done]
    limits = [] if room is None else [Limit("limit", room)]
    fit = array_elements.fit_into_queue(made, found, limits=limits, queue=[], queued=in_queue)
    assert room is None or len(fit.admitted) <= room
    assert sorted([*fit.admitted, *fit.postponed]) == sorted([*found.ready, *found.following])
    placements = dict(in_queue)
    for batch in array_elements.make_batches(fit.ready, 2):
        placements |= batch.placements(JobNumber(8 + batch.offset, ""))
    for batch in array_elements.make_following_batches(made, fit.following, placements):
        for number in batch.elements:
            # It follows the element with its number, by the same array index.
            assert placements[Element(0, number)] == Placement(batch.after, batch.offset)
    for element in fit.ready:
        leader = Element(0, element.number)
        is_expected = leader in in_queue or (leader in open_elements and leader not in done)
        assert element.array == 0 or (element.number in ready and not is_expected)
    for element in found.barren:
        assert element.number not in ready
