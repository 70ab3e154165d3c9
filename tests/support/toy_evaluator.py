"""An evaluator as small as can be, which runs samples as those of code_eval and bigcode do.

Usage: toy_evaluator.py SAMPLES OUTPUT

SAMPLES is a JSON file with an object of names and programs. Each runs in a process whose target is
`unsafe_execute`, which reports through a list of a manager; four run at once. OUTPUT gets an object
of names and results: `passed`, or what went wrong. This file is run in containers: standard library
alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

TIMEOUT_S = 6.0
# In memory that samples would share: who holds it without end stops the evaluator.
LOCK = multiprocessing.Lock()


class _TimeoutError(Exception):
    pass


def unsafe_execute(program: str, result: Any, steps: Any, timeout: float) -> None:
    """Run a program, and report how it ended."""

    def stop(*_: object) -> None:
        raise _TimeoutError

    steps.value += 1
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(program, {"__name__": "__main__"})  # noqa: S102
            signal.setitimer(signal.ITIMER_REAL, 0)
            result.append("passed")
        except _TimeoutError:
            result.append("timed out")
        except BaseException as error:
            result.append(f"failed: {error!r}")
        with steps.get_lock():
            steps.value += 1
        os.chdir("/")


def check(program: str) -> str:
    """Return the result of a program."""
    with multiprocessing.Manager() as manager:
        result = manager.list()
        steps = multiprocessing.Value("i", 0)
        arguments = (program, result, steps, TIMEOUT_S)
        process = multiprocessing.Process(target=unsafe_execute, args=arguments)
        process.start()
        process.join(TIMEOUT_S + 1)
        if process.is_alive():
            process.kill()
        with LOCK:
            if len(result) == 0:
                return "timed out"
            return str(result[0]) if steps.value == 2 else f"{steps.value} steps"


def main() -> None:
    """Evaluate a file of samples."""
    samples_path, output_path = sys.argv[1:]
    with open(samples_path) as file:
        samples = json.load(file)
    with ThreadPoolExecutor(4) as pool:
        results = dict(zip(samples, pool.map(check, samples.values()), strict=False))
    with open(output_path, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main()
