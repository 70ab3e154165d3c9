"""The answers of squeue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm.errors import OellmError
from oellm.slurm.job_states import JobState
from oellm.slurm.queue import QueuedElement, parse_queue

# From Slurm 22.05.
QUEUE = """\
1|0|FAILED|JobLaunchFailure|n1|9|0|2026-11-22T15:04:56|2026-11-22T15:04:58|(null)|(null)|oellm:x:1-ab|
1|2|FAILED|NonZeroExitCode|n1|768|0|2026-11-22T15:04:56|2026-11-22T15:05:56|acme|normal|(null)|
3|4|PENDING|BeginTime||0|1|2026-11-22T15:05:30|N/A|acme|normal|a | b c|
7|N/A|RUNNING|None|n2|0|0|N/A|N/A|acme|long|(null)|
"""


def test_squeue_is_read() -> None:
    launch, failed, waiting, single = parse_queue(QUEUE)
    assert [(e.job_id, e.index) for e in (launch, failed, waiting, single)] == [
        *((1, 0), (1, 2), (3, 4), (7, None))
    ]
    assert (launch.state.signal, launch.state.exit_code) == (9, 0)
    assert (failed.state.signal, failed.state.exit_code) == (0, 3)
    state = waiting.state
    assert (state.state, state.reason, state.restarts) == ("PENDING", "BeginTime", 1)
    assert launch.state.start is not None
    assert launch.state.start.tzinfo is not None
    assert single.state.start is None
    assert (launch.comment, waiting.comment) == ("oellm:x:1-ab", "a | b c")
    assert (single.account, single.qos) == ("acme", "long")


@given(
    st.lists(
        st.builds(
            QueuedElement,
            job_id=st.integers(1, 10**9),
            index=st.none() | st.integers(0, 10**6),
            state=st.builds(
                JobState,
                state=st.sampled_from(["PENDING", "RUNNING"]),
                reason=st.sampled_from(["None", "ReqNodeNotAvail, UnavailableNodes:n1"]),
                nodes=st.sampled_from(["", "n[1-3]"]),
                exit_code=st.integers(0, 255),
                signal=st.integers(0, 64),
                restarts=st.integers(0, 9),
                start=st.none(),
                end=st.none(),
                cancelled_by=st.just(""),
            ),
            account=st.sampled_from(["acme", "(null)"]),
            qos=st.sampled_from(["normal", "long"]),
            comment=st.text(st.characters(categories=["L", "N", "P"], include_characters="|")),
        )
    ),
    st.booleans(),
)
def test_what_squeue_prints_is_read_back(elements: list[QueuedElement], dumped: bool) -> None:
    lines = []
    for element in elements:
        state = element.state
        # The status is encoded as waitpid returns it; one bit says whether there is a core dump.
        status = state.exit_code << 8 | dumped << 7 | state.signal
        index = "N/A" if element.index is None else element.index
        fields = (
            *(element.job_id, index, state.state, state.reason, state.nodes, status),
            *(state.restarts, "N/A", "N/A", element.account, element.qos, element.comment),
        )
        lines.append("".join(f"{field}|" for field in fields) + "\n")
    assert parse_queue("".join(lines)) == elements


@pytest.mark.parametrize(
    "text",
    ["JOBID STATE", "", "4711_0|COMPLETED", "1|0|FAILED|x|n1|a|0|N/A|N/A|acme|normal|c|", "1|0"],
)
def test_anything_else_is_an_error_that_quotes_it(text: str) -> None:
    with pytest.raises(OellmError, match="squeue: expected a job's fields, got"):
        parse_queue(f"{text}\n")
