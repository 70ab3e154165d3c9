"""What a container runtime says about an image."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from oellm.clusters.runtime import RUNTIMES, runtime_names, which_runtime
from oellm.core import json_codec
from oellm.errors import MachineError

# Prints the versions of packages as JSON.
_VERSIONS = """
import importlib.metadata, importlib.util, json, sys
found = {}
for name in sys.argv[1:]:
    found[name] = "" if importlib.util.find_spec(name) else None
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
# Such as `INFO:    Cleaning up image...`, perhaps in colours.
_NEWS = re.compile(r"(\x1b\[\d+m)?(INFO|WARNING): ")
# Seconds for what reads the head of a file.
_PATIENCE_S = 120.0
# Variables of a login shell that would change what runs in an image.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME")


def find_runtime(setting: str) -> str:
    """Return the path of the container runtime that the setting container_runtime names.

    Raises MachineError if it is not on PATH.
    """
    names = runtime_names("auto" if setting == "none" else setting)
    if found := which_runtime(names):
        return found
    missing = f"{names[0]} is not" if len(names) == 1 else f"neither {' nor '.join(names)} is"
    raise MachineError(f"{missing} on PATH: images are made and tested on a machine that has it")


def read_labels(runtime: str, image: Path) -> dict[str, str]:
    """Return the labels of an image; raises ValueError if the runtime does not tell them."""
    command = [runtime, "inspect", "--json", "--labels", str(image)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S, check=False
    )
    if done.returncode:
        said = _last_words(done.stderr)
        raise ValueError(f"it is no image: {said or 'inspect failed'}")
    try:
        labels = json_codec.loads(done.stdout)["data"]["attributes"]["labels"]
    except (ValueError, TypeError, KeyError):
        return {}
    return {str(key): str(value) for key, value in (labels or {}).items()}


def environment_of_image(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a program of an image finds no package of the user."""
    kept = {name: value for name, value in environ.items() if name not in _FOREIGN}
    kept |= {f"{runtime.upper()}ENV_PYTHONNOUSERSITE": "1" for runtime in RUNTIMES}
    return kept


def run_test(runtime: str, image: Path, environ: Mapping[str, str]) -> tuple[int, str]:
    """Run the %test of an image; return its exit status, and the last line that it has written."""
    command = [runtime, "test", "--cleanenv", str(image)]
    done = _run(command, environ, stderr=subprocess.STDOUT)
    return done.returncode, _last_words(done.stdout)


def find_versions(
    runtime: str, image: Path, names: Iterable[str], environ: Mapping[str, str]
) -> dict[str, str | None]:
    """Return the version of each Python package in an image.

    It is empty for a package that tells none, and None for one that is not there. Raises ValueError
    if the image has no Python that can be asked.
    """
    command = [runtime, "exec", "--cleanenv", str(image), "python3", "-c", _VERSIONS, *names]
    done = _run(command, environ, stderr=subprocess.PIPE)
    with contextlib.suppress(ValueError, IndexError):
        found = json_codec.loads(done.stdout.splitlines()[-1])
        if done.returncode == 0 and isinstance(found, dict):
            return found
    said = _last_words(done.stderr) or f"status {done.returncode}"
    raise ValueError(f"python3 in the image fails: {said}")


def _run(
    command: list[str], environ: Mapping[str, str], stderr: int
) -> subprocess.CompletedProcess[bytes]:
    """Run a program of an image."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment_of_image(environ),
        check=False,
    )


def _last_words(said: bytes) -> str:
    """Return the last line that is no message of the runtime about what it does."""
    lines = said.decode(errors="replace").strip().splitlines()
    return next((line for line in reversed(lines) if not _NEWS.match(line)), "")


def version_of_runtime(runtime: str) -> str:
    """Return what a runtime calls itself, such as `apptainer version 1.4.5`."""
    done = subprocess.run(
        [runtime, "--version"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    return done.stdout.decode(errors="replace").strip() or os.path.basename(runtime)
