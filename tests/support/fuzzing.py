"""Damaged inputs made of valid ones, and commands that run inside this process."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hypothesis import strategies as st

from support.processes import PATIENCE_S


class Raw(str):
    """JSON text that stands for itself, since no Python value is written so."""

    __slots__ = ()


# What takes the place of a value. None of them is longer than a line of a log should be.
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 0.5, 1e308, 5.0),
    *map(Raw, ("1e999", "1" * 401, "-0.0", "NaN", "Infinity", "1e-400", "01", '"\\ud800"')),
    *("", " ", "x", "0", "1", "-1", "5.0", "5 ", "٥", "1_000", "1e3", "nan", "true", "null"),
    *("\x1b[31mred\x1b[0m", "two\nlines", "a\x00b", "\u202eevil", "\u00e9", "e\u0301", "=1+1"),
    *("../../etc/passwd", "/", "/dev/zero", ".", "~", "a,b=c", "a:b", "{user}", "%s%n", "x" * 5000),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": []}}, [0] * 1000),
    *map(Raw, ("[" * 900 + "]" * 900, "[" * 5000 + "]" * 5000, '{"a":' * 900 + "1" + "}" * 900)),
    *("2026-01-01T00:00:00", "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+23:59", "yesterday"),
    *("UNLIMITED", "00:00:00", "99999999:00:00", "done", "failed", "slurm", "lm_eval"),
]
_BYTES = [b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r\n", b"\n"]
_BYTES += [b'"', b",", b"{", b"}"]
_UNICODE = ["utf-16", "utf-8-sig", "utf-32"]
# How often something happens, by how often it stands here.
_CHANGES = [1, 1, 1, 1, 2, 3]
_JSON_ACTIONS = ["replace"] * 6 + ["remove", "repeat", "rename", "repeat changed"]
_CSV_ACTIONS = ["replace"] * 6 + ["remove", "repeat", "shorten", "lengthen"]


def encode(value: Any) -> str:
    """Return JSON text of a value; an object may be a list of pairs, with names that repeat."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(key)}:{encode(item)}" for key, item in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(encode, value)) + "]"
    if isinstance(value, dict):
        return encode(Pairs(value.items()))
    return json.dumps(value)


class Pairs(list[tuple[str, Any]]):
    """An object of JSON whose names may repeat."""


def _pairs(value: Any) -> Any:
    """Return a copy of a JSON value in which objects are pairs."""
    if isinstance(value, dict):
        return Pairs((key, _pairs(item)) for key, item in value.items())
    return list(map(_pairs, value)) if isinstance(value, list) else value


def _places(value: Any) -> list[tuple[Any, int]]:
    """Return container and position of all members and items in a value."""
    found: list[tuple[Any, int]] = []
    if isinstance(value, list):
        for position, item in enumerate(value):
            found.append((value, position))
            found += _places(item[1] if isinstance(value, Pairs) else item)
    return found


@st.composite
def damaged_json(draw: st.DrawFn, valid: Any) -> bytes:
    """Return the text of a valid JSON value with some members changed, and perhaps some bytes."""
    root = [_pairs(valid)]
    for _ in range(draw(st.sampled_from(_CHANGES))):
        if not (places := _places(root)):
            break
        container, position = places[draw(st.integers(0, len(places) - 1))]
        _change(draw, container, position)
    return draw(damaged_bytes(encode(root[0] if root else None).encode("utf-8", "surrogatepass")))


def _change(draw: st.DrawFn, container: Any, position: int) -> None:
    action = draw(st.sampled_from(_JSON_ACTIONS))
    odd = _pairs(draw(st.sampled_from(ODD)))
    entry = copy.deepcopy(container[position])
    is_pair = isinstance(container, Pairs)
    if action == "remove":
        del container[position]
    elif action == "repeat":
        container.insert(position, entry)
    elif action == "repeat changed":
        container.append((entry[0], odd) if is_pair else odd)
    elif action == "rename" and is_pair:
        container[position] = (odd if type(odd) is str else f"{entry[0]}_", entry[1])
    else:
        container[position] = (entry[0], odd) if is_pair else odd


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Return a text as it is, mostly, or cut off, with other bytes, or in another encoding."""
    action = draw(st.integers(0, 19))
    if action > 5:
        return content
    place = draw(st.integers(0, len(content)))
    text = content.decode("utf-8", "surrogatepass")
    if action == 0:
        return content[:place]
    if action == 1:
        return content[:place] + draw(st.sampled_from(_BYTES)) + content[place:]
    if action == 2:
        return content[:place] + draw(st.sampled_from(_BYTES)) + content[place + 1 :]
    if action == 3:
        return text.encode(draw(st.sampled_from(_UNICODE)), "surrogatepass")
    if action == 4:
        return content.replace(b"\n", b"\r\n") + draw(st.sampled_from(_BYTES))
    return content + content


@st.composite
def damaged_csv(draw: st.DrawFn, rows: list[list[str]]) -> bytes:
    """Return a CSV text with some cells or lines changed, and perhaps some bytes."""
    rows = [list(row) for row in rows]
    for _ in range(draw(st.sampled_from(_CHANGES))):
        line = draw(st.integers(0, len(rows) - 1))
        action = draw(st.sampled_from(_CSV_ACTIONS))
        if action == "remove":
            del rows[line]
        elif action == "repeat":
            rows.insert(line, rows[line])
        elif action == "shorten":
            rows[line] = rows[line][:-1]
        elif action == "lengthen":
            rows[line] = [*rows[line], "x"]
        elif rows[line]:
            odd = draw(st.sampled_from(ODD))
            cell = odd if type(odd) is str else encode(odd)
            rows[line] = list(rows[line])
            rows[line][draw(st.integers(0, len(rows[line]) - 1))] = cell
        if not rows:
            break
    text = "".join(",".join(map(_cell, row)) + "\n" for row in rows)
    return draw(damaged_bytes(text.encode("utf-8", "surrogatepass")))


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n\r') else text


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    out: bytes
    err: str


class HangError(BaseException):
    """A command took too long; not an Exception, so that no command takes it for its own."""


def call(command: str, *arguments: object, environ: Mapping[str, str]) -> Outcome:
    """Run a command inside this process, without input; raises HangError after 20 s."""
    module = importlib.import_module(command.replace("-", "_"))
    streams = [io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2)]
    with _surroundings(environ, *streams), _deadline(f"{command} {arguments}"):
        status = module.main([str(argument) for argument in arguments])
    out, err = (stream.buffer.getvalue() for stream in streams)
    return Outcome(status, out, err.decode("utf-8", "surrogateescape"))


@contextlib.contextmanager
def _surroundings(
    environ: Mapping[str, str], out: io.TextIOWrapper, err: io.TextIOWrapper
) -> Iterator[None]:
    saved = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


@contextlib.contextmanager
def _deadline(what: str) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangError(what)

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        sys.stdout.flush()
