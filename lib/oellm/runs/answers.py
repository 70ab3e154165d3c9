"""The answers that a model has given to the requests of a row, on disk until the row is done.

A row that was interrupted, even by SIGKILL, resumes from them. They are in DIRECTORY/EVAL_ID/, one
file for each attempt, which only grows: a first line that says whose they are, then a line for each
batch of the model, as a checksum and JSON. A batch is there whole or not at all: the rest of one
would be batched with other requests, and scored differently in the last digits.

Nothing makes the system flush to the disk: the death of the process loses the last second, that of
the whole node also what the system had not written yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Of a request loglikelihood, of a loglikelihood_rolling, of a generate_until.
Answer = tuple[float, bool] | float | str

# Seconds from one write to the next.
INTERVAL = 1.0

_FORMAT = 1
_KEY_DIGITS = 32
_CHECKSUM_DIGITS = 16
# Nothing but control characters is escaped: two lone surrogates would come back as one character.
_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def request_key(kind: str, arguments: tuple[Any, ...]) -> str | None:
    """Return a digest of a request, None where its answer is of no use to another attempt.

    That is where its arguments are not plain JSON (an image), and where the text is sampled:
    repetitions of such a request are the same request, and each is to draw a text of its own.
    """
    digest = hashlib.sha256(kind.encode())
    for argument in arguments:
        if isinstance(argument, str):
            # The digest of a prompt takes less time than its JSON.
            form, content = b"text", _encoded(argument)
        elif isinstance(argument, dict) and _samples(argument):
            return None
        else:
            try:
                form, content = b"json", _encoded(_json(argument))
            except (TypeError, ValueError):
                return None
        digest.update(b"\n%s %d\n" % (form, len(content)))
        digest.update(content)
    return digest.hexdigest()[:_KEY_DIGITS]


def remove(directory: Path, eval_id: str) -> None:
    """Remove the answers of a row that is done, those of all attempts.

    Another worker that has the same row then keeps no more answers, or, if it began to right now,
    removes its file itself.
    """
    shutil.rmtree(directory / eval_id, ignore_errors=True)


def kept_bytes(directory: Path, eval_id: str) -> int:
    """Return the size of what is kept for a row: by its growth, a worker has got somewhere."""
    # Another worker may finish the row and remove it.
    with contextlib.suppress(OSError), os.scandir(directory / eval_id) as entries:
        return sum(entry.stat().st_size for entry in entries)
    return 0


class Answers:
    """The answers of one row: those of earlier attempts, and those that this one adds.

    `directory` is the one of all rows. `origin` says on what answers depend besides the requests
    (the model, versions, the batch size); those of another origin are not used. `report` gets one
    message where answers cannot be written: the row goes on, and no more of them are kept.
    """

    def __init__(
        self, directory: Path, eval_id: str, origin: str, report: Callable[[str], None]
    ) -> None:
        # Answers that this attempt has on disk.
        self.saved = 0
        # Never the file of another process, on whatever machine.
        name = f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"
        self._path = directory / eval_id / name
        heading = {"format": _FORMAT, "eval_id": eval_id, "origin": origin}
        self._heading = _encoded(_json(heading)) + b"\n"
        # Checksums cover the heading too: no line passes for one of another row or origin.
        self._digest = hashlib.sha256(self._heading)
        self._report = report
        self._keeping = True
        self._batch: dict[str, Answer] = {}
        self._unwritten: list[dict[str, Answer]] = []
        self._next_write = time.monotonic() + INTERVAL

    def earlier(self) -> dict[str, Answer]:
        """Return what attempts have left, by the keys of the requests; skip what is damaged."""
        found: dict[str, Answer] = {}
        for line in _lines(self._path.parent):
            checksum, _, content = line.rstrip(b"\n").partition(b" ")
            if checksum == self._checksum(content):
                batch = json.loads(content.decode("utf-8", "surrogatepass"))
                found |= {key: _answer(value) for key, value in batch.items()}
        return found

    def add(self, key: str, answer: Answer) -> None:
        """Add an answer to the batch that the model is at."""
        self._batch[key] = answer

    def complete(self) -> None:
        """End the batch, and write what is complete unless the last write was just now."""
        if self._batch and self._keeping:
            self._unwritten.append(self._batch)
        self._batch = {}
        if time.monotonic() >= self._next_write:
            self.flush()

    def flush(self) -> None:
        """Write what is complete."""
        if not self._unwritten:
            return
        try:
            self._write(b"".join(map(self._record, self._unwritten)))
            self.saved += sum(map(len, self._unwritten))
        except OSError as error:
            self._stop(str(error.strerror))
        # A backend may answer with anything.
        except TypeError as error:
            self._stop(str(error))
        self._unwritten = []
        self._next_write = time.monotonic() + INTERVAL

    def _record(self, batch: dict[str, Answer]) -> bytes:
        content = _encoded(_json(batch))
        # Neither what was torn before it nor damage to the line after it can reach a line.
        return b"\n%s %s\n" % (self._checksum(content), content)

    def _checksum(self, content: bytes) -> bytes:
        digest = self._digest.copy()
        digest.update(content)
        return digest.hexdigest()[:_CHECKSUM_DIGITS].encode()

    def _write(self, records: bytes) -> None:
        if not self.saved:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        # Closed each time: a network file system then says whether it took the data, and shows it.
        with open(self._path, "ab") as stream:
            stream.write(records if stream.tell() else self._heading + records)

    def _stop(self, reason: str) -> None:
        self._keeping = False
        self._report(f"{self._path}: {reason}: answers after the first {self.saved} are not kept")


def _samples(arguments: dict[Any, Any]) -> bool:
    """Return whether the text is sampled: by do_sample, or without that by a temperature."""
    sampling = arguments.get("do_sample")
    return bool(arguments.get("temperature") if sampling is None else sampling)


def _encoded(text: str) -> bytes:
    """Return the text in UTF-8, in which a lone surrogate has three bytes of its own."""
    return text.encode("utf-8", "surrogatepass")


def _answer(value: Any) -> Answer:
    answer: Answer = tuple(value) if isinstance(value, list) else value
    return answer


def _lines(directory: Path) -> Iterator[bytes]:
    """Yield the lines of all files, as far as they can be read."""
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        return
    for path in paths:
        # Another worker may have finished the row and removed it.
        with contextlib.suppress(OSError), open(path, "rb") as stream:
            yield from stream


ANSWERS = "answers"
