"""The lock of a run directory: one oe-submit at a time looks and submits.

RUN_DIR/submit.lock holds, as JSON, who has it. It is a file that only one can create, not a lock
of the system: not every shared file system has those.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from oellm.core import atomic, json_codec
from oellm.core.paths import user_name
from oellm.errors import ExitStatus, InputError, OellmError

LOCK = "submit.lock"
# Seconds without a sign of life after which the lock of another host is taken over.
STALE_S = 900.0
# Seconds to wait for another process.
_PATIENCE_S = 30.0
_PAUSE_S = 0.1


class LockedError(OellmError):
    """Another process has the lock."""

    status = ExitStatus.TRY_AGAIN


class SubmitLock:
    """A context in which no other process submits this run.

    Entering raises LockedError where another process keeps the lock for half a minute, and
    InputError where the directory may not be written.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / LOCK
        self._content = b""

    def __enter__(self) -> SubmitLock:
        # With a new token each time, so that no two locks are ever the same.
        self._content = json_codec.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": _started(os.getpid()),
                "user": user_name(),
                "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                "token": atomic.new_attempt(),
            }
        )
        deadline = time.monotonic() + _PATIENCE_S
        while not self._made():
            held = self._held()
            if held is not None and self._is_stale(held):
                self._remove_stale(held)
            if time.monotonic() > deadline:
                raise LockedError(f"{self._path}: {_holder(held)}; try again later")
            time.sleep(_PAUSE_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._held() == self._content:
            self._path.unlink(missing_ok=True)

    def refresh(self) -> None:
        """Give a sign of life."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._path)

    def _made(self) -> bool:
        """Create the file, and return whether it was not there."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        except OSError as error:
            reason = f"cannot submit what cannot be written: {error.strerror}"
            raise InputError(reason, str(self._path.parent)) from None
        with open(descriptor, "wb") as stream:
            stream.write(self._content)
        return True

    def _held(self) -> bytes | None:
        """Return what the file says, None where there is none."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def _is_stale(self, held: bytes) -> bool:
        holder = _parsed(held)
        if holder.get("host") == socket.gethostname():
            return _started(holder.get("pid")) != holder.get("started")
        try:
            return time.time() - self._path.stat().st_mtime > STALE_S
        except FileNotFoundError:
            return False

    def _remove_stale(self, held: bytes) -> None:
        """Remove a stale lock, unless another process is about to.

        Of all that found it stale one makes the file of this name, and is alone while it looks
        whether that lock is still the one that is there.
        """
        token = str(_parsed(held).get("token", "unreadable"))
        claim = self._path.with_name(f"{LOCK}.{token}")
        try:
            os.close(os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - claim.stat().st_mtime > STALE_S:
                    claim.unlink()
            return
        try:
            if self._held() == held:
                self._path.unlink()
        finally:
            claim.unlink()


def _parsed(held: bytes) -> dict[str, object]:
    """Return what the file says; nothing where its owner has only just created it."""
    try:
        holder = json_codec.loads(held)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _holder(held: bytes | None) -> str:
    holder = _parsed(held or b"")
    if not holder:
        return "another oe-submit has it"
    return (
        f"another oe-submit has it since {holder.get('since')}: process {holder.get('pid')} "
        f"of {holder.get('user')} on {holder.get('host')}"
    )


def _started(pid: object) -> str:
    """Return when a process of this machine began, empty where there is none.

    In clock ticks since the machine did, with the machine's own beginning.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The second field, the name, may have blanks and parentheses.
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else f"{boot} {fields[18]}"
