"""The outputs of first stages: RUN/stages/KEY/STAGE/, which second stages read.

KEY is the identity of what the stage depends on, so rows may share an output. An output is a
directory with the program's files and `stage.json`, which says what they are and where they come
from. It is written as an attempt beside its name and gets the name whole. Several workers may write
the same output, and any of them may be killed at any time; the first one's output stays.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from oellm.core import atomic, json_codec
from oellm.core.paths import make_directory
from oellm.core.redaction import redact_json
from oellm.core.regular_files import RefusedFileError, open_regular, read_regular
from oellm.runs import provenance
from oellm.runs.run_directory import STAGES
from oellm.runs.stages.stage_record import DAMAGE, OutputFile, StageRecord

# The record of an output, in its directory.
RECORD = "stage.json"
_CHUNK = 2**20
_KEY = re.compile(r"[0-9a-f]{16}")
# The name of an attempt: .generate.HOST-PID-TICKS-RANDOM.tmp
_ATTEMPT = re.compile(r"\.(\w+)\.(.+)-(\d+)-(\d+)-[0-9a-f]{8}\.tmp", re.ASCII)
# Seconds after which the attempt of another machine has certainly ended.
_ABANDONED_S = 7 * 86400
# Retries to ride out concurrent workers.
_TRIES = 10
_IS_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
# What says that a file of an output is not there, or is another kind of file. After any other error
# the output may be whole: it cannot be read from here, or not now.
_IS_DAMAGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)


class InvalidStageError(ValueError):
    """The output of a stage is not valid; the text is the reason."""


class StageOutput:
    """A valid output: its directory, and its record."""

    def __init__(self, path: Path, record: StageRecord) -> None:
        self.path = path
        self.record = record

    def require_content(self) -> None:
        """Raise InvalidStageError if a file is not what the record says; reads all files.

        Raises OSError if a file cannot be read.
        """
        for name, file in self.record.files.items():
            with _telling_damage(f"{name}: "):
                found = _describe_file(self.path / name)
            if found != file:
                raise InvalidStageError(f"{name} is not the file that was written")


class StageStore:
    """The directory stages/ below one directory."""

    def __init__(self, directory: Path) -> None:
        self._root = directory / STAGES

    def path(self, key: str, stage: str) -> Path:
        """Return the directory of an output."""
        return self._root / key / stage

    def valid(self, key: str, stage: str) -> StageOutput | None:
        """Return an output, or None if there is no valid one, or none that can be read.

        Looks at the sizes of its files; `StageOutput.require_content` reads them.
        """
        try:
            return self.read(key, stage)
        except (InvalidStageError, OSError):
            return None

    def read(self, key: str, stage: str) -> StageOutput:
        """Return an output; raises InvalidStageError if it is not valid, and OSError.

        Looks at the sizes of its files; `StageOutput.require_content` reads them.
        """
        return _read(self.path(key, stage), key, stage)

    def new_attempt(self, key: str, stage: str) -> Path:
        """Make the directory of an attempt at an output and return it; raises OSError.

        What killed processes of this machine have left of other attempts is removed.
        """
        parent = self._root / key
        make_directory(self._root.parent)
        make_directory(self._root)
        make_directory(parent)
        self.remove_leftovers(key)
        own = f"{os.getpid()}-{provenance.start_ticks() or 0}-{os.urandom(4).hex()}"
        attempt = parent / f".{stage}.{socket.gethostname()}-{own}.tmp"
        attempt.mkdir(mode=0o755)
        return attempt

    def place(self, attempt: Path, record: StageRecord) -> StageOutput:
        """Give the output in an attempt its name, unless there is a valid one; return that.

        `record` describes it without its files. The attempt is gone afterwards. Everything in it
        but directories and regular files is removed. Raises InvalidStageError if the program wrote
        a file of the record's name, and OSError if it cannot be written.
        """
        if os.path.lexists(attempt / RECORD):
            raise InvalidStageError(f"the program has written a file {RECORD}, which is reserved")
        _remove_special_files(attempt)
        record = describe_files(record, attempt)
        content = redact_json(json_codec.dumps(record.to_json(), indent=True)) + b"\n"
        atomic.write_file(attempt / RECORD, content)
        try:
            return self._name(attempt, record)
        finally:
            shutil.rmtree(attempt, ignore_errors=True)

    def copy(self, output: StageOutput, record: StageRecord) -> StageOutput:
        """Place an output for another key as well: one start of a program may compute several."""
        attempt = self.new_attempt(record.key, record.stage)
        try:
            for name in output.record.files:
                target = attempt / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(output.path / name, target)
            return self.place(attempt, record)
        finally:
            shutil.rmtree(attempt, ignore_errors=True)

    def set_invalid_aside(self, key: str, stage: str) -> Path | None:
        """Rename what is in the place of an output unless it is valid; return its new path.

        Raises OSError, and leaves what is there, if that cannot be read.
        """
        return self._set_aside(key, stage, kind="invalid", finished=None)

    def set_stale_aside(self, output: StageOutput) -> Path | None:
        """Rename an output that is out of date; return its new path.

        Returns None, and leaves what is there, if it is another output by now.
        """
        record = output.record
        finished = record.timing.finished
        return self._set_aside(record.key, record.stage, kind="stale", finished=finished)

    def remove_leftovers(self, key: str) -> None:
        """Remove the attempts at outputs of a key whose processes have ended.

        Those of other machines count as ended after a week.
        """
        for name in self._attempts(key):
            if match := _ATTEMPT.fullmatch(name):
                path = self._root / key / name
                is_here = match[2] == socket.gethostname()
                is_running = provenance.start_ticks(int(match[3])) == int(match[4])
                if not is_running if is_here else _is_abandoned(path):
                    shutil.rmtree(path, ignore_errors=True)

    def keys(self) -> frozenset[str]:
        """Return the keys that have a directory."""
        try:
            return frozenset(filter(_KEY.fullmatch, os.listdir(self._root)))
        except OSError:
            return frozenset()

    def _attempts(self, key: str) -> Sequence[str]:
        try:
            return [name for name in os.listdir(self._root / key) if name.startswith(".")]
        except OSError:
            return []

    def _name(self, attempt: Path, record: StageRecord) -> StageOutput:
        """Give an attempt its name, unless there is a valid output; return what is there."""
        path = self.path(record.key, record.stage)
        for _ in range(_TRIES):
            try:
                # A directory replaces no other one, unless that is empty.
                os.rename(attempt, path)
                _flush_directory(path.parent)
                return StageOutput(path, record)
            except OSError as error:
                if error.errno not in _IS_TAKEN:
                    raise
            if (there := self.valid(record.key, record.stage)) is not None:
                return there
            self.set_invalid_aside(record.key, record.stage)
        reason = "not a valid output, and it cannot be set aside"
        raise FileExistsError(errno.EEXIST, reason, str(path))

    def _set_aside(self, key: str, stage: str, *, kind: str, finished: str | None) -> Path | None:
        """Rename an output if it is not valid, or if it is the one that finished at a time."""
        path = self.path(key, stage)
        stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S%f")
        aside = path.with_name(f"{stage}.{kind}-{stamp}")
        if not self._is_to_go(key, stage, finished):
            return None
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return None
        if not self._is_to_go(key, aside.name, finished):
            # Just now, another worker has put its output in this place.
            with contextlib.suppress(OSError):
                os.rename(aside, path)
            return None
        return aside

    def _is_to_go(self, key: str, name: str, finished: str | None) -> bool:
        """Return whether what is in a directory is no valid output, or one finished at a time."""
        path = self.path(key, name)
        try:
            output = _read(path, key, name.partition(".")[0])
            if finished is None:
                output.require_content()
        except InvalidStageError:
            return os.path.lexists(path)
        return finished is not None and output.record.timing.finished == finished


def describe_files(record: StageRecord, directory: Path) -> StageRecord:
    """Return a record with the files in a directory, which are flushed to the disk."""
    files = {name: _describe_file(directory / name, flush=True) for name in _names(directory)}
    return StageRecord(**{**vars(record), "files": files})


def _read(path: Path, key: str, stage: str) -> StageOutput:
    """Return the output in a directory; raises OSError, and InvalidStageError if it is damaged."""
    with _telling_damage():
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise InvalidStageError("it is no directory")
        content = read_regular(path / RECORD)
    try:
        record = StageRecord.from_json(json_codec.loads(content))
    except DAMAGE as error:
        raise InvalidStageError(str(error)) from None
    if (record.key, record.stage) != (key, stage):
        raise InvalidStageError(f"it is of {record.key}, stage {record.stage}")
    for name, file in record.files.items():
        if os.path.isabs(name) or ".." in name.split("/"):
            raise InvalidStageError(f"it names a file {name}")
        with _telling_damage(f"{name}: "):
            status = os.lstat(path / name)
        if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
            raise InvalidStageError(f"{name} is not the file that was written")
    return StageOutput(path, record)


@contextlib.contextmanager
def _telling_damage(place: str = "") -> Iterator[None]:
    """Raise InvalidStageError for an error that says that a file is not there, or no file."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, RefusedFileError) and error.errno not in _IS_DAMAGED:
            raise
        raise InvalidStageError(f"{place}{error.strerror or error}") from None


def _names(directory: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(directory):
        folders.sort()
        for name in sorted(names):
            yield os.path.relpath(os.path.join(folder, name), directory)


def _describe_file(path: Path, *, flush: bool = False) -> OutputFile:
    content, size = hashlib.sha256(), 0
    with open_regular(path) as stream:
        while chunk := stream.read(_CHUNK):
            content.update(chunk)
            size += len(chunk)
        if flush:
            os.fsync(stream.fileno())
    return OutputFile(size, content.hexdigest())


def _remove_special_files(directory: Path) -> None:
    """Remove links, pipes and the like: nothing that is read later may lead elsewhere."""
    for folder, folders, names in os.walk(directory):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                os.unlink(path)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target, follow_symlinks=False)


def _is_abandoned(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > _ABANDONED_S
    except OSError:
        return False


def _flush_directory(path: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
