"""The guard: each sample of an evaluator runs in namespaces of its own.

The evaluators of code_eval, bigcode, evalplus and bigcodebench start a process for each sample,
whose target is a function named `unsafe_execute`. In a container, this module is `sitecustomize`
on PYTHONPATH (guard_files.py). It gives each of these processes a user, process, mount, network and
IPC namespace, an own /proc, a session, limits, and an empty file system in memory in place of all
that the evaluator can write. Nothing in a sample can reach the evaluator:

- It shares no memory with it, and has no connection to it: stand_ins.py says how it reports.
- Every file descriptor is closed but the pipe for that report.

If one of these steps fails, the sample does not run, and the error counts against the whole row.

This module uses the standard library alone, and runs on Python 3.9 and newer.
"""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping

from oellm.sandbox import namespaces, stand_ins

# The variable that holds the limits (contained.SampleLimits), as `name=number;name=number`.
LIMITS = "OELLM_GUARD_LIMITS"
# The variable that names a file that gets a line for each sample.
COUNTS = "OELLM_GUARD_COUNTS"
# The variable that names what the evaluator can write, separated by colons.
HIDDEN = "OELLM_GUARD_HIDDEN"
STARTED, FAILED = "sample", "error"

_TARGET = "unsafe_execute"
# The size of all that a sample may send, and the status of one that was not isolated.
_MOST_SENT = 1 << 20
_NOT_ISOLATED = 125
_NAMESPACE_LIMIT = "/proc/sys/user/max_user_namespaces"

_Limits = Mapping[str, int]
_Process = multiprocessing.process.BaseProcess


def install() -> None:
    """Isolate all samples that this process and its forks will start."""
    run = _Process.run

    def run_guarded(process: _Process) -> None:
        target = getattr(process, "_target", None)
        if getattr(target, "__name__", "") == _TARGET:
            _run_isolated(process, run)
        else:
            run(process)

    _Process.run = run_guarded  # type: ignore[method-assign, assignment]


def _run_isolated(process: _Process, run: Callable[[_Process], None]) -> None:
    """Run a sample, and wait for it, in the process that multiprocessing has started for it."""
    limits = {
        name: int(number)
        for name, _, number in (pair.partition("=") for pair in os.environ[LIMITS].split(";"))
    }
    counts = os.open(os.environ[COUNTS], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    received, sent = os.pipe()
    real = stand_ins.replace_arguments(process, sent)
    try:
        kinds = namespaces.USERS | namespaces.PIDS | namespaces.NETWORK | namespaces.IPC
        namespaces.enter_namespaces(kinds | namespaces.UTS)
        pid = os.fork()
    except OSError as error:
        _give_up(counts, error)
    if pid == 0:
        os.close(received)
        _be_sample(process, run, limits=limits, descriptors=(counts, sent))
    os.close(sent)
    namespaces.die_with_parent()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits["seconds"])
    lines = _read_lines(received, pid)
    _, ended = os.waitpid(pid, 0)
    status = os.waitstatus_to_exitcode(ended)
    with contextlib.suppress(*stand_ins.NOT_SENT):
        for line in lines:
            stand_ins.receive(line, real)
    if status:
        os._exit(status & 255)


def _read_lines(pipe: int, pid: int) -> list[bytes]:
    """Read what a sample sends until it ends; end it if that is too much."""
    data = b""
    while part := os.read(pipe, 1 << 16):
        data += part
        if len(data) > _MOST_SENT:
            os.kill(pid, signal.SIGKILL)
            return []
    # Without its end, the last line is not whole.
    return data.split(b"\n")[:-1]


def _be_sample(
    process: _Process,
    run: Callable[[_Process], None],
    *,
    limits: _Limits,
    descriptors: tuple[int, int],
) -> None:
    """Be the first process of the namespaces: with its end, all others in them end."""
    counts, sent = descriptors
    try:
        namespaces.die_with_parent()
        namespaces.require_reader(sent)
        os.setsid()
        _hide_evaluator(limits)
        os.write(counts, f"{STARTED}\n".encode())
    except BaseException as error:
        _give_up(counts, error)
    _close_others(sent)
    status = 1
    try:
        run(process)
        status = 0
    finally:
        # Neither the clean-up of the evaluator, from which this is a fork, nor its traceback.
        os._exit(status)


def _hide_evaluator(limits: _Limits) -> None:
    """Leave nothing that this process can write, or misuse, but an empty file system in memory."""
    namespaces.enter_namespaces(namespaces.MOUNTS)
    namespaces.start_loopback()
    namespaces.make_read_only("/")
    namespaces.mount_proc()
    first, *others = [path for path in os.environ[HIDDEN].split(":") if os.path.isdir(path)]
    namespaces.mount_tmpfs(first, size=limits["file_bytes"], files=limits["files"] + len(others))
    for number, path in enumerate(others):
        place = os.path.join(first, f".{number}")
        os.mkdir(place, 0o700)
        namespaces.bind(place, path)
    for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"):
        if name in os.environ:
            # One that no tmpfs has replaced cannot be written.
            with contextlib.suppress(OSError):
                os.makedirs(os.environ[name], exist_ok=True)
    # Where multiprocessing of the evaluator has its sockets.
    getattr(multiprocessing.process.current_process(), "_config", {}).pop("tempdir", None)
    os.chdir(first)
    # In a further namespace, this process would have capabilities again.
    with contextlib.suppress(OSError), open(_NAMESPACE_LIMIT, "w") as file:
        file.write("0")
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    namespaces.forget_shared_memory()
    namespaces.forbid_privileges()
    for what, limit in _resource_limits(limits):
        _, hard = resource.getrlimit(what)
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (least, least))
    namespaces.drop_capabilities()


def _resource_limits(limits: _Limits) -> Iterator[tuple[int, int]]:
    yield resource.RLIMIT_NPROC, limits["processes"]
    yield resource.RLIMIT_FSIZE, limits["file_bytes"]
    yield resource.RLIMIT_CPU, limits["cpu_seconds"]
    yield resource.RLIMIT_CORE, 0
    if limits["address_space_bytes"]:
        yield resource.RLIMIT_AS, limits["address_space_bytes"]


def _close_others(pipe: int) -> None:
    """Close all descriptors but a pipe; standard input and output lead nowhere."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor not in (0, 1, 2, pipe):
            # The directory that was just listed is closed already.
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _give_up(counts: int, error: BaseException) -> None:
    """Note why a sample could not be isolated, and end this process."""
    with contextlib.suppress(OSError):
        os.write(counts, f"{FAILED} {error}\n".encode())
    os._exit(_NOT_ISOLATED)


if __name__ == "sitecustomize" and {LIMITS, COUNTS, HIDDEN} <= os.environ.keys():
    install()
