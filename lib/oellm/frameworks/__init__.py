"""The registry of evaluation frameworks: one package each, by the name in column eval_suite."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

from oellm.core import schema
from oellm.core.display import format_count
from oellm.core.log import Log
from oellm.errors import InputError, MachineError, UsageError, nearest
from oellm.frameworks.interface import (
    Evaluator,
    Model,
    NativeResultReader,
    ResultReader,
    SampleReader,
    Tasks,
)
from oellm.frameworks.program import Program, ProgramFramework
from oellm.frameworks.stages import EVALUATE, RowStage
from oellm.manifest.rows import Row, eval_id
from oellm.metrics.score_tables import Harness
from oellm.runs.frozen_worker import AddedFrameworks, added_frameworks
from oellm.task_sources.errors import UncachedSourceError


class _Framework(NamedTuple):
    """A framework.

    Attributes:
        package: where its adapter and readers are.
        is_resident: whether the worker itself evaluates its rows, with one model for many rows.
        is_program: whether its rows, or some of their stages, are evaluated by a program.
        harness: how the dashboard knows it, if not by its own name.
    """

    package: str
    is_resident: bool = False
    is_program: bool = False
    harness: Harness | None = None

    @property
    def is_runnable(self) -> bool:
        """Whether oe-run-task can run it, or only its results are read."""
        return self.is_resident or self.is_program


# The number of lines that a message names.
_NAMED = 10

# Readers are asked in this order: the first one that recognises a file reads it.
# Evalchemy's files look like lm-eval's.
_FRAMEWORKS = {
    "evalchemy": _Framework("oellm.frameworks.evalchemy"),
    "lm_eval": _Framework(
        "oellm.frameworks.lm_eval",
        is_resident=True,
        is_program=True,
        harness=Harness("lm-eval-harness", has_filters=True),
    ),
    "lighteval": _Framework("oellm.frameworks.lighteval", is_program=True),
    "bigcode_eval": _Framework("oellm.frameworks.bigcode_eval", is_program=True),
    "bigcodebench": _Framework("oellm.frameworks.bigcodebench", is_program=True),
    "evalplus": _Framework("oellm.frameworks.evalplus", is_program=True),
}


def names() -> list[str]:
    """Return the names of the frameworks whose results can be read."""
    return sorted(_all())


def runnable_names() -> list[str]:
    """Return the names of the frameworks that oe-run-task can run."""
    return sorted(name for name, framework in _all().items() if framework.is_runnable)


def is_resident(name: str) -> bool:
    """Return whether the worker itself evaluates a framework's rows, with one model for many."""
    return name in _FRAMEWORKS and _FRAMEWORKS[name].is_resident


def select_runnable(
    rows: Iterable[Row], log: Log, *, skipped: list[Row] | None = None
) -> Iterator[Row]:
    """Yield the rows of a manifest whose frameworks oe-run-task can run.

    `skipped` gets the rows of frameworks whose results oellm can only read, and after the last row
    `log` gets their places. Without `skipped`, such rows are an InputError after the last row; so
    is, in any case, a framework that is not known, and a manifest without a row that can be run.
    """
    runnable = {"": True}
    left_out: dict[str, list[Row]] = {}
    is_empty = True
    for row in rows:
        text = row["eval_suite"]
        if text not in runnable:
            runnable[text] = _is_runnable(row)
            if runnable[text] and (refusal := _refusal(row.value("eval_suite"))):
                log(f"eval_suite {text}: this is oellm's own{refusal}")
        if runnable[text]:
            is_empty = False
            yield row
        else:
            left_out.setdefault(row.value("eval_suite"), []).append(row)
    for name, others in left_out.items():
        text = _describe_unsupported(name)
        if is_empty:
            raise others[0].error("eval_suite", f"no row can be run: {text}")
        if skipped is None:
            raise InputError(f"{text}; --skip_unsupported leaves these rows out", _places(others))
        skipped += others
        log(f"{_places(others)}: eval_suite: {text}; left out: {format_count(len(others), 'row')}")


def split_supported(rows: Iterable[Row]) -> tuple[list[Row], list[str]]:
    """Return the rows that oe-run-task can run, and for each reason why not, the other tasks."""
    supported = []
    tasks: dict[str, list[str]] = {}
    for row in rows:
        if reason := _describe_unsupported(row["eval_suite"]):
            tasks.setdefault(reason, []).append(row["task_path"])
        else:
            supported.append(row)
    return supported, [f"{reason}: {', '.join(names)}" for reason, names in tasks.items()]


