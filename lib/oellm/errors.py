"""Exit statuses and the errors that lead to them."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence


class ExitStatus(enum.IntEnum):
    """Exit status of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    MACHINE = 3
    TRY_AGAIN = 75
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class OellmError(Exception):
    """An error whose text is meant for the user; `status` is the exit status."""

    status = ExitStatus.FAILED

    def texts(self) -> list[str]:
        """Return the messages for the user, one for each thing that is wrong."""
        return [str(self)]


class CollectedError(OellmError):
    """Several things are wrong; the status is that of the first."""

    _SHOWN = 10

    def __init__(self, errors: Sequence[OellmError]) -> None:
        self.errors = errors
        self.status = errors[0].status
        super().__init__("; ".join(map(str, errors[: self._SHOWN])))

    def texts(self) -> list[str]:
        """Return the first messages, and how many more there are."""
        more = len(self.errors) - self._SHOWN
        shown = [text for error in self.errors[: self._SHOWN] for text in error.texts()]
        return [*shown, *([f"{more} more errors of this kind"] if more > 0 else [])]


def raise_errors(errors: Sequence[OellmError]) -> None:
    """Raise what a list of errors holds; nothing if it is empty."""
    if errors:
        raise errors[0] if len(errors) == 1 else CollectedError(errors)


class UsageError(OellmError):
    """The command line asks for something that does not exist or contradicts itself."""

    status = ExitStatus.USAGE


class MachineError(OellmError):
    """The machine lacks something: no cluster matches, no sbatch, or the hub is unreachable."""

    status = ExitStatus.MACHINE


class InputError(OellmError):
    """Bad input, with its source, line and column as far as they are known.

    The text reads `jobs.csv:3: n_shot: expected …`.
    """

    status = ExitStatus.USAGE

    def __init__(
        self, message: str, source: str = "", line: int | None = None, column: str = ""
    ) -> None:
        self.message, self.source, self.line, self.column = message, source, line, column
        place = source if line is None else f"{source or 'input'}:{line}"
        super().__init__(": ".join(part for part in (place, column, message) if part))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean X?` for the known name nearest to `name`, or an empty text."""
    close = find_nearest(name, known)
    return f", did you mean {close}?" if close else ""


def find_nearest(name: str, known: Iterable[str], least: float = 0.6) -> str:
    """Return the known name nearest to `name`, empty if none is at least so alike (0 to 1)."""
    import difflib

    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=least)), "")
