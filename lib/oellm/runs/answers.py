"""The answers that a model has given to the requests of a row, on disk until the row is done.

A row that was interrupted, even by SIGKILL, resumes from them. They are in DIRECTORY/EVAL_ID/, one
file per attempt, which only grows. Its first line identifies the row and the origin; each further
line holds a batch of the model, as a checksum and JSON. A batch is kept whole or not at all: the
rest of a partial one would be batched with other requests, which changes the last digits of scores.

Files are not flushed to the disk. If the process dies, the last second is lost; if the node dies,
also whatever the system had not written yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from oellm.core.log import Log
from oellm.core.paths import make_directory
from oellm.core.regular_files import DOCUMENT, append_regular, open_regular

# The answer to a loglikelihood, a loglikelihood_rolling and a generate_until request.
Answer = tuple[float, bool] | float | str

# Seconds between two writes.
INTERVAL = 1.0

_FORMAT = 1
_KEY_DIGITS = 32
_CHECKSUM_DIGITS = 16
# Only control characters are escaped: two escaped lone surrogates would come back as one character.
_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def request_key(kind: str, arguments: tuple[Any, ...]) -> str | None:
    """Return a digest of a request, or None if no other attempt can use its answer.

    That is so if its arguments are not plain JSON (an image), and if the text is sampled:
    repetitions of such a request look the same, but each must draw a text of its own.
    """
    digest = hashlib.sha256(kind.encode())
    for argument in arguments:
        if isinstance(argument, str):
            # Hashing a prompt takes less time than encoding it as JSON.
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


def remove_answers(directory: Path, eval_id: str) -> None:
    """Remove the answers of all attempts at a row that is done.

    Another worker that evaluates the same row then keeps no more answers. If it creates its first
    file at this very moment, it
    removes that file itself when it is done.
    """
    shutil.rmtree(directory / eval_id, ignore_errors=True)


def kept_bytes(directory: Path, eval_id: str) -> int:
    """Return the size of a row's answers in bytes; if it grows, the row makes progress."""
    # Another worker may finish the row and remove it.
    with contextlib.suppress(OSError), os.scandir(directory / eval_id) as entries:
        return sum(entry.stat().st_size for entry in entries)
    return 0


class Answers:
    """The answers of one row: those of earlier attempts, and those that this one adds.

    `directory` holds the answers of all rows. `origin` names what answers depend on besides the
    requests (the model, versions, the batch size); answers of another origin are not used. If
    answers cannot be written, `log` gets one message, and the row goes on without keeping more.
    """

    def __init__(self, directory: Path, eval_id: str, origin: str, log: Log) -> None:
        # The number of answers that this attempt has on disk.
        self.saved = 0
        # A name that no other process uses, on any machine.
        name = f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"
        self._path = directory / eval_id / name
        heading = {"format": _FORMAT, "eval_id": eval_id, "origin": origin}
        self._heading = _encoded(_json(heading)) + b"\n"
        # Checksums also cover the heading, so that no line passes for one of another row or origin.
        self._digest = hashlib.sha256(self._heading)
        self._log = log
        self._keeping = True
        self._batch: dict[str, Answer] = {}
        self._unwritten: list[dict[str, Answer]] = []
        self._next_write = time.monotonic() + INTERVAL

    def read_earlier(self) -> dict[str, Answer]:
        """Return the answers of earlier attempts by request key, skipping damaged lines."""
        answers: dict[str, Answer] = {}
        for line in _lines(self._path.parent):
            checksum, _, content = line.rstrip(b"\n").partition(b" ")
            if checksum == self._checksum(content):
                answers |= _parse_batch(content)
        return answers

    def add(self, key: str, answer: Answer) -> None:
        """Add an answer to the batch that the model is answering."""
        self._batch[key] = answer

    def complete(self) -> None:
        """End the batch, and write complete batches unless the last write was just now."""
        if self._batch and self._keeping:
            self._unwritten.append(self._batch)
        self._batch = {}
        if time.monotonic() >= self._next_write:
            self.flush()

    def flush(self) -> None:
        """Write the complete batches."""
        if not self._unwritten:
            return
        try:
            self._write(b"".join(map(self._record, self._unwritten)))
            self.saved += sum(map(len, self._unwritten))
        except OSError as error:
            self._stop(str(error.strerror))
        # A backend may return something that is no JSON.
        except TypeError as error:
            self._stop(str(error))
        self._unwritten = []
        self._next_write = time.monotonic() + INTERVAL

    def _record(self, batch: dict[str, Answer]) -> bytes:
        content = _encoded(_json(batch))
        # Line ends on both sides: a torn line before it, or damage after it, cannot reach it.
        return b"\n%s %s\n" % (self._checksum(content), content)

    def _checksum(self, content: bytes) -> bytes:
        digest = self._digest.copy()
        digest.update(content)
        return digest.hexdigest()[:_CHECKSUM_DIGITS].encode()

    def _write(self, records: bytes) -> None:
        if not self.saved:
            make_directory(self._path.parent.parent)
            make_directory(self._path.parent)
        # Closed each time: only then does a network file system report errors, and show the data to
        # other machines.
        with io.BufferedWriter(append_regular(self._path)) as stream:
            stream.write(records if stream.tell() else self._heading + records)

    def _stop(self, reason: str) -> None:
        self._keeping = False
        self._log(f"{self._path}: {reason}: answers after the first {self.saved} are not kept")


def _samples(arguments: dict[Any, Any]) -> bool:
    """Return whether the text is sampled: by do_sample, or without that by a temperature."""
    sampling = arguments.get("do_sample")
    return bool(arguments.get("temperature") if sampling is None else sampling)


def _encoded(text: str) -> bytes:
    """Return the text in UTF-8, with lone surrogates as three bytes each."""
    return text.encode("utf-8", "surrogatepass")


def _parse_batch(content: bytes) -> dict[str, Answer]:
    """Return the answers on a line; none if somebody else made up the line and its checksum."""
    try:
        batch = json.loads(content.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(batch, dict) or not all(map(_is_answer, batch.values())):
        return {}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in batch.items()}


def _is_answer(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) == 2 and type(value[0]) in (int, float) and type(value[1]) is bool
    return type(value) in (int, float, str)


def _lines(directory: Path) -> Iterator[bytes]:
    """Yield the lines of all files that can be read."""
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        return
    for path in paths:
        # Another worker may have finished the row and removed the file.
        with contextlib.suppress(OSError), open_regular(path) as stream:
            yield from iter(partial(stream.readline, DOCUMENT), b"")
