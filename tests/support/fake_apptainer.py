"""A stand-in for apptainer that builds in no time, and fails, waits or spawns as it is told.

It runs the lines of %post that write_definition has written; `$IMAGE` is the file to make. Those of
other definitions are not for this machine. An image is a JSON object. What has been called is in
the file `calls`, one line for each call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_OURS = "# for the stand-in"
# What apptainer says after a program if it has unpacked the image.
_LAST_WORDS = "INFO:    Cleaning up image...\n"
_START = """#!{python}
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from support import fake_apptainer
sys.exit(fake_apptainer.main(Path({directory!r}), sys.argv[1:]))
"""


class FakeApptainer:
    """A directory for PATH that has the stand-in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        program = directory / "apptainer"
        tests = str(Path(__file__).parent.parent)
        program.write_text(
            _START.format(python=sys.executable, tests=tests, directory=str(directory))
        )
        program.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which it is found first."""
        return {"PATH": f"{self.directory}:{os.environ['PATH']}"}

    def calls(self, subcommand: str) -> list[list[str]]:
        """Return the arguments of each call of a subcommand."""
        path = self.directory / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [words[1:] for words in map(json.loads, lines) if words[0] == subcommand]


def write_definition(
    path: Path,
    post: str = "",
    *,
    test: str = "true",
    arguments: Mapping[str, str] | None = None,
    files: Iterable[str] = (),
    head: str = "Bootstrap: docker\nFrom: small",
) -> Path:
    """Write a definition file that the stand-in can build."""
    sections = {
        "arguments": "\n".join(f"{key}={value}" for key, value in (arguments or {}).items()),
        "labels": f"title {path.stem}",
        "files": "\n".join(f"{file} /opt" for file in files),
        "post": post,
        "test": test,
    }
    text = "".join(f"\n%{name}\n{body}\n" for name, body in sections.items() if body)
    path.write_text(f"{_OURS}\n{head}\n{text}")
    return path


def main(directory: Path, argv: list[str]) -> int:
    """Do what the command line says, as apptainer would; return the exit status."""
    if argv == ["--version"]:
        sys.stdout.write("apptainer version 1.4.5\n")
        return 0
    with (directory / "calls").open("a") as calls:
        calls.write(json.dumps(argv) + "\n")
    subcommand, *words = argv
    return {"build": _build, "inspect": _inspect, "test": _test, "exec": _exec}[subcommand](words)


def _build(words: list[str]) -> int:
    image, definition = Path(words[-2]), Path(words[-1])
    sections: dict[str, str] = {}
    name = ""
    lines = definition.read_text().splitlines()
    for line in lines:
        if line.startswith("%"):
            name = line[1:]
        elif name:
            sections[name] = sections.get(name, "") + line + "\n"
    pairs = (line.split(maxsplit=1) for line in sections.get("labels", "").splitlines() if line)
    test = sections.get("test", "") if _is_ours(lines) else ""
    content = {"labels": dict(pairs), "test": test, "words": words[:-2]}
    image.write_text(json.dumps(content))
    # What apptainer unpacks.
    Path(os.environ["APPTAINER_TMPDIR"], "bundle").mkdir()
    status = _shell(sections.get("post", ""), {"IMAGE": str(image)}) if _is_ours(lines) else 0
    if status:
        sys.stderr.write(f"FATAL: While running %post section: exit status {status}\n")
        return 255
    sys.stdout.write(f"INFO: Build complete: {image}\n")
    return 0


def _is_ours(lines: list[str]) -> bool:
    return lines[0] == _OURS


def _inspect(words: list[str]) -> int:
    labels = _read(words)["labels"]
    sys.stdout.write(
        json.dumps({"data": {"attributes": {"labels": labels}}, "type": "container"}) + "\n"
    )
    return 0


def _test(words: list[str]) -> int:
    status = _shell(_read(words)["test"], {})
    sys.stderr.write(_LAST_WORDS)
    return status


def _exec(words: list[str]) -> int:
    if "env" in words:
        # A program of its own, for which this Python stands for that of the image.
        argv = [sys.executable if word == "python3" else word for word in words]
        return subprocess.call(argv[argv.index("env") :])
    # The versions of the packages that oe-build asks for: what a label says.
    asked = words[words.index("-c") + 2 :]
    labels = _read(words)["labels"]
    sys.stdout.write(json.dumps({name: labels.get(name) for name in asked}) + "\n")
    sys.stdout.flush()
    sys.stderr.write(_LAST_WORDS)
    return 0


def _read(words: list[str]) -> dict[str, Any]:
    image = next(word for word in words if word.endswith((".sif", ".tmp")))
    found: dict[str, Any] = json.loads(Path(image).read_text())
    return found


def _shell(text: str, env: Mapping[str, str]) -> int:
    return subprocess.call(["sh", "-c", text], env={**os.environ, **env})
