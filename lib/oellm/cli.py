"""The frame around every command: arguments, messages, exit status.

Only this module of the library reads the command line, prints, and decides the exit status, so that
all commands agree on them. It imports little, because --help must be fast.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from oellm import __version__
from oellm.errors import ExitStatus, OellmError, UsageError
from oellm.manuals import usage

if TYPE_CHECKING:
    from oellm.core.log import Log

Arguments = dict[str, Any]

# The name of our way to write text that UTF-8 has no form for.
_ANY_TEXT = "oellm.any"

_program = "oellm"
# The line that a terminal shows below the last message.
_status = ""
# Moves to the start of the line, and clears the line.
_ERASE = "\r\x1b[K"
# Digits of an option's number.
_MOST_DIGITS = 20


def message(text: str) -> None:
    """Print one message for the user on stderr, as `command: text`, on one line."""
    relay(f"{_program}: {' '.join(text.splitlines())}\n")


def relay(line: str) -> None:
    """Print a line on stderr, such as one of another process, without secrets or control codes."""
    # Imported here, because --help and --version must not wait for it.
    from oellm.core.display import printable
    from oellm.core.redaction import redact

    line = printable(redact(line))
    try:
        # One write: lines of several threads, or of several commands of a pipe, stay whole.
        sys.stderr.write(f"{_ERASE}{line}{_status}" if _status else line)
        sys.stderr.flush()
    except OSError:
        # Nobody reads the messages any more. The work goes on.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def status_line() -> Log | None:
    """Return a function that shows a line below the messages, or None without a terminal.

    The next line replaces it; an empty line removes it.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return None
    return _show_status


def _show_status(text: str) -> None:
    global _status  # noqa: PLW0603
    # A longer line would wrap, and only its last part could be erased.
    width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
    _status = f"{_program}: {text}"[: width - 1] if text else ""
    sys.stderr.write(_ERASE + _status)
    sys.stderr.flush()


def next_steps(*steps: str) -> None:
    """Tell people what they may type next; if stdout is no terminal, a program reads it."""
    if sys.stdout.isatty():
        sys.stdout.flush()
        for step in steps:
            relay(f"{step}\n")


def print_run(run_object: Mapping[str, Any], *steps: str) -> None:
    """Print a run as one line of JSON; people get its directory, and each step followed by that."""
    import shlex

    from oellm.core import json_codec

    if not sys.stdout.isatty():
        sys.stdout.write(json_codec.dumps(run_object).decode() + "\n")
        return
    path = shlex.quote(run_object["run_dir"])
    print(path)
    next_steps(*(f"{step} {path}" for step in steps))


def run(
    program: str,
    *,
    doc: str | None,
    command: Callable[[Arguments], int],
    argv: Sequence[str] | None = None,
    moved: Mapping[str, str] = MappingProxyType({}),
    dispatch: Callable[[Sequence[str]], int | None] = lambda _: None,
    further: Callable[[], Mapping[str, str]] = dict,
) -> int:
    """Run one command: parse its arguments, call it, and turn errors into an exit status.

    `doc` is the command's manual, in the docopt language; `command` gets the docopt dict and
    returns its exit status. Options must be spelled out; hyphens and underscores in their names
    mean the same. `moved` names, for each option that the command had once, what does that now.
    `dispatch` may do the whole work, for words that name another command; it returns None if
    they do not. `further` returns the forms of options that other commands have; they are in
    `further` of the docopt dict. A traceback is printed only with OELLM_DEBUG=1.
    """
    global _program  # noqa: PLW0603
    _program = program
    if argv is None and sys.getfilesystemencoding() != "utf-8":
        # In an ASCII locale without UTF-8 mode, Python cannot name files with other letters.
        again = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(sys.executable, again)  # noqa: S606
    _open_closed_streams()
    codecs.register_error(_ANY_TEXT, _encode_any)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors=_ANY_TEXT)  # type: ignore[union-attr]
    words = list(sys.argv[1:] if argv is None else argv)

    def act() -> int:
        status = dispatch(words)
        if status is not None:
            return status
        if _has_shown(doc or "", words):
            return ExitStatus.DONE
        usage.require_no_moved(words, moved)
        return command(usage.Manual(doc or "").parse(words, further()))

    status = _guarded(act)
    return _flushed(status)


