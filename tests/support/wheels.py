"""oellm as users install it: a wheel in a virtual environment that has nothing else."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.processes import ROOT


def build_wheel(directory: Path, *options: str) -> Path:
    """Build a wheel of this tree; the options are those of `python -m build`."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", directory, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = directory.glob("*.whl")
    return wheel


def install_wheel(wheel: Path, directory: Path) -> Path:
    """Install a wheel without its dependencies into a new environment; return its bin/."""
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True
    )
    return directory / "bin"


def add_dependencies(bin_directory: Path, extras: Iterable[str]) -> None:
    """Add what the wheel in an environment requires, and what these packages require.

    They are links to the packages of this environment, since a test needs no network.
    """
    (site,) = bin_directory.parent.glob("lib/python*/site-packages")
    (wheel,) = (Distribution.at(path) for path in site.glob("oellm-*.dist-info"))
    waiting = _required(wheel, extras)
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if (name := canonicalize_name(requirement.name)) not in seen:
            seen.add(name)
            found = distribution(name)
            _link(found, site)
            waiting += _required(found, requirement.extras)


def _required(package: Distribution, extras: Iterable[str]) -> list[Requirement]:
    wanted = ["", *extras]
    return [
        found
        for found in map(Requirement, package.requires or ())
        if not found.marker or any(found.marker.evaluate({"extra": extra}) for extra in wanted)
    ]


def _link(package: Distribution, site: Path) -> None:
    names = {path.parts[0] for path in package.files or () if path.suffix != ".pth"}
    for name in names - {"..", "__pycache__"}:
        if not (site / name).exists():
            (site / name).symlink_to(Path(str(package.locate_file(name))))
