"""Runs a program in the sandbox, and takes its log and its output."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from oellm.core.regular_files import append_regular
from oellm.errors import MachineError
from oellm.sandbox.command import check_contained
from oellm.sandbox.contained import Contained, ContainedEnd, Layers
from oellm.sandbox.frames import FrameParser
from oellm.sandbox.job import BoxJob, ProgramEnd
from oellm.sandbox.job_plan import plan_job
from oellm.sandbox.output import OutputDirectory

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from oellm.sandbox.job_layer import process; process.main()"
)
# In namespaces of its own, a program finds its box here; on this machine, nothing is changed.
_BOX = "/tmp"  # noqa: S108
# How often the caller is asked whether to stop, and how long an ended sandbox may take to vanish.
_POLL_S = 0.2
_VANISH_S = 30.0
# Building the sandbox and copying the output may take this long besides the program.
_BESIDES_S = 300.0


def run_contained(
    contained: Contained,
    layers: Layers,
    log: Path | int,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> ContainedEnd:
    """Run a program with all layers that there are, and wait for the end of all its processes.

    `stop` is called several times a second; if it returns True, the program ends. What the program
    prints is appended to `log`, a path or a descriptor, up to the limit. Files that it left in
    OUTPUT are copied to its output directory only if it ended with status 0 and, if it has a guard,
    samples were isolated and none was not. Raises UsageError or MachineError if the program cannot
    be run so.
    """
    check_contained(contained)
    if bool(contained.image) != layers.container:
        raise MachineError(f"{contained.argv[0]}: no container, although it has an image")
    if os.geteuid() == 0 and not layers.user:
        raise MachineError("root must not run what a model has written: set sandbox_user")
    contained = contained._replace(guard=contained.guard and layers.guard)
    with _box(layers) as box:
        return _Run(contained, log, stop).follow(plan_job(contained, layers, box))


@contextlib.contextmanager
def _box(layers: Layers) -> Iterator[str]:
    """Provide the directory that the box takes the place of."""
    is_hidden = layers.container and os.path.realpath(layers.runtime).startswith(f"{_BOX}/")
    if layers.namespaces and not is_hidden:
        yield _BOX
        return
    box = tempfile.mkdtemp(prefix="oellm-sandbox-")
    try:
        if layers.user:
            os.chown(box, *layers.user)
        yield box
    finally:
        _remove(box)


def _remove(box: str) -> None:
    """Remove a directory, whatever a program has made of the permissions in it."""
    for directory, names, _ in os.walk(box):
        for name in names:
            path = os.path.join(directory, name)
            if stat.S_ISDIR(os.lstat(path).st_mode):
                with contextlib.suppress(OSError):
                    os.chmod(path, 0o700)
    shutil.rmtree(box, ignore_errors=True)


class _Run:
    """One program in the sandbox, as its caller sees it."""

    def __init__(self, contained: Contained, log: Path | int, stop: Callable[[], bool]) -> None:
        self._contained = contained
        self._log_place = log
        self._stop = stop
        self._log_left = contained.limits.log_bytes

    def follow(self, job: BoxJob) -> ContainedEnd:
        """Start the job layer, and take what it sends until it has ended."""
        start = time.monotonic()
        process = _start_job_layer()
        reason = ""
        output = OutputDirectory(self._contained.output, self._contained.limits)
        try:
            assert process.stdin and process.stdout and process.stderr
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(job.to_json())
            with _open_log(self._log_place) as log:
                reason = self._take(process, log, output)
        finally:
            process.kill()
            process.wait()
            output.close()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        end = output.end
        if end is None or reason:
            end = ProgramEnd(-1, reason or "the sandbox's own process has crashed; see the log")
        return self._describe(end, output, time.monotonic() - start)

    def _take(
        self, process: subprocess.Popen[bytes], log: IO[bytes], output: OutputDirectory
    ) -> str:
        """Take log and output until both end; return why the program was ended from here."""
        assert process.stdout and process.stderr
        parser = FrameParser()
        deadline = time.monotonic() + self._contained.limits.seconds + _BESIDES_S
        reason = ""
        with selectors.DefaultSelector() as selector:
            for pipe in (process.stdout, process.stderr):
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(_POLL_S):
                    data = os.read(key.fd, 1 << 18)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stderr:
                        self._log(log, data)
                    else:
                        output.take(parser.feed(data))
                is_late = time.monotonic() > deadline
                if reason and is_late:
                    break
                if not reason and (is_late or self._stop()):
                    reason = "the sandbox's own process did not answer" if is_late else "stopped"
                    process.kill()
                    deadline = time.monotonic() + _VANISH_S
        return reason

    def _log(self, log: IO[bytes], data: bytes) -> None:
        if self._log_left > 0:
            log.write(data[: self._log_left])
            self._log_left -= len(data)
            if self._log_left <= 0:
                log.write(b"\n[the log's limit is reached]\n")

    def _describe(self, end: ProgramEnd, output: OutputDirectory, seconds: float) -> ContainedEnd:
        status, reason = end.status, end.reason
        if status > 0:
            reason = f"it ended with status {status}"
        elif (
            status == 0
            and self._contained.guard
            and not end.is_guarded(needs_samples=self._contained.needs_samples)
        ):
            status = -1
            reason = "the guard has isolated no sample, so that none can have run protected"
            if end.error:
                reason = f"the guard could not isolate a sample: {end.error}"
        return ContainedEnd(
            status=status,
            reason=reason,
            seconds=end.seconds or seconds,
            copied=tuple(output.copied),
            refused=tuple(output.refused),
            samples=end.samples,
        )


def _open_log(place: Path | int) -> IO[bytes]:
    if isinstance(place, int):
        return os.fdopen(os.dup(place), "wb", buffering=0)
    return append_regular(place)


def _start_job_layer() -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[2])
    variables = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOT, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
        start_new_session=True,
    )