def _describe_unsupported(name: str) -> str:
    """Return why rows of a framework cannot be run; empty if they can."""
    framework = _find(name)
    if framework is None or framework.is_runnable:
        return ""
    return f"oellm does not run {name}, it only reads its results"


def _is_runnable(row: Row) -> bool:
    """Return whether oe-run-task can run a row; raises InputError for an unknown framework."""
    return _require_known(row).is_runnable


def _require_known(row: Row) -> _Framework:
    name: str = row.value("eval_suite")
    if (framework := _find(name)) is not None:
        return framework
    known = ", ".join(runnable_names())
    raise row.error("eval_suite", f"expected one of {known}, got {name!r}{_refusal(name)}")


def _refusal(name: str) -> str:
    """Return `; ` and why a package that adds a framework cannot do so, or an empty text."""
    reason = _added().refused.get(name)
    return f"; a framework {name} of another package is left out: {reason}" if reason else ""


def _places(rows: Sequence[Row]) -> str:
    """Return the file and the lines of some rows, at most ten of them."""
    lines = ", ".join(str(row.line) for row in rows[:_NAMED])
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"{rows[0].source}:{lines}{more}"


def require_known_values(row: Row) -> None:
    """Raise InputError for a value of a row that its framework cannot use, whatever the task."""
    _require_known(row)
    name = row.typed.eval_suite
    if is_resident(name):
        _module(name, "arguments").require_known_values(row)
    if program := create_program_framework(name):
        program.check(row)


def find_unknown_tasks(rows: Iterable[Row], log: Log) -> list[InputError]:
    """Return an error for each task of the rows that its framework does not have.

    Tasks of frameworks that oe-run-task cannot run are not looked up, nor those of sources that are
    not in the cache yet.
    """
    tasks: dict[str, Tasks] = {}
    unknown: dict[str, InputError] = {}
    for row in rows:
        name = row.typed.eval_suite
        framework = _find(name)
        if framework is None or not framework.is_runnable:
            continue
        if name not in tasks:
            tasks[name] = create_tasks(name, log)
        try:
            tasks[name].require(row.typed.task_path, row.typed.include_path)
        except UncachedSourceError:
            # oe-fetch gets the source, and looks the task up in it.
            continue
        except InputError as error:
            told = row.error(error.column, error.message)
            unknown[str(told)] = told
    return list(unknown.values())


def list_task_names(name: str, log: Log) -> list[str]:
    """Return the names of a framework's tasks and groups, as far as oellm knows them.

    Raises MachineError if that needs the framework, and it is not installed.
    """
    if program := create_program_framework(name):
        return _catalogued_names(program)
    names: list[str] = _module(name, "tasks").list_names(log)
    return names


def list_all_tasks(log: Log) -> list[str]:
    """Return the tasks and groups of all frameworks that run, as `FRAMEWORK:TASK`.

    `log` says whose cannot be listed, and why.
    """
    found: list[str] = []
    for suite in runnable_names():
        try:
            names = list_task_names(suite, log)
        except MachineError as error:
            log(f"{suite}: its tasks are not listed: {error}")
            continue
        found += (f"{suite}:{name}" for name in names)
    return found


def list_known_task_names(name: str) -> list[str]:
    """Return the same names as far as that takes no slow scan; none of an unknown framework."""
    if program := create_program_framework(name):
        return _catalogued_names(program)
    names: list[str] = _module(name, "tasks").list_known_names() if is_resident(name) else []
    return names


def _catalogued_names(program: ProgramFramework) -> list[str]:
    catalogue = program.catalogue()
    return sorted([*catalogue.tasks, *catalogue.groups])


def find_harness(name: str) -> Harness:
    """Return how the dashboard knows a framework; one that is not built in has its own name."""
    framework = _find(name)
    return (framework and framework.harness) or Harness(name, has_filters=False)


@functools.cache
def create_program(name: str) -> Program | None:
    """Return what runs a framework, or a stage of it, as a program; None if nothing does."""
    framework = _find(name)
    if framework is None or not framework.is_program:
        return None
    if name in _FRAMEWORKS:
        program: Program = _module(name, "program").create_program()
        return program
    from oellm.frameworks.added_program import create_added_program

    return create_added_program(name, framework.package)


