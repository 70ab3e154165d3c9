"""Result and failure files of a run directory: writing, checking, setting aside.

A result is the framework's own result at top level plus the key `oellm`, which schema.json
describes in its table `result`.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from oellm.core import atomic, json_codec
from oellm.core.redaction import redact_json

T = TypeVar("T")
Result = dict[str, Any]
# The documents with prompts and answers, by task.
Samples = Mapping[str, list[Any]]

_NUMBERS = (int, float)
# What os.link raises on a file system without hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# What other workers do at the same time is over before so many tries.
_TRIES = 10
_LEFTOVER = re.compile(r"\.(\w+)\.jsonl?\.([\w-]+)\.tmp")


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
        """Return where the result of a row is."""
        return self.directory / "results" / f"{eval_id}.json"

    def failure_path(self, eval_id: str) -> Path:
        """Return where the failure of a row is."""
        return self.directory / "failures" / f"{eval_id}.json"

    def samples_path(self, eval_id: str) -> Path:
        """Return where the samples of a row are."""
        return self.directory / "samples" / f"{eval_id}.jsonl"

    def result_names(self) -> frozenset[str]:
        """Return the names of the files that are where results are."""
        try:
            return frozenset(os.listdir(self.directory / "results"))
        except FileNotFoundError:
            return frozenset()

    def valid_result(self, eval_id: str) -> Result | None:
        """Return the result of a row, or None where there is none that is valid."""
        result = _load(self.result_path(eval_id))
        return result if result is not None and not problem(result, eval_id) else None

    def set_aside(self, eval_id: str) -> Path | None:
        """Rename a result file that is not valid; return its new path, None where there is none."""
        path = self.result_path(eval_id)
        stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S%f")
        aside = path.with_name(f"{path.name}.invalid-{stamp}")
        try:
            with open(path, "rb") as stream:
                # Or another worker does the same now, and a valid result is there before the
                # rename. Not every file system has locks.
                with contextlib.suppress(OSError):
                    fcntl.flock(stream, fcntl.LOCK_EX)
                is_there = os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
                if not is_there or not _content_problem(stream.read(), eval_id):
                    return None
                os.replace(path, aside)
        except FileNotFoundError:
            return None
        return aside

    def write_result(self, result: Result, samples: Samples | None = None) -> bool:
        """Write a result, with its samples, unless the row has a valid one; return whether.

        Of workers that evaluated the same row the first to write keeps its files; the others leave
        none. A result is read back and checked before it gets its name; then the failure of an
        earlier attempt is removed. Raises ValueError where the result is not valid; nothing of it
        is left. Samples are JSON lines, one for each document and task, each with its task's name.
        The result's timing, if it has any, gets the seconds of all but its own file, as writing_s.
        """
        eval_id = result["oellm"]["eval_id"]
        is_ours = _repeated(lambda: self._write_first(eval_id, result, samples))
        if is_ours:
            self.failure_path(eval_id).unlink(missing_ok=True)
        return is_ours

    def recover(self, eval_ids: Collection[str]) -> None:
        """Clear away what killed workers left of these rows' results and samples.

        The samples of a result that is in place get their name, all else is removed. Where a
        worker still writes, it writes again.
        """
        for eval_id, attempt in (*self._leftovers("results"), *self._leftovers("samples")):
            if eval_id in eval_ids:
                staged = self._staged(eval_id, attempt)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samefile(staged.result, self.result_path(eval_id)):
                        os.replace(staged.samples, self.samples_path(eval_id))
                staged.remove()

    def write_failure(self, record: Result) -> None:
        """Write the record of a failed attempt, counting the attempts before it.

        Not where another worker has evaluated the row meanwhile.
        """
        if self.valid_result(record["oellm"]["eval_id"]) is not None:
            return
        path = self.failure_path(record["oellm"]["eval_id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        before = _load(path) or {}
        attempts = before.get("oellm", {}).get("failure", {}).get("attempts", 0)
        record["oellm"]["failure"]["attempts"] = attempts + 1
        atomic.write_file(path, _encoded(record))

    def _write_first(self, eval_id: str, result: Result, samples: Samples | None) -> bool:
        staged = self._staged(eval_id, atomic.new_attempt())
        started = time.perf_counter()
        try:
            if samples is not None:
                staged.samples.parent.mkdir(parents=True, exist_ok=True)
                atomic.stage(staged.samples, lambda stream: _write_samples(stream, samples))
            staged.result.parent.mkdir(parents=True, exist_ok=True)
            if "timing" in result["oellm"]:
                # Once for the time that it takes, which is a part of it.
                _encoded(result)
                seconds = round(time.perf_counter() - started, 6)
                result["oellm"]["timing"]["writing_s"] = seconds
            atomic.stage(staged.result, lambda stream: stream.write(_encoded(result)))
            if reason := _content_problem(staged.result.read_bytes(), eval_id):
                raise ValueError(f"the result is not valid: {reason}")
            try:
                if not self._link(eval_id, staged.result):
                    return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return self._replace(eval_id, staged)
            # Only now: they are those of the result that is there. `recover` does it for a worker
            # that is killed here.
            if samples is not None:
                self._place_samples(eval_id, staged.samples, samples)
            return True
        finally:
            staged.remove()

    def _link(self, eval_id: str, staged: Path) -> bool:
        """Give a staged result its name unless there is a valid one; return whether."""
        path = self.result_path(eval_id)
        for _ in range(_TRIES):
            try:
                os.link(staged, path)
                return True
            except FileExistsError:
                # On NFS this is said, too, where the answer to a link that was made got lost.
                if os.stat(staged).st_nlink > 1:
                    return True
            if self.valid_result(eval_id) is not None:
                return False
            self.set_aside(eval_id)
        raise FileExistsError(errno.EEXIST, "no result, and it cannot be set aside", str(path))

    def _replace(self, eval_id: str, staged: _Staged) -> bool:
        """Do the same without hard links, where two workers that write at once both may succeed."""
        if self.valid_result(eval_id) is not None:
            return False
        self.set_aside(eval_id)
        # First the samples: the row of a worker that is killed in between is evaluated again.
        if staged.samples.exists():
            os.replace(staged.samples, self.samples_path(eval_id))
        os.replace(staged.result, self.result_path(eval_id))
        return True

    def _place_samples(self, eval_id: str, staged: Path, samples: Samples) -> None:
        def place() -> None:
            if not staged.exists():
                atomic.stage(staged, lambda stream: _write_samples(stream, samples))
            os.replace(staged, self.samples_path(eval_id))

        _repeated(place)

    def _staged(self, eval_id: str, attempt: str) -> _Staged:
        paths = (self.result_path(eval_id), self.samples_path(eval_id))
        return _Staged(*(atomic.staging_path(path, attempt) for path in paths))

    def _leftovers(self, directory: str) -> Iterator[tuple[str, str]]:
        """Yield the row and the attempt of each file that has not got its name."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.directory / directory):
                if match := _LEFTOVER.fullmatch(name):
                    yield match[1], match[2]


