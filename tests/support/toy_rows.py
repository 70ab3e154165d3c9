"""Rows of the toy framework, and workers that know it, as real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.processes import clean_environment

SUPPORT = Path(__file__).parent
# Seconds; anything that takes longer has failed, even on a busy machine.
PATIENCE = 120.0
# Starts a command of ours with the toy among its frameworks.
_START = """
import sys
from importlib import import_module
from oellm import frameworks

frameworks._FRAMEWORKS["toy"] = frameworks._Framework("toy_framework", is_program=True)
sys.argv = sys.argv[1:]
sys.exit(import_module(sys.argv[0]).main())
"""


class ToyModel:
    """A directory that passes for a model, and what the toy's program does with it."""

    def __init__(self, directory: Path, weights: bytes = b"0123456789abcdef") -> None:
        self.path = directory
        directory.mkdir(parents=True)
        (directory / "config.json").write_text("{}")
        self.set_weights(weights)

    def set_weights(self, weights: bytes) -> None:
        """Give the model other weights."""
        (self.path / "weights.safetensors").write_bytes(weights)

    def set_faults(self, *faults: str) -> None:
        """Let steps go wrong: `generate fail`, `evaluate hang`."""
        Path(f"{self.path}.faults").write_text("\n".join(faults))

    def go(self) -> None:
        """Let programs end that wait for it."""
        Path(f"{self.path}.go").touch()

    def steps(self) -> list[str]:
        """Return the steps that the program has begun."""
        log = Path(f"{self.path}.log")
        return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def manifest(*rows: tuple[ToyModel, str], **cells: object) -> str:
    """Return a manifest of models and tasks, with the same other cells in each row."""
    lines = [",".join(["model_path", "task_path", "n_shot", "eval_suite", *cells])]
    for model, task in rows:
        lines.append(",".join([str(model.path), task, "", "toy", *map(str, cells.values())]))
    return "\n".join(lines) + "\n"


def start(
    command: str, *arguments: str | Path, home: Path, within: Sequence[str] = (), **how: Any
) -> subprocess.Popen[str]:
    """Start a command, with its messages in the file `log`; `within` starts what follows it."""
    environment = clean_environment(home, {"PYTHONPATH": str(SUPPORT), **how.pop("env", {})})
    with open(home / "log", "a") as log:
        return subprocess.Popen(
            [*within, sys.executable, "-c", _START, command, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment | {"TMPDIR": str(temporary(home))},
            cwd=home,
            start_new_session=True,
            # Nobody reads most workers' results from a pipe, which would fill.
            **{"stdout": subprocess.DEVNULL, **how},
        )


def temporary(home: Path) -> Path:
    """Return the directory of temporary files of these processes; sockets want a short name."""
    link = home / "tmp"
    if not link.is_symlink():
        link.symlink_to(tempfile.mkdtemp(prefix="toy-", dir="/tmp"))
    return link.readlink()


@contextmanager
def worker(
    rows: str, *arguments: str | Path, home: Path, **how: Any
) -> Iterator[subprocess.Popen[str]]:
    """Start a worker, by default with results in `home/out`; kill it when the context ends."""
    given = arguments or ("--output_dir", home / "out")
    process = start("oe_run_task", *given, home=home, **how)
    assert process.stdin is not None
    process.stdin.write(rows)
    process.stdin.close()
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def evaluate(rows: str, *arguments: str | Path, home: Path, status: int = 0, **how: Any) -> str:
    """Run a worker to its end; return its messages."""
    before = len(messages(home))
    with worker(rows, *arguments, home=home, **how) as process:
        found = process.wait(PATIENCE)
    told = messages(home)[before:]
    assert found == status, told
    return told


def messages(home: Path) -> str:
    """Return all messages of these processes."""
    path = home / "log"
    return path.read_text() if path.exists() else ""


def processes(home: Path) -> list[str]:
    """Return the command lines of the processes that name something below a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text()
        except OSError:
            continue
        if f"{home}/" in line:
            found.append(line.replace("\0", " "))
    return found


def records(directory: Path, kind: str = "results") -> dict[str, Any]:
    """Return our records of results, or of failures, by task."""
    found = [json.loads(path.read_text())["oellm"] for path in (directory / kind).glob("*.json")]
    return {record["row"]["task_path"]: record for record in found}


def wait_for(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Wait until a condition holds; return its value."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
