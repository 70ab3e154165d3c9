"""What regular_files opens, what it refuses, and that it never waits."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from oellm.core import regular_files
from oellm.core.regular_files import RefusedFileError

Make = Callable[[Path], object]


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def _link_to(target: str) -> Make:
    return lambda path: path.symlink_to(target)


_BAD: dict[str, tuple[Make, str]] = {
    "a named pipe": (os.mkfifo, "it is a named pipe, not a regular file"),
    "a directory": (Path.mkdir, "it is a directory, not a regular file"),
    "a socket": (_socket, "it is a socket, not a regular file"),
    "a link to a device": (_link_to("/dev/zero"), "it is a device, not a regular file"),
    "a link to a directory": (_link_to("/"), "it is a directory, not a regular file"),
}


@pytest.fixture(autouse=True)
def _short_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The name of a socket has at most 107 letters.
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", _BAD)
def test_only_regular_files_are_opened(kind: str) -> None:
    make, reason = _BAD[kind]
    path = Path("file")
    make(path)
    for read in (
        regular_files.read_regular,
        regular_files.open_regular,
        regular_files.open_regular_text,
    ):
        with pytest.raises(RefusedFileError) as raised:
            read(path)
        assert str(raised.value) == reason
        assert raised.value.filename == "file"


@pytest.mark.parametrize("kind", _BAD)
def test_only_regular_files_are_written(kind: str) -> None:
    path = Path("file")
    _BAD[kind][0](path)
    with pytest.raises(RefusedFileError, match="it is a"):
        regular_files.append_regular(path)


def test_content_of_any_length_is_read() -> None:
    path = Path("file")
    for length in (0, 1, 65535, 65536, 200_000):
        path.write_bytes(b"x" * length)
        assert regular_files.read_regular(path) == b"x" * length
    path.write_bytes(b"one\r\ntwo")
    with regular_files.open_regular_text(path) as stream:
        assert stream.read() == "one\r\ntwo"
        assert stream.name == "file"
    with regular_files.open_regular(path) as binary:
        assert list(binary) == [b"one\r\n", b"two"]


def test_a_file_is_read_up_to_a_size() -> None:
    path = Path("file")
    path.write_bytes(b"x" * 100)
    assert len(regular_files.read_regular(path, 100)) == 100
    with pytest.raises(RefusedFileError, match="it has 100 B, and at most 99 B are read"):
        regular_files.read_regular(path, 99)
    # A file of a terabyte costs no memory, for it has no content on the disk.
    os.truncate(path, 10**12)
    with pytest.raises(RefusedFileError, match="it has 1 TB, and at most 268 MB are read"):
        regular_files.read_regular(path)


def test_a_file_that_grows_is_read_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("file")
    path.write_bytes(b"x" * 10)
    read = os.read

    def grow(descriptor: int, count: int) -> bytes:
        with path.open("ab") as stream:
            stream.write(b"y" * 10)
        return read(descriptor, count)

    monkeypatch.setattr(os, "read", grow)
    with pytest.raises(RefusedFileError, match="are read"):
        regular_files.read_regular(path, 15)


def test_a_missing_file_is_missing() -> None:
    for path in (Path("file"), Path("no/file"), Path("link")):
        if path.name == "link":
            path.symlink_to("nowhere")
        with pytest.raises(FileNotFoundError) as raised:
            regular_files.read_regular(path)
        assert raised.value.filename == str(path)


def test_a_circle_of_links_ends() -> None:
    Path("one").symlink_to("two")
    Path("two").symlink_to("one")
    with pytest.raises(OSError, match="Too many levels of symbolic links: 'one'"):
        regular_files.read_regular("one")


def test_what_the_shell_opened_is_read_though_it_is_a_pipe() -> None:
    ours, theirs = os.pipe()
    os.write(theirs, b"x" * 30_000)
    os.close(theirs)
    assert regular_files.read_regular(f"/dev/fd/{ours}") == b"x" * 30_000
    os.close(ours)


def test_own_links_are_followed() -> None:
    Path("there").mkdir()
    Path("there/file").write_bytes(b"content")
    Path("there/middle").symlink_to("file")
    Path("link").symlink_to("there/middle")
    assert regular_files.read_regular("link") == b"content"
    with pytest.raises(RefusedFileError, match="it is a link"):
        regular_files.append_regular("link")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_links_of_other_users_lead_only_to_their_own_files(monkeypatch: pytest.MonkeyPatch) -> None:
    me, other = 4711, 4712
    for name in ("mine", "other's"):
        Path(name).write_bytes(name.encode())
    os.chown("mine", me, -1)
    os.chown("other's", other, -1)
    Path("to mine").symlink_to("mine")
    Path("to other's").symlink_to("other's")
    for link in ("to mine", "to other's"):
        os.chown(link, other, -1, follow_symlinks=False)
    monkeypatch.setattr(os, "geteuid", lambda: me)
    assert regular_files.read_regular("to other's") == b"other's"
    with pytest.raises(RefusedFileError, match="it is a link of another user"):
        regular_files.read_regular("to mine")


def test_appending_creates_a_file_and_refuses_second_names() -> None:
    for _ in range(2):
        with regular_files.append_regular("log") as stream:
            stream.write(b"line\n")
    assert Path("log").read_bytes() == b"line\nline\n"
    os.link("log", "second")
    with pytest.raises(RefusedFileError, match="it is a file with several names"):
        regular_files.append_regular("log")