def problem(result: Any, eval_id: str | None = None) -> str:
    """Return what makes a result invalid, empty where it is valid.

    Valid: our record says done, its eval_id is the expected one, there is at least one metric,
    the value of every metric is a finite number, and n_samples, where it is known, is positive.
    """
    record = result.get("oellm") if isinstance(result, dict) else None
    if not isinstance(record, dict):
        return "it has no key oellm"
    if eval_id is not None and record.get("eval_id") != eval_id:
        return f"its eval_id is {record.get('eval_id')!r}"
    if record.get("status") != "done":
        return f"its status is {record.get('status')!r}"
    metrics = record.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        return "it has no metrics"
    return next(filter(None, map(_metric_problem, metrics)), "")


def _repeated(action: Callable[[], T]) -> T:
    """Return what an action returns, when no other worker's `recover` removes its files."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(FileNotFoundError):
            return action()
    return action()


def _metric_problem(metric: Any) -> str:
    if not isinstance(metric, dict):
        return f"the value of {metric} is None"
    # Types as JSON has them, where true is no number; but a worker's may be NumPy's, too.
    value: Any = metric.get("value")
    counted: Any = metric.get("n_samples")
    is_number = type(value) in _NUMBERS or isinstance(value, float)
    if not is_number or not math.isfinite(value):
        return f"the value of {metric.get('metric')} is {value!r}"
    if counted is not None and (type(counted) is not int or counted <= 0):
        return f"n_samples of {metric.get('metric')} is {counted!r}"
    return ""


def _content_problem(content: bytes, eval_id: str) -> str:
    """Return what makes the content of a result file invalid, empty where it is valid."""
    try:
        return problem(json_codec.loads(content), eval_id)
    except ValueError as error:
        return f"it is not JSON: {error}"


def _encoded(record: Result) -> bytes:
    return redact_json(json_codec.dumps(record, indent=True)) + b"\n"


def _write_samples(stream: BinaryIO, samples: Samples) -> None:
    for task, documents in samples.items():
        for sample in documents:
            stream.write(redact_json(json_codec.dumps({"task": task, **sample})) + b"\n")


def _load(path: Path) -> Result | None:
    try:
        loaded = json_codec.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None
