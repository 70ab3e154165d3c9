"""The framework of demo/framework: a package of somebody else, as its author would write it."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

from support.model_directories import write_model
from support.processes import ROOT

QUIZ = ROOT / "demo" / "framework"


def sources() -> dict[str, str]:
    """Return all files of the package's project, by their names."""
    paths = [path for path in QUIZ.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {path.relative_to(QUIZ).as_posix(): path.read_text() for path in sorted(paths)}


def install(directory: Path) -> Path:
    """Make an environment with oellm and the package, by pip; return its folder of commands."""
    venv.create(directory, with_pip=True)
    (site,) = directory.glob("lib/python*/site-packages")
    # Dependencies, and what builds packages, come from the environment of the tests.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in others))
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    pip += ["--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    for package in (ROOT, QUIZ):
        subprocess.run([*pip, str(package)], check=True)
    return directory / "bin"


def write_quiz_model(directory: Path, hidden_size: int) -> Path:
    """Write a model that answers the questions: one is right if its hidden size is 64."""
    write_model(directory)
    config = {"model_type": "llama", "hidden_size": hidden_size}
    (directory / "config.json").write_text(json.dumps(config))
    return directory
