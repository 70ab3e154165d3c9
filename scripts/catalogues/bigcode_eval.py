"""The tasks of bigcode-evaluation-harness, and what each one loads, as its own classes tell it."""

import functools
import hashlib
import inspect
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

# The numbers of problems that are known without the data sets.
_HUMANEVAL = ("humaneval", "humaneval-unstripped", "instruct_wizard_humaneval")
_PROBLEMS = {**dict.fromkeys(_HUMANEVAL, 164), "mbpp": 500}


class _DataSet:
    """Stands for a loaded data set, and notes which split of it is used."""

    def __init__(self, noted: list[str]) -> None:
        self._noted = noted

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            self._noted[-1] = key
            return self
        return {"stop_tokens": []}

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return _PROBLEMS["mbpp"]  # the task refuses any other

    def filter(self, *_: Any) -> Any:
        return self


def describe() -> dict[str, Any]:
    _leave_out("pyext", "mosestokenizer")
    import bigcode_eval
    import datasets

    noted: list[list[str]] = []
    loaded = functools.partial(_note, noted)
    datasets.load_dataset = loaded
    from bigcode_eval import tasks

    for name, module in list(sys.modules.items()):
        if name.startswith("bigcode_eval") and hasattr(module, "load_dataset"):
            module.load_dataset = loaded  # type: ignore[attr-defined]
    catalogue, definitions = {}, {}
    for name in tasks.ALL_TASKS:
        source = inspect.getsource(sys.modules[_home(tasks.TASK_REGISTRY[name])])
        digest = hashlib.sha256(f"{name}\n{source}".encode()).hexdigest()[:16]
        catalogue[name] = {"digest": digest} | (
            {"n_docs": _PROBLEMS[name]} if name in _PROBLEMS else {}
        )
        definitions[name] = _define(tasks.TASK_REGISTRY[name], source, noted)
    top = Path(bigcode_eval.__file__).parent.parent
    return {
        "catalogue.json": {"version": _version(top), "tasks": catalogue},
        "definitions.json": definitions,
    }


def _leave_out(*names: str) -> None:
    """Stand in for packages that only tasks need which nobody can run."""
    for name in names:
        module = types.ModuleType(name)
        module.RuntimeModule = module.MosesTokenizer = None  # type: ignore[attr-defined]
        sys.modules.setdefault(name, module)


def _note(noted: list[list[str]], path: Any, name: Any = None, revision: Any = None) -> _DataSet:
    """Note the name, configuration and revision of a data set, and later its split."""
    noted.append([path or "", name or "", revision or "", ""])
    return _DataSet(noted[-1])


def _home(task: Any) -> str:
    """Return the module of the class that says what a task is."""
    modules = [each.__module__ for each in task.__mro__]
    return str(next(name for name in modules if name.startswith("bigcode_eval.tasks.")))


def _define(task: Any, source: str, noted: list[list[str]]) -> dict[str, Any]:
    noted.clear()
    parameters = inspect.signature(task).parameters
    # DS-1000 would download its program; load_data_path is what another task has generated.
    can_be_made = "ds1000" not in _home(task) and "load_data_path" not in parameters
    required = [n for n, each in parameters.items() if each.default is each.empty and n == "prompt"]
    made = task(**dict.fromkeys(required, "")) if can_be_made else None
    noted[:] = [each for each in noted if each[0]]
    if noted:
        # Only the data set that is loaded last is used.
        noted[:-1] = [[*each[:-1], ""] for each in noted[:-1]]
        made.get_dataset()
    executes = made is None or bool(made.requires_execution)
    defined: dict[str, Any] = {"executes": executes}
    if noted:
        defined["data_sets"] = [list(each) for each in noted]
    if metrics := [name for name in _METRICS if f'load("{name}")' in source]:
        defined["metrics"] = metrics
    if "prompt" in parameters and not required:
        defined["prompt"] = parameters["prompt"].default
    return defined


_METRICS = ("bleu", "Muennighoff/code_eval_octopack")


def _version(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short=8", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
