"""Short names of models: what they leave out, and that they tell models apart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.core import display
from oellm.metrics.model_names import (
    ModelName,
    describe_left_out,
    fit_names,
    short_names,
    shorten_names,
)

SMALL, LARGE = "/evals/models/tiny/iter_0001000", "/evals/models/tiny/iter_0010000"
CELLS = st.lists(st.text("ab/,=猫\n", min_size=1, max_size=60), max_size=8)


def names(*cells: str) -> list[str]:
    return list(short_names(map(ModelName, cells)).values())


@pytest.mark.parametrize(
    ("models", "shown"),
    [
        # A step alone names no model, and neither does `hf`.
        ([SMALL, LARGE], ["tiny/iter_0001000", "tiny/iter_0010000"]),
        (["/r/a/hf/iter_1", "/r/a/hf/iter_2"], ["a/hf/iter_1", "a/hf/iter_2"]),
        (["/r/a/hf/step1", "/r/b/hf/step1"], ["a", "b"]),
        (["/r/a/hf/step1", "/r/b/hf/step2"], ["a/hf/step1", "b/hf/step2"]),
        (["/r/a", "/r/a/b"], ["a", "a/b"]),
        # A path without others keeps its end.
        ([SMALL], ["tiny/iter_0001000"]),
        (["/r/a/hf", "org/a"], ["a/hf", "org/a"]),
        (["/hf"], ["hf"]),
        # Arguments that all have say nothing.
        (["/m/a/x/1,dtype=f16", "/m/a/y/z/2/"], ["x/1,dtype=f16", "y/z/2"]),
        (["/m/a,dtype=f16", "/m/b,dtype=f16,x=1"], ["a", "b,x=1"]),
        # Paths that share only the root keep what tells them apart.
        (["/a/b", "/c/d"], ["…/b", "…/d"]),
        (["/models/a/b", "/evals/a/b"], ["/models/a/b", "/evals/a/b"]),
        (["/a/x/run/iter_1", "/b/run/iter_2"], ["…/run/iter_1", "…/run/iter_2"]),
        (["/a/x/y/m", "/b/x/m", "/b/z/n", "org/m"], ["…/y/m", "…/x/m", "…/z/n", "org/m"]),
        (["/m", "/a/b/n"], ["/m", "…/n"]),
        # An owner is no news if all models have it.
        (["org/a", "org/b,x=1"], ["a", "b,x=1"]),
        (["org/a", "org/a,x=1"], ["org/a", "org/a,x=1"]),
        (["org/a", "orb/b"], ["org/a", "orb/b"]),
        (["org/a", "/m/b"], ["org/a", "b"]),
        (["org/a", "b", "org/a,x=1"], ["org/a", "b", "org/a,x=1"]),
        # Names that would be equal are whole.
        (["/r/a/x", "/r/a/x/", "/r/b"], ["/r/a/x", "/r/a/x/", "b"]),
        ([], []),
    ],
)
def test_a_short_name_is_what_tells_models_apart(models: list[str], shown: list[str]) -> None:
    assert names(*models) == shown


def test_what_names_lack_can_be_said() -> None:
    def left_out(*cells: str) -> str:
        return describe_left_out(short_names(map(ModelName, cells)))

    begin = "names of models lack"
    shared = "what all models share"
    assert left_out("org/a", "org/b,x=1") == f"{begin} {shared}: org/"
    assert left_out("/r/x/a", "/r/x/b") == f"{begin} {shared}: /r/x/"
    assert left_out("/a/b", "/c/d", "/c/e") == (
        f"{begin} the directories that they are in: /a/, /c/"
    )
    many = left_out(*(f"/{letter}/m{letter},x=1" for letter in "abcde"))
    assert many == (
        f"{begin} {shared}: x=1; and the directories that they are in: /a/, /b/, /c/ and 2 more"
    )
    assert left_out("org/a", "other/b") == ""


def test_a_revision_is_shown_where_it_alone_differs() -> None:
    commits = [ModelName("org/a", "0" * 40), ModelName("org/a", "1" * 40), ModelName("b", "2" * 40)]
    assert list(short_names(commits).values()) == ["org/a @ 00000000", "org/a @ 11111111", "b"]
    same = [ModelName("org/a", "0" * 40 + end) for end in "xy"]
    assert list(short_names(same).values()) == [model.full_name for model in same]


@given(CELLS)
@settings(deadline=None)
def test_no_two_models_have_one_name(cells: list[str]) -> None:
    assert len(set(names(*cells))) == len(set(cells))


@given(CELLS, st.integers(8, 40))
@settings(deadline=None)
def test_names_that_are_cut_fit_and_tell_models_apart(cells: list[str], width: int) -> None:
    whole = {cell: cell for cell in cells}
    fitting = fit_names(whole, width)
    assert set(fitting) == set(cells)
    assert len(set(fitting.values())) == len(fitting)
    assert all(display.text_width(n) <= width and "\n" not in n for n in fitting.values())
    cut = shorten_names(whole, width)
    assert all(display.text_width(n) <= width or n == cell for cell, n in cut.items())


def test_the_middle_of_a_long_name_is_cut() -> None:
    assert shorten_names({1: "abcdefghij", 2: "ab"}, 7) == {1: "abc…hij", 2: "ab"}
    alike = {1: "abcXhij--", 2: "abcYhij--"}
    assert shorten_names(alike, 7) == alike
    assert fit_names(alike, 7) == {1: "abc…j--", 2: "ab…- #2"}


def test_a_path_with_a_comma_is_shown_as_it_is() -> None:
    first = ModelName('"/runs/lr=1,bs=8/iter_1",dtype=float16')
    other = ModelName("/runs/ok/iter_1,dtype=float16")
    assert short_names([first, other]) == {first: "lr=1,bs=8", other: "ok"}
