"""The lock of a run directory: one oe-submit at a time looks and submits.

RUN_DIR/submit.lock says, as JSON, who has the lock. It is a file that only one process can create,
not a lock of the operating system, which not every shared file system offers.

    free ──create submit.lock, which fails if it exists──► held ──remove submit.lock──► free
                                                            │
                              its process on this host is gone, or
                              its host gave no sign of life for 15 minutes
                                                            ▼
                                                          stale
              create the claim file submit.lock.TOKEN, which fails if it exists
                      │ created                             │ exists
                      ▼                                     ▼
       read submit.lock again; if its token is       leave it to the process that made the claim;
       still TOKEN, remove it; remove the claim      remove a claim that is itself stale
                      └──────────────► try again ◄──────────┘

TOKEN is the token of the stale lock, and each lock has a new one. Without the claim, a process that
was slow after it found the lock stale could remove the lock that another process took since then.
Only the process that creates the claim file may remove the lock, after checking that it is still
the same one.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import socket
import time
from pathlib import Path
from types import TracebackType

from oellm.core import atomic, json_codec
from oellm.core.paths import user_name
from oellm.core.regular_files import STATE, RefusedFileError, read_regular
from oellm.errors import ExitStatus, InputError, OellmError
from oellm.runs import provenance
from oellm.runs.run_directory import LOCK

# Seconds without a sign of life after which the lock of another host is taken over.
_STALE_S = 900.0
# Seconds to wait for another process.
_PATIENCE_S = 30.0
_PAUSE_S = 0.1
_TOKEN = re.compile(r"[\w-]{1,64}", re.ASCII)


class LockedError(OellmError):
    """Another process has the lock."""

    status = ExitStatus.TRY_AGAIN


class SubmitLock:
    """A context in which no other process submits this run.

    Entering raises LockedError if another process keeps the lock for half a minute, and InputError
    if the directory cannot be written.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / LOCK
        self._content = b""

    def __enter__(self) -> SubmitLock:
        self._content = json_codec.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": _process_start(os.getpid()),
                "user": user_name(),
                "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                "token": atomic.new_attempt(),
            }
        )
        deadline = time.monotonic() + _PATIENCE_S
        while not self._create():
            held = self._read()
            if held is not None and _is_stale(self._path, held):
                self._remove_stale(held)
            if time.monotonic() > deadline:
                raise LockedError(f"{self._path}: {_describe_holder(held)}; try again later")
            time.sleep(_PAUSE_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._read() == self._content:
            self._path.unlink(missing_ok=True)

    def refresh(self) -> None:
        """Give a sign of life."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._path)

    def _create(self) -> bool:
        """Create the lock file; return False if it exists."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        except OSError as error:
            reason = f"cannot write the lock, so nothing is submitted: {error.strerror}"
            raise InputError(reason, str(self._path.parent)) from None
        try:
            with atomic.naming_file(self._path), open(descriptor, "wb") as stream:
                stream.write(self._content)
        except OSError:
            # Nobody could tell whose lock it is.
            self._path.unlink()
            raise
        return True

    def _read(self) -> bytes | None:
        """Return the content of the lock file, None if there is none."""
        try:
            return read_regular(self._path, STATE)
        except FileNotFoundError:
            return None
        except RefusedFileError as error:
            reason = f"no oe-submit has written this lock, for {error}; remove it"
            raise InputError(reason, str(self._path)) from None

    def _remove_stale(self, held: bytes) -> None:
        """Remove a stale lock, unless another process has claimed to do so."""
        # The name of the claim must not lead out of the directory.
        match = _TOKEN.fullmatch(str(_parse_holder(held).get("token")))
        claim = self._path.with_name(f"{LOCK}.{match[0] if match else 'unreadable'}")
        try:
            os.close(os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - claim.stat().st_mtime > _STALE_S:
                    claim.unlink()
            return
        try:
            if self._read() == held:
                self._path.unlink()
        finally:
            claim.unlink()


def is_run_locked(run_dir: Path) -> bool:
    """Return whether an oe-submit has the lock, as it does while it runs elements itself."""
    path = run_dir / LOCK
    try:
        held = read_regular(path, STATE)
    except OSError:
        return False
    return bool(_parse_holder(held)) and not _is_stale(path, held)


def _is_stale(path: Path, held: bytes) -> bool:
    holder = _parse_holder(held)
    if holder.get("host") == socket.gethostname():
        start = _process_start(holder.get("pid"))
        return not start or holder.get("started", start) != start
    try:
        # A time in the future says as little as one long ago.
        return abs(time.time() - path.stat().st_mtime) > _STALE_S
    except FileNotFoundError:
        return False


def _parse_holder(held: bytes) -> dict[str, object]:
    """Return what a lock file says; nothing if its owner has only just created it."""
    try:
        holder = json_codec.loads(held)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _describe_holder(held: bytes | None) -> str:
    holder = _parse_holder(held or b"")
    if not holder:
        return "another oe-submit has it"
    return (
        f"another oe-submit has held it since {holder.get('since')}: process {holder.get('pid')} "
        f"of {holder.get('user')} on {holder.get('host')}"
    )


def _process_start(pid: object) -> str:
    """Return when a process of this machine started, with the machine's boot; empty if none runs.

    Process ids are given again, also after a reboot.
    """
    ticks = provenance.start_ticks(str(pid))
    return "" if ticks is None else f"{provenance.boot_id()} {ticks}"
