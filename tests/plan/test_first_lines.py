"""FirstLines says what a dict would, in less memory."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.plan.first_lines import FirstLines

# Few of them, also the highest, and many that end alike: those look for the same slot.
IDENTITIES = st.integers(0, 2**64 - 1) | st.integers(0, 3).map(lambda high: high << 62 | 5)


@settings(deadline=None)
@given(st.lists(IDENTITIES.map("{:016x}".format), max_size=60))
def test_each_identity_has_the_line_where_it_was_first(identities: list[str]) -> None:
    lines, expected = FirstLines(), {}
    for line, identity in enumerate(identities, 2):
        assert lines.add(identity, line) == expected.get(identity)
        expected.setdefault(identity, line)


def test_they_keep_their_lines_while_the_table_grows() -> None:
    lines = FirstLines()
    # An odd factor spreads the numbers over the 64 bits, each once.
    identities = [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in range(20_000)]
    assert [lines.add(identity, 2 + n) for n, identity in enumerate(identities)] == [None] * 20_000
    again = [lines.add(identity, 1) for identity in identities]
    assert again == list(range(2, 20_002))
