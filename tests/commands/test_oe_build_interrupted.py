"""oe-build: two at once, and what is left of one that was stopped."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fake_apptainer import FakeApptainer, write_definition
from support.process_tree import is_alive
from support.processes import BIN, clean_environment
from support.waiting import wait_until


class Site:
    """A definition whose build goes on until it may end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.images = directory / "images"
        self.scratch = directory / "scratch"
        self.apptainer = FakeApptainer(directory / "bin")
        for place in (self.scratch, directory / "home"):
            place.mkdir()
        self.go = directory / "go"
        self.pids = directory / "pids"
        # A process of its own session outlives a signal to the session of the build.
        post = f"setsid sleep 600 & echo $! >>{self.pids}; echo $$ >>{self.pids}\n"
        post += f"while [ ! -e {self.go} ]; do sleep 0.05; done; kill $!"
        write_definition(directory / "one.def", post)
        self.started: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        env = self.apptainer.environment | {"TMPDIR": str(self.scratch)}
        process = subprocess.Popen(
            [BIN / "oe-build", "--cluster=local", f"--dir={self.images}", "--way=root", "one.def"],
            env=clean_environment(self.directory / "home", env),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def building(self) -> list[int]:
        """Return the processes of the build, once it has begun."""
        lines = self.pids.read_text().split() if self.pids.exists() else []
        return [int(line) for line in lines]

    def leftovers(self) -> list[str]:
        """Return what is in the directories besides an image, its record and its log."""
        usual = ("one.sif", "one.sif.json", "one.sif.log")
        found = [path.name for path in self.images.iterdir() if path.name not in usual]
        return [*found, *(path.name for path in self.scratch.iterdir())]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_two_at_once_share_the_work(site: Site) -> None:
    first = site.start()
    wait_until(lambda: len(site.building()) == 2, process=first)
    second = site.start()
    assert second.stderr is not None
    assert second.stderr.readline() == "oe-build: one: another process makes it; waiting\n"
    site.go.touch()
    records = [json.loads(process.communicate()[0]) for process in (first, second)]
    assert [record["status"] for record in records] == ["built", "up_to_date"]
    assert records[0]["digest"] == records[1]["digest"]
    assert len(site.apptainer.calls("build")) == 1
    assert site.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_build_and_removes_what_it_has_made(
    site: Site, number: signal.Signals
) -> None:
    process = site.start()
    wait_until(lambda: len(site.building()) == 2, process=process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1] == "oe-build: interrupted"
    assert not [pid for pid in site.building() if is_alive(pid)]
    assert site.leftovers() == []
    assert not (site.images / "one.sif").exists()


def test_after_a_kill_nothing_runs_and_the_next_start_removes_what_is_left(site: Site) -> None:
    process = site.start()
    wait_until(lambda: len(site.building()) == 2, process=process)
    process.kill()
    process.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in site.building()), seconds=30)
    assert [name for name in site.leftovers() if name.endswith(".tmp")]
    (unpacked,) = site.scratch.iterdir()
    # On another host, whose locks may not be seen here, somebody may be building.
    elsewhere = site.images / ".one.sif.otherhost-1-0123abcd.tmp"
    elsewhere.touch()
    host = re.sub(r"\W", "_", platform.node())
    unpacked_elsewhere = site.scratch / unpacked.name.replace(host, "otherhost")
    unpacked_elsewhere.mkdir(exist_ok=True)
    site.go.touch()
    again = site.start()
    (line,) = again.communicate(timeout=60)[0].splitlines()
    assert json.loads(line)["status"] == "built"
    unpacked_elsewhere.rmdir()
    assert site.leftovers() == [elsewhere.name]
    long_ago = time.time() - 30 * 3600
    os.utime(elsewhere, (long_ago, long_ago))
    (site.images / "one.sif").unlink()
    site.start().communicate(timeout=60)
    assert site.leftovers() == []


def test_the_one_that_waits_goes_on_if_the_other_is_killed(site: Site) -> None:
    first = site.start()
    wait_until(lambda: len(site.building()) == 2, process=first)
    second = site.start()
    assert second.stderr is not None
    assert "another process" in second.stderr.readline()
    first.kill()
    site.go.touch()
    assert json.loads(second.communicate(timeout=60)[0])["status"] == "built"
    assert site.leftovers() == []