def create_program_framework(name: str) -> ProgramFramework | None:
    """Return what runs a framework all of whose stages are programs; None for other frameworks."""
    if is_resident(name):
        return None
    return cast("ProgramFramework | None", create_program(name))


def stages_of(row: Row) -> Sequence[RowStage]:
    """Return the stages of a row whose framework oe-run-task can run."""
    if program := create_program(row.typed.eval_suite):
        return program.stages(row)
    return [RowStage(EVALUATE, uses_gpu=True, is_resident=True)]


def generation_key(row: Row) -> str:
    """Return the KEY of the output of the first of a row's two stages, which other rows may share.

    Raises UsageError if no framework here has such stages.
    """
    return eval_id(generation_row(row))


def generation_row(row: Row) -> Row:
    """Return a row with two stages as far as the first one depends on it.

    What oe-fetch has found out of the row's own task is left out if that is another task. Raises
    UsageError if no framework here has such stages.
    """
    suite = row.typed.eval_suite
    if (program := create_program(suite)) is None:
        raise UsageError(f"{suite} has rows with two stages, but this oellm runs none of them")
    generation = program.generation_row(row)
    is_other = generation["task_path"] != row["task_path"]
    return generation.without("task_digest", "task_version") if is_other else generation


def create_model(name: str, log: Log) -> Model:
    """Import a framework and return its model, with nothing loaded yet."""
    model: Model = _module(name, "model").create_model(log)
    return model


def create_evaluator(name: str, log: Log) -> Evaluator:
    """Return the part of a framework that evaluates rows; nothing heavy is imported yet."""
    evaluator: Evaluator = _module(name, "evaluator").create_evaluator(log)
    return evaluator


def create_tasks(name: str, log: Log) -> Tasks:
    """Return the tasks of a framework; nothing heavy is imported yet."""
    from oellm.frameworks.program_tasks import ProgramTasks

    if program := create_program_framework(name):
        return ProgramTasks(name, program)
    tasks: Tasks = _module(name, "tasks").create_tasks(log)
    return tasks


def find_version_fault(name: str, version: str) -> str:
    """Return why oellm does not work with a version of a resident framework; empty if it does."""
    fault: str = _module(name, "environment").find_version_fault(version)
    return fault


def result_readers() -> list[ResultReader]:
    """Return the readers of all frameworks' result files, in the order in which to ask them."""
    readers: list[ResultReader] = [
        importlib.import_module(f"{framework.package}.results")
        for framework in _FRAMEWORKS.values()
    ]
    if added := _added().packages:
        from oellm.frameworks.added_program import AddedReader

        readers += [AddedReader(name, package) for name, package in added.items()]
    return readers


def native_results(name: str) -> NativeResultReader | None:
    """Return the reader of native results inside ours; None if the framework is not resident."""
    if not is_resident(name):
        return None
    results: NativeResultReader = _module(name, "results")
    return results


def samples_reader(name: str) -> SampleReader | None:
    """Return the reader of a framework's samples; None for a framework that has none."""
    if not is_resident(name):
        return None
    samples: SampleReader = _module(name, "samples")
    return samples


def _module(name: str, part: str) -> Any:
    framework = _find(name)
    if framework is None or not framework.is_runnable:
        raise UsageError(f"unknown framework {name!r}{nearest(name, runnable_names())}")
    return importlib.import_module(f"{framework.package}.{part}")


def _find(name: str) -> _Framework | None:
    """Return a framework of this project, or of a package that adds one; None for any other."""
    return _FRAMEWORKS.get(name) or _all().get(name)


@functools.cache
def _all() -> dict[str, _Framework]:
    """Return all frameworks; those that packages add come last, and replace none."""
    added = _added().packages.items()
    return {**_FRAMEWORKS, **{name: _Framework(each, is_program=True) for name, each in added}}


@functools.cache
def _added() -> AddedFrameworks:
    """Return what packages add: nothing that a row would not find under this name."""
    added, spellings = added_frameworks(), schema.table("manifest")["eval_suite"]["spellings"]
    refused = {
        name: f"package {package}: oellm has the name itself"
        for name, package in added.packages.items()
        if name in _FRAMEWORKS or name in spellings
    }
    kept = {name: each for name, each in added.packages.items() if name not in refused}
    return AddedFrameworks(kept, {**added.refused, **refused})
