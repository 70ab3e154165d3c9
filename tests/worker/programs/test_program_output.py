"""What a program prints: whole lines without secrets, the last ones for a failure."""

from __future__ import annotations

import io
import os
import threading

import pytest

from oellm.worker.programs import program_output
from oellm.worker.programs.program_output import ProgramOutput


def shown(*parts: bytes) -> tuple[str, list[str]]:
    """Return what the log gets of what a program prints, and its last lines."""
    reader, writer = os.pipe()
    log = io.StringIO()
    output = ProgramOutput(reader, log)
    for part in parts:
        # A pipe does not hold everything.
        writing = threading.Thread(target=os.write, args=(writer, part))
        writing.start()
        while writing.is_alive():
            output.read()
        writing.join()
        output.read()
    os.close(writer)
    output.close()
    return log.getvalue(), output.last_lines


def test_lines_are_whole() -> None:
    assert shown(b"one\ntw", b"o\n\nthr", b"ee") == ("one\ntwo\n\nthree\n", ["one", "two", "three"])


def test_a_bar_is_shown_as_it_ends() -> None:
    bar = b"".join(b"\r%3d %%" % n for n in range(101))
    assert shown(b"before\n", bar[:77], bar[77:], b"\nafter\r\n")[0] == "before\n100 %\nafter\n"


def test_colours_are_left_out() -> None:
    assert shown("\x1b[31mred\x1b[0m €\n".encode() + b"\xff\n")[0] == "red €\n\ufffd\n"


def test_secrets_are_left_out() -> None:
    log, last = shown(b"token hf_" + b"a" * 17, b"a" * 17 + b"\n")
    assert log == "token [redacted]\n"
    assert last == ["token [redacted]"]


def test_a_long_line_is_written_in_parts() -> None:
    log, last = shown(b"x" * 200_000 + b"\n", b"end\n")
    assert log.count("x") == 200_000
    assert last[-1] == "end"


def test_the_last_lines_are_kept_whatever_the_log_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_output, "_MOST", 100)
    log, last = shown(b"".join(b"line %d\n" % n for n in range(1000)))
    assert log.startswith("line 0\nline 1\n")
    assert log.endswith("more than 100 B: the rest is left out\n")
    assert len(log) < 200
    assert last == [f"line {n}" for n in range(960, 1000)]
