"""The job layer: a process that builds a sandbox, runs one program in it, and copies the output.

    this process    gives up root, enters user, mount and process namespaces, builds the box
    └ its child     the first process of the namespace: ends with it all that runs there
      └ the program that is, the container runtime

The child ends the program when it breaks a limit, and otherwise ends with it. The kernel then kills
all that is left in the namespace. Only after that, this process reads the output, so that nothing
can change it in the meantime.

Standard input has a job, standard output gets frames (frames.py), and standard error is the log.
Whatever this module needs, it imports at its start: afterwards, it may be a user that cannot read
Python.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time

from oellm.sandbox import frames, namespaces
from oellm.sandbox.contained import OUTPUT
from oellm.sandbox.guard import FAILED, STARTED
from oellm.sandbox.job import BoxJob, ProgramEnd
from oellm.sandbox.job_layer import usage
from oellm.sandbox.job_layer.box import (
    build_box,
    build_writable_places,
    name_user,
    permit_fuse,
    require_readable,
)
from oellm.sandbox.job_layer.host_root import ROOT, enter_root, finish_root
from oellm.sandbox.job_layer.leftovers import copy_regular_files

# How often limits are checked. In seconds.
_PAUSE_S = 0.05
# Without a process namespace, all processes of the machine must be looked at.
_LONG_PAUSE_S = 0.5
_NOT_STARTED = 126
_NAMESPACES = namespaces.USERS | namespaces.MOUNTS | namespaces.PIDS | namespaces.IPC
# The kernel kills these first if memory runs out.
_OOM_SCORE = "500"
# From this version on, the kernel counts the processes of each namespace.
_COUNTS_BY_NAMESPACE = (5, 14)
# The guard notes a short line for each sample. In bytes.
_MOST_NOTES = 2**24


def main() -> None:
    """Do the job that standard input has."""
    job = BoxJob.from_json(sys.stdin.buffer.read())
    try:
        _follow(job.parent)
        _enter(job)
        end = _run(job)
        end = _count_samples(job, end)
        if end.status == 0 and (not job.guard or end.is_guarded(needs_samples=job.needs_samples)):
            copy_regular_files(f"{job.box}/out", job.output_bytes, job.output_files)
    except OSError as error:
        end = ProgramEnd(-1, f"the sandbox could not be built: {error}")
    frames.send_end(end)


def _follow(parent: int) -> None:
    """End with the process that started this one."""
    namespaces.die_with_parent()
    if os.getppid() != parent:
        os._exit(1)


def _enter(job: BoxJob) -> None:
    """Become what the job says, and build its box."""
    os.chdir("/")
    # Only root can show another user what that user cannot reach.
    is_built_by_root = bool(job.user) and job.namespaces
    if is_built_by_root:
        namespaces.enter_namespaces(namespaces.MOUNTS)
        build_box(job)
        name_user(job.box, job.user)
        if not job.bare:
            permit_fuse(job.box)
    if job.user:
        namespaces.become_user(job.user[0], job.user[1])
    if job.namespaces:
        namespaces.enter_namespaces(_NAMESPACES | (namespaces.NETWORK if job.bare else 0))
    if not is_built_by_root:
        build_box(job)
    build_writable_places(job)
    require_readable(job)
    if job.namespaces and job.bare:
        namespaces.start_loopback()
        finish_root(job)
    # A change of the user, or of its privileges, has made the kernel forget this.
    _follow(job.parent)


def _run(job: BoxJob) -> ProgramEnd:
    """Run the program within its limits, and wait for the end of all its processes."""
    if not job.namespaces:
        namespaces.adopt_orphans()
        end = _watch(job)
        usage.end_descendants()
        return end
    received, sent = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(received)
            namespaces.die_with_parent()
            namespaces.require_reader(sent)
            os.write(sent, _be_first(job).to_json())
        finally:
            os._exit(0)
    os.close(sent)
    text = b""
    while part := os.read(received, 1 << 16):
        text += part
    os.waitpid(child, 0)
    return (
        ProgramEnd.from_json(text)
        if text
        else ProgramEnd(-1, "its namespace was ended from outside")
    )


def _be_first(job: BoxJob) -> ProgramEnd:
    """Be the first process of the namespace."""
    try:
        namespaces.mount_proc()
        if job.bare:
            namespaces.mount_proc(f"{job.box}/{ROOT}/proc")
        return _watch(job)
    except OSError as error:
        return ProgramEnd(-1, f"the sandbox could not be built: {error}")


def _watch(job: BoxJob) -> ProgramEnd:
    """Start the program, and watch it until it ends or breaks a limit."""
    start = time.monotonic()
    program = os.fork()
    if program == 0:
        _start_program(job)
    pause = _PAUSE_S if job.namespaces else _LONG_PAUSE_S
    while True:
        seconds = time.monotonic() - start
        ended = _reap(program)
        if ended is not None:
            return ProgramEnd(ended if ended >= 0 else 128 - ended, "", seconds)
        reason = ""
        if seconds > job.seconds:
            reason = f"it ran longer than {job.seconds:g} s"
        elif usage.enforce_memory(job):
            reason = f"its processes used more than {job.memory_bytes} bytes of memory"
        if reason:
            return ProgramEnd(-1, reason, seconds)
        time.sleep(min(pause, 0.01 + seconds / 10))


def _reap(program: int) -> int | None:
    """Take note of ended children; return the program's exit status if it is one of them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return -signal.SIGKILL
        if pid == 0:
            return None
        if pid == program:
            return os.waitstatus_to_exitcode(status)


def _start_program(job: BoxJob) -> None:
    """Become the program; never returns."""
    try:
        namespaces.die_with_parent()
        os.setsid()
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        if job.namespaces:
            namespaces.forbid_privileges()
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(_OOM_SCORE)
        _limit(job)
        if job.bare and job.namespaces:
            enter_root(job)
        if job.bare:
            os.chdir(OUTPUT if job.namespaces else f"{job.box}/out")
        os.execvpe(job.command[0], job.command, job.environment)  # noqa: S606
    except BaseException as error:
        os.write(2, f"{job.command[0]}: {error}\n".encode())
    finally:
        os._exit(_NOT_STARTED)


def _limit(job: BoxJob) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if hard != resource.RLIM_INFINITY and hard < job.stack_bytes:
        text = f"it needs a hard stack limit of {job.stack_bytes} bytes; this machine's is {hard}"
        raise OSError(text)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    processes = job.processes
    if usage.kernel_version() < _COUNTS_BY_NAMESPACE:
        processes += usage.count_processes(os.getuid())
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if hard != resource.RLIM_INFINITY:
        processes = min(processes, hard)
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))


def _count_samples(job: BoxJob, end: ProgramEnd) -> ProgramEnd:
    """Add what the guard has noted about samples."""
    if not job.guard:
        return end
    # Without namespaces, a sample may have put something else there.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(f"{job.box}/state/samples", flags), "rb") as file:
        lines = file.read(_MOST_NOTES).decode(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith(FAILED)]
    return end._replace(samples=lines.count(STARTED), error="".join(errors[:1]))


if __name__ == "__main__":
    main()
