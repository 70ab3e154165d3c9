"""What a container runtime says about an image."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from oellm.core import json_codec
from oellm.errors import MachineError

_RUNTIMES = ("apptainer", "singularity")
# Seconds for what reads the head of a file.
_PATIENCE_S = 120.0
# Variables of a login shell that would change what runs in an image.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME")


def find_runtime(setting: str) -> str:
    """Return the path of the container runtime that the setting container_runtime names.

    Raises MachineError if it is not on PATH.
    """
    names = _RUNTIMES if setting in ("", "auto", "none") else (setting,)
    for name in names:
        if found := shutil.which(name):
            return found
    missing = f"{names[0]} is" if len(names) == 1 else f"neither {names[0]} nor {names[1]} is"
    raise MachineError(f"{missing} on PATH: images are made and tested on a machine that has it")


def read_labels(runtime: str, image: Path) -> dict[str, str]:
    """Return the labels of an image; raises ValueError if the runtime does not tell them."""
    command = [runtime, "inspect", "--json", "--labels", str(image)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(f"it is no image: {said[-1] if said else 'inspect failed'}")
    try:
        labels = json_codec.loads(done.stdout)["data"]["attributes"]["labels"]
    except (ValueError, TypeError, KeyError):
        return {}
    return {str(key): str(value) for key, value in (labels or {}).items()}


def environment_of_image(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a program of an image finds no package of the user."""
    kept = {name: value for name, value in environ.items() if name not in _FOREIGN}
    kept |= {f"{runtime.upper()}ENV_PYTHONNOUSERSITE": "1" for runtime in _RUNTIMES}
    return kept


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
