"""Durations, sizes and counts as people read them."""

from __future__ import annotations

import pytest

from oellm.core import display


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.5, "1 min"),
        (89, "1 min"),
        (3569, "59 min"),
        (3570, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_a_duration_is_told_in_its_largest_units(seconds: float, text: str) -> None:
    assert display.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.5, "1 kB"),
        (12_345_678_900, "12.3 GB"),
        (99_500_000, "100 MB"),
        (5e18, "5000 PB"),
    ],
)
def test_a_size_has_three_digits(size: float, text: str) -> None:
    assert display.format_size(size) == text


def test_a_count_of_one_has_a_singular() -> None:
    assert [display.format_count(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


def test_what_is_too_long_loses_its_middle_or_its_end() -> None:
    assert display.shorten_middle("abcdefghij", 7) == "abc…hij"
    assert display.shorten_middle("two\nlines\t", 20) == "two lines"
    assert display.shorten_middle("語語語語", 5) == "語…語"
    assert display.shorten_end("abcdefghij", 7) == "abcdef…"
    assert display.shorten_end("abcdefg", 7) == "abcdefg"
