"""A place where oe-build builds, with a stand-in for apptainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.fake_apptainer import FakeApptainer, write_definition
from support.processes import Run


class Yard:
    """A directory of definitions and images, and the stand-in for apptainer."""

    def __init__(self, run: Run, directory: Path) -> None:
        self._run = run
        self.directory = directory
        self.images = directory / "images"
        self.apptainer = FakeApptainer(directory / "bin")
        self.scratch = directory / "scratch"
        self.scratch.mkdir()
        self.env = {**self.apptainer.environment, "TMPDIR": str(self.scratch)}

    def define(self, name: str, post: str = "", **parts: Any) -> Path:
        return write_definition(self.directory / f"{name}.def", post, **parts)

    def run(self, *words: str, **options: Any) -> Any:
        """Run oe-build; return the process."""
        env = self.env | options.pop("env", {})
        common = ("--cluster=local", f"--dir={self.images}", "--way=root")
        return self._run("oe-build", *common, *words, env=env, **options)

    def records(self, *words: str, **options: Any) -> list[dict[str, Any]]:
        """Run oe-build; return its records."""
        return [json.loads(line) for line in self.run(*words, **options).stdout.splitlines()]

    def builds(self) -> int:
        return len(self.apptainer.calls("build"))
