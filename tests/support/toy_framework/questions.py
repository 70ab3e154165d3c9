"""The program: `questions.py generate MODEL OUT`, `… evaluate ANSWERS OUT`, `… both MODEL OUT`.

It notes what it does in the file MODEL.log, and does what MODEL.faults says: a line such as
`evaluate hang`. It must not be told in the model's own directory, which would be another model.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def unsafe_execute(code: str, results: Any) -> None:
    """Tell what a model's code gives; a process with this name is a sample for the sandbox."""
    results.append(eval(code))  # noqa: S307


def count_right(answers: list[str]) -> int:
    """Return how many answers are right; runs what the model has written."""
    right = 0
    for answer in answers:
        with multiprocessing.Manager() as manager:
            results = manager.list()
            process = multiprocessing.Process(target=unsafe_execute, args=(answer, results))
            process.start()
            process.join()
            right += list(results) == [4]
    return right


def fault(control: str, step: str) -> str:
    # In a sandbox there is no such file.
    with contextlib.suppress(OSError), open(f"{control}.log", "a") as log:
        log.write(f"{step} {os.getpid()} {os.environ['HOME']}\n")
    path = Path(f"{control}.faults")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(" ")[2] for line in lines if line.split()[0] == step), "")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def suffer(kind: str, control: str) -> None:
    say(f"a program that suffers from {kind or 'nothing'}")
    if kind in ("hang", "stubborn"):
        if kind == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # Two processes that only SIGKILL ends, one in a session of its own.
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        for apart in (False, True):
            subprocess.Popen([sys.executable, "-c", code, os.getcwd()], start_new_session=apart)
        say("hangs")
        time.sleep(600)
    elif kind == "fail":
        say("ValueError: it failed on purpose hf_" + "a" * 34)
        # As resource trackers do, after the error that matters.
        say("  warnings.warn('2 leaked objects to clean up')")
        sys.exit(3)
    elif kind == "full":
        say("OSError: [Errno 28] No space left on device")
        sys.exit(1)
    elif kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "wait":
        while not Path(f"{control}.go").exists():
            time.sleep(0.02)


def main() -> None:
    step, source, output = sys.argv[1:4]
    if step == "evaluate":
        answers = json.loads(Path(source).read_text())
        control = answers["control"]
    else:
        control = Path(source, "weights.safetensors").resolve().parent.as_posix()
        answers = {"control": control, "answers": [len(control) % 7, 1, 2, 3]}
    kind = fault(control, step)
    if kind == "leave" or (
        kind == "leave once" and Path(f"{control}.log").read_text().count("\n") < 2
    ):
        Path("without_one_more").touch()
    suffer(kind, control)
    Path(source, "cache").mkdir() if step != "evaluate" else None
    if kind == "invalid":
        return
    found = answers if step == "generate" else {"right": 3, "of": 4}
    if step == "evaluate" and sys.argv[4]:
        found["right"] = count_right(["2 + 2", "2 * 2", "4", "5"])
    Path(output).write_text(json.dumps(found))
    Path("link").symlink_to("/etc/passwd")


main()
