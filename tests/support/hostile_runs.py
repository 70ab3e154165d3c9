"""Hostile samples among honest ones, run by an evaluator in the sandbox, and what they must not do.

The host must be as before: no process, file, mount or setting of the system is left of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from oellm.sandbox.contained import Contained, ContainedEnd, Layers, Limits, SampleLimits
from oellm.sandbox.running import run_contained
from support.hostile_samples import hostile_samples
from support.processes import ROOT

# Nobody on a machine has this number: what belongs to it is the sandbox's, and this process's.
NUMBER = 60_001 + os.getpid() % 4000
USER = (NUMBER, NUMBER) if os.geteuid() == 0 else None
SECRET = "hf_hostileSamplesMustNotSeeThis"
HONEST = {
    "right": ("assert sorted([2, 1]) == [1, 2]", "passed"),
    "wrong": ("assert sorted([2, 1]) == [2, 1]", "failed: AssertionError()"),
    "busy": ("x = sum(range(10**6)); open('own', 'w').write('x'); open('own').read()", "passed"),
}
# Enough for every honest sample; a hostile one may not use it up on this machine.
LIMITS = Limits(120, memory_bytes=3 << 30, sample=SampleLimits(memory_bytes=512 << 20))
_SETTINGS = ("core_pattern", "hostname", "printk", "panic", "threads-max")
_PUBLIC = ("/", "/tmp", "/var/tmp", "/dev/shm")


class Host(NamedTuple):
    """What hostile samples must leave as it is."""

    settings: tuple[str, ...]
    # Of the sandbox's user.
    processes: frozenset[str]
    files: frozenset[str]
    mounts: frozenset[str]


def look_at_host() -> Host:
    """Return what there is of the sandbox's user on this machine."""
    user = USER[0] if USER else -1
    entries = [entry for place in _PUBLIC for entry in os.scandir(place)]
    numbers = [entry.name for entry in os.scandir("/proc") if entry.name.isdigit()]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return Host(
        settings=tuple(Path(f"/proc/sys/kernel/{name}").read_text() for name in _SETTINGS),
        processes=frozenset(number for number in numbers if _owner(f"/proc/{number}") == user),
        files=frozenset(entry.path for entry in entries if _owner(entry.path) == user),
        mounts=frozenset(line for line in mounts if f"={user}" in line),
    )


def _owner(path: str) -> int:
    """Return the number of an owner; 0 if the path has gone meanwhile."""
    with contextlib.suppress(OSError):
        return os.lstat(path).st_uid
    return 0


class HostileRuns:
    """An evaluator in the sandbox that gets hostile samples."""

    def __init__(self, directory: Path, values: Mapping[str, object], python: str) -> None:
        self.directory = directory
        self.programs = hostile_samples(values)
        self.evaluator = ROOT / "tests" / "support" / "toy_evaluator.py"
        self._python = python
        self._canary = Path(str(values["CANARY"]))
        self._runs = 0

    def run(
        self, samples: Mapping[str, str], layers: Layers, image: Path | None, *, guard: bool = True
    ) -> tuple[ContainedEnd, dict[str, str]]:
        """Evaluate samples; return how the evaluator ended, and the results by name."""
        self._runs += 1
        place = self.directory / str(self._runs)
        (place / "out").mkdir(parents=True)
        (place / "samples.json").write_text(json.dumps(samples))
        before = look_at_host()
        end = run_contained(
            Contained(
                argv=(self._python, "/in/evaluator.py", "/in/samples.json", "/out/metrics.json"),
                image=image,
                inputs={
                    self.evaluator: "/in/evaluator.py",
                    place / "samples.json": "/in/samples.json",
                },
                output=place / "out",
                env={},
                limits=LIMITS,
                guard=guard,
            ),
            layers,
            place / "log",
        )
        assert look_at_host() == before
        assert sorted(os.listdir(self._canary)) == ["token"]
        results = place / "out" / "metrics.json"
        assert (place / "log").stat().st_size < 1 << 20
        return end, json.loads(results.read_text()) if results.exists() else {}

    def check(self, names: list[str], layers: Layers, image: Path | None) -> None:
        """Evaluate hostile samples among honest ones: all are scored as they should be."""
        samples = {name: self.programs[name] for name in names}
        # The hostile ones run first, beside honest ones.
        samples |= {f"{name} {n}": text for name, (text, _) in HONEST.items() for n in range(2)}
        end, results = self.run(samples, layers, image)
        assert (end.status, end.reason, end.refused) == (0, "", ())
        assert end.copied == ("metrics.json",)
        assert end.samples == len(samples)
        assert results.keys() == samples.keys()
        for name, result in results.items():
            if name in names:
                assert result.startswith(("failed", "timed out")), f"{name}: {result}"
            else:
                assert result == HONEST[name.split()[0]][1], name


@contextlib.contextmanager
def hostile_runs(directory: Path, python: str = "/usr/bin/python3") -> Iterator[HostileRuns]:
    """Provide a listening port, a token in the environment and in a file, and a place to write."""
    canary = directory / "canary"
    canary.mkdir()
    canary.chmod(0o777)
    (canary / "token").write_text(SECRET)
    before = os.environ.get("HF_TOKEN")
    os.environ["HF_TOKEN"] = SECRET
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            values = {
                "PORT": server.getsockname()[1],
                "SECRET": SECRET,
                "CANARY": canary,
                "MEMORY": 1 << 30,
            }
            yield HostileRuns(directory, values, python)
    finally:
        os.environ.pop("HF_TOKEN")
        if before is not None:
            os.environ["HF_TOKEN"] = before
