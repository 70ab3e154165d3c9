"""Virtual environments of frameworks, made by uv from the lock files of containers/requirements."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from support import package_sources, shared_cache

CONTAINERS = Path(__file__).resolve().parent.parent.parent / "containers"
REQUIREMENTS = CONTAINERS / "requirements"
REPAIR = CONTAINERS / "repair.py"
# The lock files are for this version of Python, but for those that name another in NAME.in.
PYTHON = "3.11"
# Environments share the files of this cache on the same file system by hard links.
UV_CACHE = shared_cache.CACHE / "uv-cache"
_UV = "uv==0.13.9"


class InstallationError(Exception):
    """What could not be installed, and why."""


def lock_file(name: str) -> Path:
    return REQUIREMENTS / f"{name}.txt"


def environment(name: str) -> Path:
    """Return the virtual environment of a lock file, which is made if there is none yet."""
    parts = [lock_file(name), REPAIR, Path(__file__)]
    made_of = shared_cache.digest([*(part.read_bytes() for part in parts), _python().encode()])
    return shared_cache.cached_directory(
        f"{name}-{made_of}", lambda directory: _make(name, directory)
    )


def _make(name: str, directory: Path) -> None:
    # The directory is renamed afterwards.
    call_uv("venv", "--relocatable", "--python", _python(), str(directory))
    # A lock file names every package, so dependencies that it leaves out stay out.
    python = directory / "bin" / "python"
    call_uv("pip", "install", "--python", str(python), "--no-deps", "-r", str(lock_file(name)))
    _run([str(python), str(REPAIR), name], {})


def lock(name: str) -> None:
    """Write a lock file anew from the requirements in NAME.in, with today's versions."""
    named = re.search(
        r"^# Python (3\.\d+)$", (REQUIREMENTS / f"{name}.in").read_text(), re.MULTILINE
    )
    version = named[1] if named else PYTHON
    command = ["pip", "compile", "--python-version", version, "--no-header", "--no-annotate"]
    for left_out in ("all", name):
        path = REQUIREMENTS / "left-out" / f"{left_out}.txt"
        command += ["--override", str(path)] if path.exists() else []
    locked = call_uv(*command, str(REQUIREMENTS / f"{name}.in"))
    # Where a package comes from is up to the machine: 2.13.0+cpu here is 2.13.0 elsewhere.
    pins = "".join(line.partition("+")[0] + "\n" for line in locked.splitlines())
    head = f"# Made from {name}.in by scripts/install-framework --lock {name}\n"
    lock_file(name).write_text(f"{head}{pins}")


def install_package(requirement: str) -> Path:
    """Return a directory that holds one package without its dependencies, for PYTHONPATH."""

    def make(directory: Path) -> None:
        call_uv("pip", "install", "--no-deps", "--target", str(directory), requirement)

    return shared_cache.cached_directory(requirement.replace("==", "-"), make)


def call_uv(*arguments: str) -> str:
    """Run uv with this machine's sources of packages; return what it prints."""
    settings = package_sources.uv_settings(package_sources.pip_settings())
    settings |= {"UV_CACHE_DIR": str(UV_CACHE), "UV_NO_CONFIG": "1"}
    uv = str(uv_directory() / "bin" / "uv")
    return _run([uv, "--quiet", "--no-python-downloads", *arguments], settings)


def uv_directory() -> Path:
    """Return the directory that has bin/uv."""
    UV_CACHE.mkdir(parents=True, exist_ok=True)
    return shared_cache.cached_directory(f"venv-{_UV.replace('==', '-')}", _install_uv)


def _install_uv(directory: Path) -> None:
    # Not every Python has pip, but each can make an environment that has it.
    _run([sys.executable, "-m", "venv", str(directory)], {})
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    _run([*pip, "--disable-pip-version-check", "--no-deps", _UV], {})


def _python() -> str:
    """Return the Python that the lock files are for: the running one, or one on PATH."""
    if sys.version_info[:2] == tuple(map(int, PYTHON.split("."))):
        return str(Path(sys.base_prefix) / "bin" / f"python{PYTHON}")
    if found := shutil.which(f"python{PYTHON}"):
        return found
    raise InstallationError(f"python{PYTHON} is missing; the frameworks' versions are for it")


def _run(command: list[str], environment: dict[str, str]) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**kept, **environment}
    )
    if done.returncode:
        reason = done.stderr.strip() or f"exit status {done.returncode}"
        raise InstallationError(f"{Path(command[0]).name} {command[-1]}: {reason}")
    return done.stdout
