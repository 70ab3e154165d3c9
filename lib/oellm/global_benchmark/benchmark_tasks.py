"""The tasks of Global Benchmarks, and the rows of the frameworks that they stand for.

benchmarks.json is the table; it also says which images each definition of Global Benchmarks is.
"""

from __future__ import annotations

import functools
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from oellm import frameworks
from oellm.core import json_codec
from oellm.errors import InputError, UsageError, nearest
from oellm.manifest.rows import Row

# Our columns in a manifest: the task, and what its results say beside the metrics.
TASK, SETTINGS = "benchmark_task", "benchmark_settings"
# The model as the user names it.
MODEL = "benchmark_model"
_PAIR = re.compile(r"\(?\s*([0-9]*\.?[0-9]+)\s*,\s*([1-9][0-9]*)\s*\)?")


class Sampling(NamedTuple):
    """How answers are drawn: a temperature, and the number of answers to each problem."""

    temperature: float
    n_samples: int


class BenchmarkTask(NamedTuple):
    """A task of Global Benchmarks, or `FRAMEWORK:TASK` for any other one.

    Attributes:
        name: Its name.
        eval_suite: The framework.
        tasks: The framework's tasks, by the subset that each one is; one of no name as a rule.
        cells: Further cells of the rows.
        own_cells: Those of them that this task has and others of its framework do not.
        needs_samples: Whether it is evaluated once for each pair of temperature and n_samples.
    """

    name: str
    eval_suite: str
    tasks: Mapping[str, str]
    cells: Mapping[str, str]
    own_cells: Mapping[str, str]
    needs_samples: bool

    def rows(self, model: str, samplings: Sequence[Sampling]) -> Iterator[Row]:
        """Yield the rows of a model; `samplings` count if the task needs them."""
        for sampling in samplings if self.needs_samples else [None]:
            for subset, task in self.tasks.items():
                settings: dict[str, Any] = sampling._asdict() if sampling else {}
                cells = {"model_path": model, "task_path": task, "n_shot": ""}
                cells |= {"eval_suite": self.eval_suite, **self.cells}
                if sampling:
                    cells["gen_kwargs"] = _gen_kwargs(self.eval_suite, sampling)
                if subset:
                    settings["subset"] = subset
                cells |= {TASK: self.name, SETTINGS: json_codec.dumps(settings).decode()}
                yield Row(cells)

    def shown(self) -> tuple[str, str, str, str]:
        """Return what a list has of the task: name, framework, its tasks, and further cells."""
        cells = ",".join(f"{name}={value}" for name, value in self.own_cells.items())
        return self.name, self.eval_suite, " ".join(self.tasks.values()), cells


def known_tasks() -> Mapping[str, BenchmarkTask]:
    """Return the tasks of Global Benchmarks by name, in its order."""
    return {name: _listed(name, entry) for name, entry in _content()["tasks"].items()}


def image_definitions() -> Mapping[str, Sequence[str]]:
    """Return what each definition of Global Benchmarks makes, as keys of the setting images."""
    found: Mapping[str, Sequence[str]] = _content()["definitions"]
    return found


def image_candidates() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Return the definitions that make the image of each key of the setting images, best first.

    They are by kind: cuda, rocm or cpu. What needs no GPU has only the last.
    """
    found: Mapping[str, Mapping[str, Sequence[str]]] = _content()["images"]
    return found


def vllm_cells(suite: str) -> Mapping[str, str]:
    """Return the cells with which a framework uses vLLM if it can also do without."""
    found: Mapping[str, str] = _content()["frameworks"].get(suite, {}).get("vllm", {})
    return found


def find_task(name: str) -> BenchmarkTask:
    """Return a task by its name here, or by `FRAMEWORK:TASK`; raises UsageError for others."""
    known = known_tasks()
    if name in known:
        return known[name]
    suite, colon, task = name.partition(":")
    if not colon or suite not in frameworks.runnable_names() or not task:
        hint = nearest(name, known)
        raise UsageError(
            f"--tasks: unknown task {name!r}{hint}; `global-benchmark list` shows them, and "
            "FRAMEWORK:TASK is any task of a framework"
        )
    return _listed(name, {"eval_suite": suite, "task_path": task})


def find_obstacle(task: BenchmarkTask) -> str:
    """Return why a task cannot be run; empty if nothing is known against it."""
    try:
        for row in task.rows("a/model", [Sampling(0.2, 1)]):
            frameworks.require_known_values(row)
    except InputError as error:
        return error.message
    return ""


def parse_samplings(text: str) -> list[Sampling]:
    """Return the pairs of a text such as `0.2,20` or `[(0.2, 20), (0.8, 100)]`.

    Raises ValueError for any other text.
    """
    inner = text.strip().removeprefix("[").removesuffix("]").strip()
    pairs = _PAIR.findall(inner)
    if not pairs or _PAIR.sub("", inner).strip(" ,;"):
        raise ValueError(f"expected (temperature, n_samples), such as (0.2, 20), got {text!r}")
    return [Sampling(float(temperature), int(count)) for temperature, count in pairs]


def _listed(name: str, entry: Mapping[str, Any]) -> BenchmarkTask:
    suite = entry["eval_suite"]
    framework = _content()["frameworks"].get(suite, {})
    return BenchmarkTask(
        name=name,
        eval_suite=suite,
        tasks=entry.get("subsets") or {"": entry.get("task_path", name)},
        cells={**framework.get("cells", {}), **entry.get("cells", {})},
        own_cells=entry.get("cells", {}),
        needs_samples=framework.get("samples", False),
    )


def _gen_kwargs(suite: str, sampling: Sampling) -> str:
    """Return the cell gen_kwargs; at the temperature 0 nothing is drawn."""
    greedy = _content()["frameworks"][suite]["greedy"]
    temperature = f"temperature={sampling.temperature:g}"
    drawn = temperature if sampling.temperature else greedy
    return f"n_samples={sampling.n_samples},{drawn}"


@functools.cache
def _content() -> dict[str, Any]:
    found: dict[str, Any] = json_codec.loads(
        pkgutil.get_data(__package__, "benchmarks.json") or b""
    )
    return found
