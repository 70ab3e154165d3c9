"""What makes the evaluation frameworks testable: environments, models with known scores, images.

Each function makes what it returns on the first call, and takes it from the cache of tests
afterwards. If it cannot be made here, the test skips with the reason; with CI=true it fails.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

from support import known_answers
from support.hub import Hub
from support.processes import ROOT
from support.skipping import skip_or_fail

# The reciting model knows this many of the problems that most tests take.
KNOWN, PROBLEMS = 8, known_answers.PROBLEMS


@functools.cache
def framework_environment(name: str) -> Path:
    """Return the virtual environment of a lock file in containers/requirements."""
    return _made("install-framework", name)


@functools.cache
def framework_image(name: str) -> Path:
    """Return the container image with the packages of a lock file."""
    return image_of(f"{name}-cpu")


@functools.cache
def image_of(name: str) -> Path:
    """Return a container image by its name."""
    return _made("build-test-image", name)


@functools.cache
def reciting_model(knows: int = KNOWN) -> Path:
    """Return a model that solves the first problems of HumanEval: pass@1 of 0 to 11 is KNOWS/12."""
    return _made("make-reciting-model", "--knows", str(knows))


def prepare_dataset(environment: Path, name: str, hub: Hub, hf_home: Path) -> dict[str, str]:
    """Load a data set with a framework's own `datasets`; return the variables for using it offline.

    Which files an offline load needs depends on the version of `datasets`.
    """
    command = [environment / "bin" / "python", "-c", "import sys, datasets\n" + _LOAD, name]
    subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "HF_HOME": str(hf_home), **hub.environment},
        check=True,
        capture_output=True,
    )
    return {"HF_HOME": str(hf_home), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


_LOAD = "datasets.load_dataset(sys.argv[1])"


def _made(script: str, *arguments: str) -> Path:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        skip_or_fail(done.stderr.strip())
    return Path(done.stdout.strip())
