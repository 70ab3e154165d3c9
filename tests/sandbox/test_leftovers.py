"""What a program leaves in its output: regular files go out, nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm.sandbox.contained import ContainedEnd, Limits, Refused
from oellm.sandbox.frames import FileBegin, FrameParser
from oellm.sandbox.output import OutputDirectory
from sandbox.conftest import Sandboxed, python

SMALL = Limits(60, output_bytes=1 << 20, output_files=200)


def leave(sandboxed: Sandboxed, code: str, limits: Limits = SMALL) -> ContainedEnd:
    return sandboxed(*python(f"import os, socket\n{code}"), limits=limits)


def test_regular_files_are_copied_with_their_content(sandboxed: Sandboxed, directory: Path) -> None:
    end = leave(
        sandboxed,
        "os.makedirs('a/b'); open('a/b/metrics.json', 'w').write('{}')\n"
        "open('--a b é.jsonl', 'wb').write(b'\\0' * 300000); os.chmod('--a b é.jsonl', 0o4000)",
    )
    assert (end.status, end.reason, end.refused) == (0, "", ())
    assert end.copied == ("--a b é.jsonl", "a/b/metrics.json")
    out = directory / "out"
    assert (out / "a/b/metrics.json").read_text() == "{}"
    copy = out / "--a b é.jsonl"
    assert copy.read_bytes() == bytes(300000)
    assert (copy.stat().st_mode & 0o7777, copy.stat().st_uid) == (0o644, os.geteuid())


def test_nothing_else_is_copied_and_each_is_named(sandboxed: Sandboxed, directory: Path) -> None:
    end = leave(
        sandboxed,
        "os.symlink('/etc/passwd', 'link'); os.symlink('/', 'directory'); os.mkfifo('pipe')\n"
        "socket.socket(socket.AF_UNIX).bind('socket')\n"
        "open('one', 'w').close(); os.link('one', 'two')\n"
        "open(b'\\xff', 'w').close(); open('line\\nend', 'w').close(); open('\\x1b[31m', 'w')\n"
        "os.makedirs('/'.join('123456789')); open('/'.join('123456789x'), 'w').close()\n"
        "open('whole', 'w').write('whole')",
    )
    assert end.status == 0
    assert end.copied == ("whole",)
    assert [path.name for path in (directory / "out").iterdir()] == ["whole"]
    reasons = {refused.name.strip("'"): refused.reason for refused in end.refused}
    assert reasons == {
        **dict.fromkeys(("link", "directory", "pipe", "socket"), "it is no regular file"),
        **dict.fromkeys(("one", "two"), "it has further names"),
        "\\udcff": "its name is not UTF-8",
        **dict.fromkeys(("line\\nend", "\\x1b[31m"), "its name has unprintable characters"),
        "1/2/3/4/5/6/7/8/9": "it is more than 8 directories deep",
    }


def test_sparse_files_and_very_many_names_stay_within_the_limits(
    sandboxed: Sandboxed, directory: Path
) -> None:
    end = leave(
        sandboxed,
        "open('a', 'w').write('a')\nos.truncate('a', 700_000)\n"
        "open('sparse', 'w').close(); os.truncate('sparse', 1 << 40)\n"
        "open('b', 'w').close(); os.truncate('b', 700_000)\n"
        "for n in range(150): os.mkfifo(f'x{n:03}')",
    )
    assert end.copied == ("a",)
    reasons = [refused.reason for refused in end.refused]
    assert reasons[:2] == [
        f"the output would be larger than permitted: {size} bytes more"
        for size in (700_000, 1 << 40)
    ]
    assert len(reasons) == 51
    assert reasons[-1] == "102 more"


def test_a_program_that_fails_leaves_nothing(sandboxed: Sandboxed, directory: Path) -> None:
    end = leave(sandboxed, "open('metrics.json', 'w').write('forged'); raise SystemExit(3)")
    assert (end.status, end.reason, end.copied) == (3, "it ended with status 3", ())
    assert list((directory / "out").iterdir()) == []


def test_existing_files_stay(sandboxed: Sandboxed, directory: Path) -> None:
    (directory / "out" / "metrics.json").write_text("old")
    end = leave(sandboxed, "open('metrics.json', 'w').write('new')")
    assert (directory / "out" / "metrics.json").read_text() == "old"
    assert end.refused == (Refused("metrics.json", "there is such a file already"),)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../x", "a//x", "", ".", "a\0b"])
def test_no_frame_leads_out_of_the_directory(name: str, directory: Path) -> None:
    output = OutputDirectory(directory / "out", SMALL)
    with pytest.raises(ValueError, match="no path within the output"):
        output.take([FileBegin(name, 0)])


@given(st.data())
def test_frames_arrive_whole_however_they_are_cut(data: st.DataObject) -> None:
    contents = data.draw(st.lists(st.binary(max_size=50), max_size=5))
    stream = b"".join(
        b'{"file": "%d", "size": %d}\n%s{"refused": "x", "reason": "y"}\n'
        % (number, len(content), content)
        for number, content in enumerate(contents)
    )
    parser, found = FrameParser(), []
    while stream:
        length = data.draw(st.integers(1, len(stream)))
        found += parser.feed(stream[:length])
        stream = stream[length:]
    files: list[bytes] = []
    for frame in found:
        if isinstance(frame, FileBegin):
            assert frame.name == str(len(files))
            files.append(b"")
        elif isinstance(frame, bytes):
            files[-1] += frame
    assert files == contents
    assert found.count(Refused("x", "y")) == len(contents)
