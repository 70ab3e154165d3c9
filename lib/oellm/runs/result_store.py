"""Result, failure and sample files of a run directory: writing, checking, setting aside.

Several workers may evaluate the same row, and any of them may be killed at any time.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from oellm.core import atomic, json_codec
from oellm.core.display import parse_time
from oellm.core.paths import make_directory
from oellm.core.redaction import redact_json
from oellm.core.regular_files import DOCUMENT, RefusedFileError, open_regular, read_regular
from oellm.runs import result_file
from oellm.runs.result_file import InvalidResultError, Result, check_result
from oellm.runs.result_record import ResultRecord
from oellm.runs.run_directory import FAILURES, RESULTS, SAMPLES

T = TypeVar("T")
# The documents with prompts and answers, by task.
Samples = Mapping[str, list[Any]]

# The errors of os.link on a file system without hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# Retries to ride out concurrent workers.
_TRIES = 10
_LEFTOVER = re.compile(r"\.(\w+)\.jsonl?\.([\w-]+)\.tmp", re.ASCII)


@dataclass(frozen=True)
class WrittenResult:
    """A result that a worker has written.

    Attributes:
        is_ours: False if another worker's valid result was there first, which stays.
        content: The result as the bytes of a result file.
    """

    is_ours: bool
    content: bytes


@dataclass(frozen=True)
class RecordedFailure:
    """Why a row has no result, as its failure file says.

    Attributes:
        error: The class of the error.
        message: Its text.
        attempts: How often the row has failed.
        log: The log file of the last attempt, empty if unknown.
        finished: When that attempt ended.
        stage: The stage that failed; empty if the row has one.
    """

    error: str
    message: str
    attempts: int
    log: str
    finished: datetime.datetime
    stage: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RecordedFailure:
        """Read a failure file; raises KeyError, TypeError or ValueError if it is none."""
        record = result_file.read_record(dict(content))
        if (failure := record.failure) is None:
            raise ValueError("it does not say why the row failed")
        told = failure._asdict()
        del told["traceback"]
        return cls(**told, finished=parse_time(record.finished))


class _Staged(NamedTuple):
    """The files of one attempt to write a result, before they get their names."""

    result: Path
    samples: Path

    def remove(self) -> None:
        for path in self:
            path.unlink(missing_ok=True)


class ResultStore:
    """The directories results/, failures/ and samples/ below one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def result_path(self, eval_id: str) -> Path:
        """Return the path of a row's result."""
        return self.directory / RESULTS / f"{eval_id}.json"

    def failure_path(self, eval_id: str) -> Path:
        """Return the path of a row's failure file."""
        return self.directory / FAILURES / f"{eval_id}.json"

    def samples_path(self, eval_id: str) -> Path:
        """Return the path of a row's samples."""
        return self.directory / SAMPLES / f"{eval_id}.jsonl"

    def result_names(self) -> frozenset[str]:
        """Return the names of the files in results/."""
        return self._names(RESULTS)

    def failure_names(self) -> frozenset[str]:
        """Return the names of the files in failures/; none if that is no directory."""
        try:
            return self._names(FAILURES)
        except OSError:
            return frozenset()

    def valid_result(self, eval_id: str) -> Result | None:
        """Return the result of a row, or None if there is no valid one."""
        result = _read_object(self.result_path(eval_id))
        try:
            check_result(result, eval_id)
        except InvalidResultError:
            return None
        return result

    def has_valid_result(self, eval_id: str) -> bool:
        """Return whether a row has a valid result, without parsing the framework's part of it."""
        return self.valid_record(eval_id) is not None

    def valid_record(self, eval_id: str) -> ResultRecord | None:
        """Return our record of a row's valid result, or None if there is no such result.

        It has no provenance, unless that is all that tells what the scores were computed from.
        """
        try:
            content = read_regular(self.result_path(eval_id))
            result = result_file.parse_record(content)
            check_result(result, eval_id)
            if "contents" in result[result_file.KEY]:
                return result_file.read_record(result)
            return result_file.read_record(result_file.parse_record(content, with_provenance=True))
        except (OSError, InvalidResultError):
            return None

    def failure(self, eval_id: str) -> RecordedFailure | None:
        """Return what the failure file of a row says, or None if there is no readable one."""
        try:
            return RecordedFailure.from_json(_read_object(self.failure_path(eval_id)) or {})
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def set_aside(self, eval_id: str) -> Path | None:
        """Rename an invalid result file; return its new path, or None if there is no such file."""
        return self._set_aside(eval_id, "invalid", lambda content: not _is_valid(content, eval_id))

    def set_stale_aside(self, eval_id: str, finished: str) -> Path | None:
        """Rename a result that is out of date, and its samples; return the result's new path.

        Returns None, and leaves the result, unless it is the one that was finished at this time.
        """

        def is_stale(content: bytes) -> bool:
            try:
                record = result_file.read_record(result_file.parse_record(content))
                return record.finished == finished
            except (ValueError, KeyError, TypeError):
                return False

        aside = self._set_aside(eval_id, "stale", is_stale)
        if aside is not None:
            samples = self.samples_path(eval_id)
            suffix = aside.name.removeprefix(f"{eval_id}.json")
            with contextlib.suppress(FileNotFoundError):
                os.replace(samples, samples.with_name(samples.name + suffix))
        return aside

    def _set_aside(self, eval_id: str, kind: str, is_wrong: Callable[[bytes], bool]) -> Path | None:
        """Rename a result file that is wrong; return its new path, or None if there is none."""
        path = self.result_path(eval_id)
        stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S%f")
        aside = path.with_name(f"{path.name}.{kind}-{stamp}")
        try:
            with open_regular(path) as stream:
                # Without the lock, another worker could set the same file aside and put a valid
                # result in its place just before our rename. Not every file system has locks.
                with contextlib.suppress(OSError):
                    fcntl.flock(stream, fcntl.LOCK_EX)
                is_there = os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
                if not is_there or not is_wrong(stream.read(DOCUMENT)):
                    return None
                os.replace(path, aside)
        except (FileNotFoundError, RefusedFileError):
            return self._set_intruder_aside(path, aside)
        return aside

    def _set_intruder_aside(self, path: Path, aside: Path) -> Path | None:
        """Rename what no worker writes: a link, or what is no regular file."""
        try:
            if stat.S_ISREG(path.lstat().st_mode):
                return None
            os.replace(path, aside)
            if stat.S_ISREG(aside.lstat().st_mode):
                # Just now, another worker put its result in this place.
                with contextlib.suppress(FileExistsError):
                    os.link(aside, path, follow_symlinks=False)
                aside.unlink()
        except FileNotFoundError:
            return None
        return aside

    def write_result(self, result: Result, samples: Samples | None = None) -> WrittenResult:
        """Write a result, with its samples, unless the row has a valid one.

        If several workers have evaluated the same row, the first to write keeps its files and the
        others leave none. A result is read back and checked before it gets its name; then the
        failure of an earlier attempt is removed. Raises ValueError, and leaves nothing, if the
        result is not valid. Samples become JSON lines, one per document and task, each with its
        task's name. If the result has a timing, that gets as writing_s the seconds in which the
        samples were written and the framework's part of the result was encoded.
        """
        eval_id = result_file.read_record(result).eval_id
        written = _retry_missing_files(lambda: self._write_first(eval_id, result, samples))
        if written.is_ours:
            # A failure file that cannot be removed does not take the result away.
            with contextlib.suppress(OSError):
                self.failure_path(eval_id).unlink()
        return written

    def recover(self, eval_ids: Collection[str]) -> None:
        """Clear away what killed workers left of the results and samples of some rows.

        Samples whose result is in place get their name; all other leftovers are removed. A worker
        that is still writing writes again.
        """
        for eval_id, attempt in (*self._leftovers(RESULTS), *self._leftovers(SAMPLES)):
            if eval_id in eval_ids:
                staged = self._staged(eval_id, attempt)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samefile(staged.result, self.result_path(eval_id)):
                        os.replace(staged.samples, self.samples_path(eval_id))
                staged.remove()

    def write_failure(self, result: Result) -> bytes:
        """Write the record of a failed attempt, counting the attempts before it.

        Returns the content of the failure file. If another worker has evaluated the row by now,
        the file is not written.
        """
        record = result_file.read_record(result)
        if self.has_valid_result(record.eval_id):
            return result_file.encode_result(result)
        path = self.failure_path(record.eval_id)
        make_directory(path.parent)
        record.set_attempts(self._count_attempts(path) + 1)
        content = result_file.encode_result(result)
        atomic.write_file(path, content)
        return content

    def _count_attempts(self, path: Path) -> int:
        """Return how often a row has failed, as its failure file says."""
        ours = (_read_object(path) or {}).get(result_file.KEY)
        failure = ResultRecord(ours).failure if isinstance(ours, dict) else None
        # A damaged count is none that a row can reach.
        return min(max(0, failure.attempts), 10**6) if failure is not None else 0

    def _names(self, directory: str) -> frozenset[str]:
        try:
            return frozenset(os.listdir(self.directory / directory))
        except FileNotFoundError:
            return frozenset()

    def _write_first(self, eval_id: str, result: Result, samples: Samples | None) -> WrittenResult:
        staged = self._staged(eval_id, atomic.new_attempt())
        started = time.perf_counter()
        try:
            if samples is not None:
                make_directory(staged.samples.parent)
                atomic.stage(staged.samples, lambda stream: _write_samples(stream, samples))
            content = _encode_timed(result, started)
            make_directory(staged.result.parent)
            atomic.stage(staged.result, lambda stream: stream.write(content))
            try:
                check_result(result_file.parse_result(read_regular(staged.result)), eval_id)
            except InvalidResultError as error:
                raise ValueError(f"the result is not valid: {error}") from None
            try:
                if not self._link(eval_id, staged.result):
                    return WrittenResult(is_ours=False, content=content)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return WrittenResult(is_ours=self._replace(eval_id, staged), content=content)
            # Only now are these the samples of the result that is in place. If the worker is
            # killed here, `recover` does this.
            if samples is not None:
                self._place_samples(eval_id, staged.samples, samples)
            return WrittenResult(is_ours=True, content=content)
        finally:
            staged.remove()

    def _link(self, eval_id: str, staged: Path) -> bool:
        """Give a staged result its name unless there is a valid one; return whether it did."""
        path = self.result_path(eval_id)
        for _ in range(_TRIES):
            try:
                os.link(staged, path)
                return True
            except FileExistsError:
                # NFS also says this if the link was made but the answer got lost.
                if os.stat(staged).st_nlink > 1:
                    return True
            if self.valid_result(eval_id) is not None:
                return False
            self.set_aside(eval_id)
        raise FileExistsError(
            errno.EEXIST, "not a valid result, and it cannot be set aside", str(path)
        )

    def _replace(self, eval_id: str, staged: _Staged) -> bool:
        """Do the same without hard links; two workers that write at once may both succeed."""
        if self.valid_result(eval_id) is not None:
            return False
        self.set_aside(eval_id)
        # First the samples: if the worker is killed in between, the row is evaluated again.
        if staged.samples.exists():
            os.replace(staged.samples, self.samples_path(eval_id))
        os.replace(staged.result, self.result_path(eval_id))
        return True

    def _place_samples(self, eval_id: str, staged: Path, samples: Samples) -> None:
        def place() -> None:
            if not staged.exists():
                atomic.stage(staged, lambda stream: _write_samples(stream, samples))
            os.replace(staged, self.samples_path(eval_id))

        _retry_missing_files(place)

    def _staged(self, eval_id: str, attempt: str) -> _Staged:
        return _Staged(
            result=atomic.staging_path(self.result_path(eval_id), attempt),
            samples=atomic.staging_path(self.samples_path(eval_id), attempt),
        )

    def _leftovers(self, directory: str) -> Iterator[tuple[str, str]]:
        """Yield the row and the attempt of each file that has not got its name."""
        for name in self._names(directory):
            if match := _LEFTOVER.fullmatch(name):
                yield match[1], match[2]


def _retry_missing_files(action: Callable[[], T]) -> T:
    """Return what an action returns, repeating it if another worker's `recover` removes files."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(FileNotFoundError):
            return action()
    return action()


def _encode_timed(result: Result, started: float) -> bytes:
    """Return the content of a result file; its timing gets the seconds since `started`."""
    native = {key: value for key, value in result.items() if key != result_file.KEY}
    encoded = result_file.encode_native(native)
    record = result_file.read_record(result)
    record.set_writing_time(time.perf_counter() - started)
    return result_file.join_result(encoded, record.content)


def _is_valid(content: bytes, eval_id: str) -> bool:
    try:
        check_result(result_file.parse_result(content), eval_id)
    except InvalidResultError:
        return False
    return True


def _write_samples(stream: BinaryIO, samples: Samples) -> None:
    for task, documents in samples.items():
        for sample in documents:
            stream.write(redact_json(json_codec.dumps({"task": task, **sample})) + b"\n")


def _read_object(path: Path) -> Result | None:
    """Return the JSON object in a file, None if there is none."""
    try:
        content = json_codec.loads(read_regular(path))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
