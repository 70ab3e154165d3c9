"""The ways to build an image: which one is taken, and why the others are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oellm.build import ways
from oellm.build.ways import find_way
from oellm.errors import MachineError

APPTAINER = "apptainer version 1.4.5"
CE = "singularity-ce version 4.1.0"


class Machine:
    """A machine on which these programs are on PATH, and nothing else."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self._patch = monkeypatch
        directory.mkdir()
        monkeypatch.setenv("PATH", str(directory))
        monkeypatch.setenv("HOME", str(directory))

    def has(self, name: str, script: str = "exit 0") -> None:
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def find(self, user: int, version: str, missing: int = 0) -> str:
        """Return the name of the way for a user id, and a root that lacks capabilities."""
        self.has("apptainer", f"echo {version}")
        self._patch.setattr(os, "geteuid", lambda: user)
        self._patch.setattr(ways, "_missing_capabilities", lambda: missing)
        return find_way(str(self.directory / "apptainer"), os.environ).name


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "bin", monkeypatch)


def test_root_builds_as_root_or_in_a_user_namespace(machine: Machine) -> None:
    machine.has("unshare")
    assert machine.find(0, APPTAINER) == "root"
    assert machine.find(0, APPTAINER, missing=1) == "userns"


def test_other_users_build_in_user_namespaces_with_apptainer(machine: Machine) -> None:
    machine.has("unshare")
    assert machine.find(1000, APPTAINER) == "fakeroot"


def test_singularity_needs_subordinate_ids_or_proot_or_a_remote_builder(machine: Machine) -> None:
    machine.has("unshare")
    machine.has("newuidmap")
    machine.has("getsubids", "exit 1")
    with pytest.raises(MachineError) as caught:
        machine.find(54321, CE)
    assert "fakeroot: /etc/subuid has no entry for " in str(caught.value)
    assert "proot: proot is not on PATH" in str(caught.value)
    assert "remote: no remote builder is configured" in str(caught.value)
    configuration = machine.directory / ".singularity" / "remote.yaml"
    configuration.parent.mkdir()
    configuration.write_text("Remotes:\n  Cloud:\n    URI: x\n    Token: 12345678abc\n")
    assert machine.find(54321, CE) == "remote"
    machine.has("proot")
    assert machine.find(54321, CE) == "proot"
    machine.has("getsubids")
    assert machine.find(54321, CE) == "fakeroot"


def test_if_none_works_each_says_why(machine: Machine) -> None:
    machine.has("unshare", "echo 'unshare: Operation not permitted' >&2; exit 1")
    machine.has("proot")
    with pytest.raises(MachineError) as caught:
        machine.find(0, APPTAINER, missing=27)
    assert str(caught.value) == (
        "images cannot be built here: "
        "root: root lacks 27 of its capabilities here; "
        "userns: no user namespaces: unshare: Operation not permitted; "
        "fakeroot: you are root; "
        "proot: apptainer version 1.4.5 does not use it (SingularityCE 3.11 and newer do); "
        "remote: apptainer version 1.4.5 has no remote builds"
    )
    with pytest.raises(MachineError, match="fakeroot: no user namespaces: unshare: Operation not"):
        machine.find(1000, APPTAINER)
