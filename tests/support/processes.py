"""Running the commands as real processes, for a user without any settings."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from support import shared_cache

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
DEMO_TASKS = ROOT / "demo" / "tasks"
INDICES = Path(os.environ.get("OELLM_CACHE_DIR") or Path.home() / ".cache" / "oellm")
# Seconds after which a command counts as hanging.
PATIENCE_S = 20

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def clean_environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a user without any settings, with the commands on PATH."""
    prefixes = ("OELLM_", "EVAL_", "HF_", "SLURM_", "SBATCH_", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    kept |= {"HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    # All tests share one index of lm-eval's tasks, since making it takes ten seconds.
    kept["OELLM_CACHE_DIR"] = str(INDICES)
    return kept | dict(extra or {})


def runner(directory: Path) -> Run:
    """Return a function that runs a command as a process, with a home below a directory."""
    home = directory / "home"
    home.mkdir()

    def call(
        *command: str | Path,
        stdin: str | bytes = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        status: int | None = 0,
    ) -> subprocess.CompletedProcess[str]:
        extra = dict(env or {})
        if command[0] == "oe-render":
            # Most manifests of tests name tasks that no framework has. Without an index of its
            # tasks, oe-render does not look for them.
            extra.setdefault("OELLM_CACHE_DIR", str(home / "no-index"))
        done = subprocess.run(
            [str(word) for word in command],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env=clean_environment(home, extra),
            cwd=cwd or directory,
            check=False,
        )
        shown = subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode("utf-8", "surrogateescape"),
            done.stderr.decode("utf-8", "surrogateescape"),
        )
        assert "Traceback" not in shown.stderr or "lm_eval" in shown.stderr, shown.stderr
        if status is not None:
            assert shown.returncode == status, f"{done.args}\n{shown.stdout}\n{shown.stderr}"
        return shown

    return call


def run_in_time(
    *command: object,
    env: Mapping[str, str],
    cwd: Path,
    stdin: str = "",
    patience_s: float = PATIENCE_S,
    umask: int = -1,
) -> subprocess.CompletedProcess[str]:
    """Run a command that must not hang; raises TimeoutExpired if it does.

    It may end with any status, but not in a way that nobody foresaw.
    """
    done = subprocess.run(
        [str(word) for word in command],
        input=stdin,
        env=env,
        cwd=cwd,
        umask=umask,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=patience_s,
        check=False,
    )
    assert_foreseen(done.stderr)
    return done


def assert_foreseen(messages: str) -> None:
    """Fail if a command says that it failed in a way that nobody foresaw."""
    assert "internal error" not in messages, messages
    assert "Traceback" not in messages, messages


def rows_of(text: str) -> list[dict[str, str]]:
    """Return the rows of a CSV text, such as a command prints."""
    return list(csv.DictReader(io.StringIO(text)))


def make_tiny_model(directory: Path, seed: int = 0) -> None:
    """Write the tiny model whose weights follow from a seed into a directory."""
    script = ROOT / "scripts" / "make-tiny-model"

    def make(target: Path) -> None:
        subprocess.run(
            [sys.executable, script, target, "--seed", str(seed)], check=True, capture_output=True
        )

    sources = [script, *sorted(DEMO_TASKS.glob("*.jsonl"))]
    versions = [version(name).encode() for name in ("torch", "transformers", "tokenizers")]
    name = shared_cache.digest([*(path.read_bytes() for path in sources), *versions])
    made = shared_cache.cached_directory(f"tiny-model-{name}-{seed}", make)
    shutil.copytree(made, directory, dirs_exist_ok=True)
