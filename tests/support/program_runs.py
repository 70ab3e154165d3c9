"""Workers for rows of real frameworks that are programs, with the environments made for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from oellm.frameworks import create_program
from oellm.frameworks.stages import GENERATE
from oellm.manifest.rows import Row, eval_id
from oellm.runs.contents import Contents
from oellm.runs.environment import Environment
from oellm.runs.result_record import RowTiming
from oellm.runs.stages.stage_record import StageRecord
from oellm.runs.stages.stage_store import StageStore
from support import code_rows, shared_cache
from support.frameworks import framework_environment, framework_image, prepare_dataset
from support.hub import Hub
from support.process_tree import children
from support.toy_rows import messages, wait_for, worker

# Seconds for a program that imports PyTorch, answers a few problems and evaluates them.
_PATIENCE = 600.0


class ProgramRun:
    """Evaluates rows in one directory, again and again, without a network.

    `venvs` has names of environments by key of the setting of this name; their images are used
    instead if `in_images`.
    """

    def __init__(
        self, home: Path, venvs: Mapping[str, str], env: Mapping[str, str], in_images: bool = False
    ) -> None:
        self.home = home
        find = framework_image if in_images else framework_environment
        named = json.dumps({key: str(find(name)) for key, name in venvs.items()})
        places = {"OELLM_IMAGES" if in_images else "OELLM_VENVS": named}
        self._env = {"OELLM_CLUSTER": "local", "OELLM_CONTAINER_RUNTIME": "auto", **places, **env}

    def evaluate(self, rows: str, *, status: int = 0, **env: str) -> str:
        """Run a worker to its end; return its messages."""
        before = len(messages(self.home))
        with self.worker(rows, **env) as process:
            found = process.wait(_PATIENCE)
        told = messages(self.home)[before:]
        assert found == status, told
        return told

    @contextmanager
    def worker(self, rows: str, **env: str) -> Iterator[subprocess.Popen[str]]:
        """Start a worker that may run code of models without a container."""
        arguments = ("--unsafe_execution", "--output_dir", str(self.home / "out"))
        with worker(rows, *arguments, home=self.home, env={**self._env, **env}) as process:
            yield process

    def evaluate_until(self, rows: str, text: str, command: str = "") -> tuple[int, str]:
        """Run a worker until it prints a text, and stop it then; return its status and messages.

        It gets SIGTERM, or one of its programs, whose command line has `command`, gets SIGKILL.
        """
        before = len(messages(self.home))
        with self.worker(rows) as process:
            wait_for(
                lambda: text in messages(self.home)[before:] or process.poll() is not None,
                _PATIENCE,
            )
            assert text in messages(self.home)[before:], messages(self.home)[before:]
            if command:
                os.kill(wait_for(lambda: _find_program(process.pid, command)), signal.SIGKILL)
            else:
                process.send_signal(signal.SIGTERM)
            status = process.wait(_PATIENCE)
        return status, messages(self.home)[before:]


def human_eval_cache(environment: str) -> dict[str, str]:
    """Return the variables for a cache with openai_humaneval, made by a framework's environment."""
    venv = framework_environment(environment)

    def make(directory: Path) -> None:
        with Hub() as hub:
            code_rows.serve_human_eval(hub, directory / "served")
            prepare_dataset(venv, "openai_humaneval", hub, directory / "hf")

    parts = [venv.name.encode(), Path(code_rows.__file__).read_bytes()]
    made = shared_cache.cached_directory(f"human-eval-cache-{shared_cache.digest(parts)}", make)
    return {"HF_HOME": str(made / "hf")}


def _find_program(worker: int, command: str) -> int:
    """Return a process below a worker whose command line has a text; 0 if there is none."""
    for pid in children(worker):
        try:
            if command in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        except OSError:
            continue
        if found := _find_program(pid, command):
            return found
    return 0


def plant(directory: Path, row: Row, files: Mapping[str, str]) -> None:
    """Put the output of a row's first stage where a worker finds it, as if it had been computed."""
    program = create_program(row.typed.eval_suite)
    assert program is not None
    generated = program.generation_row(row)
    store, key = StageStore(directory), eval_id(generated)
    attempt = store.new_attempt(key, GENERATE)
    for name, text in files.items():
        path = attempt / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    record = StageRecord(
        key=key,
        stage=GENERATE,
        row=dict(generated.cells),
        contents=Contents(),
        environment=Environment(),
        provenance={},
        timing=RowTiming(),
        files={},
    )
    store.place(attempt, record)
