"""Packages of others that add frameworks, as far as oellm sees them: files and an entry point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from support import quiz


def write_package(directory: Path, framework: str, package: str, files: Mapping[str, str]) -> None:
    """Write a package as if pip had installed it into a directory of PYTHONPATH."""
    for name, text in files.items():
        path = directory / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    facts = directory / f"{package}-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[oellm.frameworks]\n{framework} = {package}\n")


def quiz_with(**methods: str) -> dict[str, str]:
    """Return the files of the package quiz, whose adapter has other methods, by their names."""
    files = {
        name.removeprefix("oellm_quiz/"): text
        for name, text in quiz.sources().items()
        if name.startswith("oellm_quiz/")
    }
    for name, body in methods.items():
        files["program.py"] += (
            f"\n\ndef changed(self, *arguments):\n    {body}\n\n\nQuiz.{name} = changed\n"
        )
    return files
