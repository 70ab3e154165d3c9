"""JSON as it was written before orjson got each value at once: the same bytes for all values."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import uuid
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm.core import json_codec


class Pair(NamedTuple):
    left: int
    right: str


@dataclasses.dataclass(frozen=True)
class Point:
    x: int


class State(str, enum.Enum):
    DONE = "done"


class Level(enum.IntEnum):
    HIGH = 3


class Colour(enum.Enum):
    RED = "red"


numbers = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1]),
    st.floats(),
    st.floats(width=32).map(np.float32),
    st.floats().map(np.float64),
    st.integers(-(2**63), 2**63 - 1).map(np.int64),
    st.booleans().map(np.bool_),
)
others = st.sampled_from(
    [
        *(State.DONE, Level.HIGH, Path("a/b"), b"bytes", Pair(1, "x"), Point(1), print, 1j),
        *(datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 3, 4), uuid.UUID(int=5)),
        *(np.str_("text"), np.array(1.5), np.array([1, 2]), Counter("aab"), OrderedDict(a=1)),
        *(
            {"b", "a"},
            frozenset({1, 2}),
            Colour.RED,
            datetime.time(1, 2),
            np.datetime64("2026-01-02"),
        ),
    ]
)
texts = st.one_of(st.text(), st.text(st.characters(categories=["Cs", "Lu"])))
keys = st.one_of(texts, st.integers(), st.booleans(), st.none(), st.floats(), st.just(State.DONE))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts, others),
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.dictionaries(keys, inner, max_size=4)
    ),
)


def walked(value: Any, indent: bool) -> bytes:
    """Return what orjson makes of a value that was taken apart in Python."""
    import orjson

    return orjson.dumps(json_codec._plain(value), option=orjson.OPT_INDENT_2 if indent else 0)


@given(values, st.booleans())
def test_a_value_given_to_orjson_at_once_gives_the_bytes_of_the_walk(
    value: Any, indent: bool
) -> None:
    assert json_codec.dumps(value, indent=indent) == walked(value, indent)


@given(values, st.booleans())
def test_the_standard_library_writes_the_same_data(value: Any, indent: bool) -> None:
    data = json_codec.dumps(value, indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_codec, "orjson", None)
        other = json_codec.dumps(value, indent=indent)
    # Floats may be spelled in two ways, 1e16 and 1e+16.
    assert json.loads(other) == json.loads(data)


@pytest.mark.parametrize("library", ["orjson", "json"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([float("nan"), float("inf"), np.float64("nan")], "[null,null,null]"),
        ([np.int64(3), np.float32(0.5), np.bool_(True)], "[3,0.5,true]"),
        ({2, 1, 10}, '["1","10","2"]'),
        ([2**63 - 1, 2**63, -(2**63), 2**64], f'[{2**63 - 1},"{2**63}",{-(2**63)},"{2**64}"]'),
        ({2: "a", None: "b", True: "c"}, '{"2":"a","None":"b","True":"c"}'),
        ("a\udcffb", '"a?b"'),
        ([Path("a/b"), Pair(1, "x"), Point(1)], '["a/b",[1,"x"],"Point(x=1)"]'),
        ([State.DONE, Level.HIGH, Colour.RED], '["done",3,"red"]'),
    ],
)
def test_values_that_are_no_json_are_written_as_json(
    library: str, value: object, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "json":
        monkeypatch.setattr(json_codec, "orjson", None)
    assert json_codec.dumps(value).decode() == expected


@pytest.mark.parametrize("library", ["orjson", "json"])
@pytest.mark.parametrize("text", [b"", b"NaN", b"[Infinity]", b"{", b"{'a': 1}"])
def test_what_is_no_json_is_refused(
    library: str, text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "json":
        monkeypatch.setattr(json_codec, "orjson", None)
    with pytest.raises(ValueError):
        json_codec.loads(text)


_HARD = [
    *("18446744073709551615", "18446744073709551616", "-9223372036854775809", "1" * 40),
    *("1e400", "-1e400", "5" * 401, "1e-400", "0." + "1" * 400, "-0", "-0.0", "01", "1.", ".5"),
    *('"\\ud800"', '"\\ud83d\\ude00"', '"\\udc00x"', "NaN", "-Infinity", '"\x01"', '"\x7f"'),
    *('{"a":1,"a":2}', "[1,]", "{'a':1}", "//x\n1", "\ufeff1", "", " ", "nul", "1 2", "[" * 5000),
    "[" * 2000 + "]" * 2000,
    '{"a":' * 500 + "1" + "}" * 500,
]


@pytest.mark.parametrize("text", _HARD, ids=lambda text: text[:20])
def test_the_standard_library_reads_what_orjson_reads(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _compare(text.encode(), monkeypatch)


@given(st.data())
def test_the_standard_library_reads_any_bytes_as_orjson_does(data: st.DataObject) -> None:
    content = data.draw(st.one_of(st.binary(), st.sampled_from(_HARD).map(str.encode)))
    inserted = data.draw(st.binary(max_size=3))
    place = data.draw(st.integers(0, len(content)))
    with pytest.MonkeyPatch.context() as monkeypatch:
        _compare(content[:place] + inserted + content[place:], monkeypatch)


def _compare(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    orjson = pytest.importorskip("orjson")
    found = []
    for module in (orjson, None):
        monkeypatch.setattr(json_codec, "orjson", module)
        try:
            found.append(repr(json_codec.loads(content)))
        except ValueError:
            found.append("refused")
    assert found[0] == found[1]
