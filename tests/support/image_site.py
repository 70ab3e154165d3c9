"""A user who moves images with oe-build, and apptainer as another client of the registry."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.processes import BIN, clean_environment
from support.registry import Registry


class Site:
    """A user with a directory of images."""

    def __init__(self, root: Path) -> None:
        self.images = root / "images"
        (root / "home").mkdir()
        (root / "scratch").mkdir()
        self.env = clean_environment(
            root / "home",
            {
                "OELLM_CACHE_DIR": str(root / "cache"),
                "APPTAINER_CACHEDIR": str(root / "cache"),
                "TMPDIR": str(root / "scratch"),
            },
        )
        self.path = self.images / "suite.sif"

    def command(self, *words: str | Path) -> list[str]:
        return ["oe-build", "--dir", str(self.images), *map(str, words)]

    def run(self, *words: str | Path, status: int = 0) -> tuple[list[dict[str, Any]], str]:
        """Run oe-build; return its records and its messages."""
        done = subprocess.run(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self.env,
            text=True,
            check=False,
        )
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words),
            executable=BIN / "oe-build",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
            text=True,
        )

    def log(self) -> str:
        return self.path.with_name("suite.sif.log").read_text()

    def partial_size(self) -> int:
        return sum(path.stat().st_size for path in self.images.glob(".suite.sif.*.partial"))

    def files(self) -> set[str]:
        return {path.name for path in self.images.iterdir()}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def push(image: Path, registry: Registry) -> None:
    target = f"oras://{registry.host}/oellm/suite:1"
    apptainer("push", "--no-https", "-U", image, target, env=os.environ)


def apptainer(*words: str | Path, env: Mapping[str, str]) -> None:
    done = subprocess.run(
        ["apptainer", *words], env=dict(env), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