def _encode_any(error: UnicodeError) -> tuple[bytes, int]:
    """Encode what is no character: a byte of a path as this byte, anything else as `?`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    code = ord(error.object[error.start])
    return bytes([code - 0xDC00]) if 0xDC80 <= code <= 0xDCFF else b"?", error.start + 1


def open_input(path: str | None) -> TextIO:
    """Open a file, or stdin for None and `-`, as UTF-8 text with its line ends unchanged."""
    if path is None or path == "-":
        if sys.stdin.isatty():
            message("reading from the terminal; end with Ctrl-D")
        return open(0, encoding="utf-8-sig", newline="", closefd=False)
    return open(path, encoding="utf-8-sig", newline="")


def input_paths(arguments: Arguments) -> list[str]:
    """Return the paths of the command line, none if the input is stdin.

    Raises UsageError for an empty path, and for `-` beside other paths.
    """
    paths: list[str] = arguments["PATH"]
    if "" in paths:
        raise UsageError("expected a path, got ''")
    if "-" in paths and len(paths) > 1:
        raise UsageError("-: stdin cannot be combined with other paths")
    return [path for path in paths if path != "-"]


def input_name(path: str | None) -> str:
    """Return the name of an input for error messages."""
    return "stdin" if path is None or path == "-" else path


def positive(arguments: Arguments, option: str) -> int:
    """Return the positive integer that an option has as its value, in the digits 0 to 9."""
    text = arguments[option]
    if not _is_natural(text) or int(text) < 1:
        raise UsageError(f"{option}: expected a positive integer, got {text!r}")
    return int(text)


def natural(arguments: Arguments, option: str) -> int | None:
    """Return the non-negative integer that an option has as its value; None if it is left out."""
    text = arguments[option]
    if text is None:
        return None
    if not _is_natural(text):
        raise UsageError(f"{option}: expected a non-negative integer, got {text!r}")
    return int(text)


def _is_natural(text: str) -> bool:
    # Python refuses to read thousands of digits.
    return text.isascii() and text.isdecimal() and len(text) < _MOST_DIGITS


@contextlib.contextmanager
def stdout_diverted() -> Iterator[BinaryIO]:
    """Redirect stdout to stderr, also for libraries and child processes; give the real stdout."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with open(saved, "wb", closefd=False) as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


def _open_closed_streams() -> None:
    """Open /dev/null for each standard stream that the caller closed, which Python has as None."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # The closed descriptor is the lowest free one, because we go through them in order.
            opened = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(opened, "r" if number == 0 else "w", encoding="utf-8"))


def _has_shown(doc: str, argv: Sequence[str]) -> bool:
    """Print the manual or the version if the command line asks for it; return whether it does."""
    words = list(argv)[: list(argv).index("--")] if "--" in argv else list(argv)
    # Before docopt is imported, so that --help and --version cost little more than Python itself.
    if "--help" in words or "-h" in words:
        print(usage.arrange(doc))
    elif "--version" in words or "-V" in words:
        print(f"{_program} {__version__}")
    else:
        return False
    return True


def _guarded(action: Callable[[], int]) -> int:
    try:
        return action()
    except OellmError as error:
        _traceback_if_asked()
        for text in error.texts():
            message(text)
        if isinstance(error, usage.CommandLineError):
            relay(f"see {error.manual}\n")
        return error.status
    except KeyboardInterrupt:
        message("interrupted")
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        return ExitStatus.BROKEN_PIPE
    except UnicodeDecodeError as error:
        _traceback_if_asked()
        message(f"expected UTF-8 text, got byte 0x{error.object[error.start]:02x}")
        return ExitStatus.USAGE
    except OSError as error:
        _traceback_if_asked()
        message(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
            return ExitStatus.USAGE
        # A file that was refused because of what it is says so by its status.
        return getattr(error, "status", ExitStatus.MACHINE)
    except Exception as error:
        _traceback_if_asked()
        message(f"internal error: {error!r} (OELLM_DEBUG=1 shows where)")
        return ExitStatus.FAILED


def _traceback_if_asked() -> None:
    if os.environ.get("OELLM_DEBUG") == "1":
        import traceback

        relay(traceback.format_exc())


def _flushed(status: int) -> int:
    """Flush stdout while we can still report errors, and leave nothing for Python to flush."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = ExitStatus.BROKEN_PIPE
    except OSError as error:
        message(f"stdout: {error.strerror}")
        status = ExitStatus.MACHINE
    else:
        return status
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return status
