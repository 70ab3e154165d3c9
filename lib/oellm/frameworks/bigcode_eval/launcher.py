"""Starts bigcode-evaluation-harness inside its own environment; nothing else of oellm is there.

usage: launcher.py OPTIONS.json ARGUMENT…

The program is a checkout with main.py beside the package bigcode_eval, or a package with the module
bigcode_eval.main. It gets each ARGUMENT. OPTIONS.json says what must be true before it starts, so
that it fails with a message rather than with a score of 0:

    data_sets   names of data sets that must be in the cache if there is no network
    programs    executables that must be on PATH, and `image`, where they come from
    runs_code   whether a correct program must pass here
    isolates    whether programs are those of MultiPL-E, which run without a process of their own
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import re
import runpy
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

_FORK = "nvidia-bigcode-eval"
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
_TRIAL = "assert sum([1, 2]) == 3"
_TRIAL_S = 20.0


def main() -> None:
    """Check what the options ask for, and become the program."""
    options = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    _require_programs(options["programs"], options["image"])
    _require_data_sets(options["data_sets"])
    package = _find_package()
    _write_version()
    # The examples of few-shot prompts are read relative to the directory of the checkout.
    os.chdir(tempfile.mkdtemp())
    os.symlink(package, "bigcode_eval")
    sys.path.insert(0, str(package.parent))
    if options["runs_code"]:
        _require_passing_trial()
    if options["isolates"]:
        _isolate_samples()
    module, script = package / "main.py", package.parent / "main.py"
    sys.argv = [str(script), *sys.argv[2:]]
    if module.is_file():
        runpy.run_module("bigcode_eval.main", run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(script), run_name="__main__")


def _find_package() -> Path:
    spec: Any = importlib.util.find_spec("bigcode_eval")
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"oellm: {sys.executable} has no package bigcode_eval (PYTHONPATH)")
    return Path(next(iter(spec.submodule_search_locations)))


def _write_version() -> None:
    """Write the version of the package into the output, in which this starts.

    A checkout has none: it is the commit that the adapter was made for.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(_FORK)
        Path("version.txt").write_text(f"{_FORK} {version}", encoding="ascii")


def _require_programs(names: list[str], image: str) -> None:
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        sys.exit(
            f"oellm: this image has no {' and no '.join(missing)}, without which every problem "
            f"would fail; the setting images needs {image} as bigcode_eval-evaluate"
        )


def _require_data_sets(names: list[str]) -> None:
    """Exit if a data set is not in the cache, which the program itself only warns of."""
    if not any(os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON") for name in _OFFLINE):
        return
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(home, "datasets"))
    # datasets makes nuprl___multi_pl-e of nuprl/MultiPL-E.
    cached = {_letters(path.name) for path in cache.glob("*")}
    for name in names:
        if _letters(name) not in cached:
            sys.exit(f"oellm: data set {name} is not in the cache {cache}; run oe-fetch")


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _require_passing_trial() -> None:
    """Exit unless the evaluator finds that a correct program passes here."""
    from bigcode_eval.tasks.custom_metrics.execute import check_correctness

    found = check_correctness(_TRIAL, timeout=_TRIAL_S, task_id=0, completion_id=0)
    if not found.get("passed"):
        result = found.get("result")
        sys.exit(f"oellm: the evaluator does not pass a correct program here: {result}")


def unsafe_execute(evaluate: Any, language: str, program: str, found: Any) -> None:
    """Evaluate a program of MultiPL-E; the sandbox protects processes with this function."""
    found.append(evaluate(language, program))


def _isolate_samples() -> None:
    """Evaluate each program of MultiPL-E in a process, as other tasks do, not in a thread."""
    from bigcode_eval.tasks.custom_metrics.multiple_metrics import evaluation

    evaluate = evaluation.eval_string_script
    # Started now, because threads will use it.
    manager = multiprocessing.Manager()

    def evaluate_isolated(language: str, program: str) -> dict[str, Any]:
        found = manager.list()
        arguments = (evaluate, language, program, found)
        process = multiprocessing.Process(target=unsafe_execute, args=arguments)
        process.start()
        process.join()
        return dict(found[0]) if len(found) else {"status": "Exception", "exit_code": 1}

    evaluation.eval_string_script = evaluate_isolated


if __name__ == "__main__":
    main()
