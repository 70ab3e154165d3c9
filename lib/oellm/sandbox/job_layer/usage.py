"""What the processes of a sandbox use, read from /proc, and its limits."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from typing import NamedTuple

from oellm.sandbox.job import BoxJob

_FIELD = re.compile(rb"^(PPid|Uid|NSpid|VmRSS|Threads):\s*(.*)$", re.MULTILINE)
_PSS = re.compile(rb"^Pss:\s*(\d+) kB$", re.MULTILINE)


class ProcessUsage(NamedTuple):
    """What one process uses.

    Attributes:
        pid: Its number.
        parent: The number of its parent.
        user: The number of its user.
        numbers: Its numbers in its namespaces, from the outermost that can be seen here.
        resident: Resident memory in bytes; what it shares with others counts for each of them.
        threads: Its threads.
    """

    pid: int
    parent: int
    user: int
    numbers: tuple[int, ...]
    resident: int
    threads: int


def read_usage() -> Iterator[ProcessUsage]:
    """Yield what each process that /proc shows uses, besides this one."""
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            fields = dict(_FIELD.findall(_read(f"/proc/{name}/status")))
        except OSError:
            continue
        yield ProcessUsage(
            pid=int(name),
            parent=int(fields.get(b"PPid", b"0")),
            user=int(fields.get(b"Uid", b"0").split()[0]),
            numbers=tuple(map(int, fields.get(b"NSpid", name.encode()).split())),
            resident=int(fields.get(b"VmRSS", b"0").split()[0]) * 1024,
            threads=int(fields.get(b"Threads", b"1")),
        )


def enforce_memory(job: BoxJob) -> bool:
    """End samples that break their limits; return whether the program breaks its own.

    Before the program, its largest sample ends.
    """
    everything = list(read_usage())
    if not job.namespaces:
        everything = list(_descendants(os.getpid(), everything))
        return _is_above(everything, job.memory_bytes)
    samples = _group_samples(job, everything)
    for sample in samples:
        if sum(each.threads for each in sample) > job.sample_processes or _is_above(
            sample, job.sample_memory_bytes
        ):
            _end(sample)
    if not _is_above(everything, job.memory_bytes):
        return False
    if not samples:
        return True
    _end(max(samples, key=lambda sample: sum(each.resident for each in sample)))
    return False


def end_descendants() -> None:
    """End all descendants of this process, which adopts orphans."""
    while found := list(_descendants(os.getpid(), list(read_usage()))):
        for each in found:
            _kill(each.pid)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def count_processes(user: int) -> int:
    """Return how many processes and threads a user has."""
    return sum(each.threads for each in read_usage() if each.user == user)


def kernel_version() -> tuple[int, int]:
    """Return the first two numbers of the kernel's version."""
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    return int(major), int(minor)


def _group_samples(job: BoxJob, everything: list[ProcessUsage]) -> list[list[ProcessUsage]]:
    """Return the processes of each sample that the guard has isolated."""
    # The container has a process namespace within this one, and a sample one within that.
    depth = 2 if job.bare else 3
    groups: dict[str, list[ProcessUsage]] = {}
    for each in everything:
        if len(each.numbers) >= depth:
            try:
                namespace = os.readlink(f"/proc/{each.pid}/ns/pid")
            except OSError:
                continue
            groups.setdefault(namespace, []).append(each)
    return list(groups.values())


def _is_above(processes: list[ProcessUsage], limit: int) -> bool:
    if sum(each.resident for each in processes) <= limit:
        return False
    # Processes that a fork has made share most of their memory. While some of them end, the shares
    # of the others grow from one look to the next, so a second look decides.
    return all(sum(map(_proportional, processes)) > limit for _ in range(2))


def _proportional(usage: ProcessUsage) -> int:
    """Return the memory of a process in bytes; what N processes share counts a Nth for each."""
    try:
        match = _PSS.search(_read(f"/proc/{usage.pid}/smaps_rollup"))
    except ProcessLookupError:
        # It has ended, and its parent has not noticed.
        return 0
    except OSError:
        # It is gone, or this kernel does not tell.
        return usage.resident if os.path.exists(f"/proc/{usage.pid}") else 0
    return int(match[1]) * 1024 if match else 0


def _descendants(of: int, everything: list[ProcessUsage]) -> Iterator[ProcessUsage]:
    known = {of}
    remaining = everything
    while True:
        found = [each for each in remaining if each.parent in known]
        if not found:
            return
        yield from found
        known.update(each.pid for each in found)
        remaining = [each for each in remaining if each.pid not in known]


def _end(sample: list[ProcessUsage]) -> None:
    for each in sample:
        _kill(each.pid)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        # It has ended, or it is no process of ours any more.
        return


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
