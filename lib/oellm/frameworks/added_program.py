"""Frameworks that other packages add: whatever goes wrong in one names its package.

An adapter of this project is tested with it. That of another package may lack a method, return
something else than the interface says, or raise anything; it must not cost other rows, and its
user must know whom to tell.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from oellm.errors import ExitStatus, InputError, OellmError
from oellm.frameworks.catalogue import Catalogue
from oellm.frameworks.interface import Evaluation
from oellm.frameworks.program import (
    Command,
    InvalidOutputError,
    Need,
    NeededDataSet,
    NeededFile,
    NeededMetric,
    NeededNltk,
    Place,
    ProgramFramework,
    RowSetting,
)
from oellm.frameworks.stages import EVALUATE, GENERATE, RowStage
from oellm.manifest.rows import Row, eval_id
from oellm.metrics.scored_rows import ScoredRow

_T = TypeVar("_T")
_NEEDS = (NeededDataSet, NeededFile, NeededMetric, NeededNltk)
_METHODS = sorted(
    name
    for interface in ProgramFramework.__mro__
    for name, value in vars(interface).items()
    if callable(value) and not name.startswith("_")
)


class AdapterError(OellmError):
    """A package that adds a framework does not do what the interface says."""

    status = ExitStatus.MACHINE


class _Package:
    """A package that adds a framework, for messages."""

    def __init__(self, framework: str, package: str) -> None:
        self.name = package
        self._label = f"framework {framework} (package {package})"

    def load(self, part: str) -> Any:
        """Import a module of the package; raises ModuleNotFoundError if it has none."""
        name = f"{self.name}.{part}"
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                raise
            raise self.error(f"{name}: {_describe(error)}") from error
        except (Exception, SystemExit) as error:
            raise self.error(f"{name}: {_describe(error)}") from error

    def error(self, text: str, row: Row | None = None) -> AdapterError:
        """Return what is wrong with the package, seen at a row."""
        message = f"{self._label}: {text}"
        return AdapterError(str(row.error("eval_suite", message)) if row else message)


class AddedProgram:
    """An adapter of another package, as a `ProgramFramework` that keeps its promises.

    Errors of the interface pass; everything else that the adapter raises, and every answer that is
    none, becomes an AdapterError.
    """

    def __init__(self, package: _Package, adapter: Any) -> None:
        self._package = package
        self._adapter = adapter

    @property
    def version(self) -> str:
        """The version of the framework that the adapter was made for."""
        return str(self._adapter.version)

    def catalogue(self) -> Catalogue:
        """Return what the adapter's method of this name returns, as all methods below."""
        return self._ask("catalogue", Catalogue)

    def settings(self, task: str) -> Mapping[str, RowSetting]:
        """Return the settings of a task."""
        answer = self._ask("settings", Mapping, (task,))  # type: ignore[type-abstract]
        found: Mapping[str, RowSetting] = answer
        self._require("settings", RowSetting, found.values())
        return found

    def check(self, row: Row) -> None:
        """Raise InputError for what the framework cannot do as the row asks."""
        self._ask("check", type(None), (row,))

    def problem_files(self, task: str) -> Sequence[str]:
        """Return the names of the user's files that a task reads."""
        return self._ask_for_each("problem_files", str, (task,))

    def needs(self, row: Row) -> Sequence[Need]:
        """Return what must be on the node."""
        return self._ask_for_each("needs", _NEEDS, (row,))

    def stages(self, row: Row) -> Sequence[RowStage]:
        """Return the stages of a row."""
        stages: Sequence[RowStage] = self._ask_for_each("stages", RowStage, (row,))
        names = [stage.name for stage in stages]
        if names not in ([EVALUATE], [GENERATE, EVALUATE]):
            known = f"[{EVALUATE}] or [{GENERATE}, {EVALUATE}]"
            raise self._package.error(f"stages: expected {known}, got {names}", row)
        if any(stage.is_resident for stage in stages):
            raise self._package.error("stages: only oellm's own frameworks are resident", row)
        return stages

    def generation_row(self, row: Row) -> Row:
        """Return the row as far as its first stage depends on it."""
        found = self._ask("generation_row", Row, (row,))
        again = self._ask("generation_row", Row, (found,))
        if eval_id(again.without("eval_id")) != eval_id(found.without("eval_id")):
            raise self._package.error("generation_row: its own row has another one", row)
        return found

    def batches(self, rows: Sequence[Row], stage: RowStage) -> list[list[Row]]:
        """Return the rows in batches."""
        batches = [
            list(batch) for batch in self._ask_for_each("batches", (list, tuple), (rows, stage))
        ]
        given = sorted(id(row) for row in rows)
        if sorted(id(row) for batch in batches for row in batch) != given or [] in batches:
            raise self._package.error("batches: expected every row in one batch", rows[0])
        return batches

    def command(self, rows: Sequence[Row], stage: RowStage, place: Place) -> Command:
        """Return what computes a stage of a batch of rows."""
        command = self._ask("command", Command, (rows, stage, place))
        texts = [*command.argv, *command.env, *command.env.values(), *command.files]
        self._require("command", str, [*texts, *command.reads], row=rows[0])
        self._require("command", bytes, command.files.values(), row=rows[0])
        if not command.argv:
            raise self._package.error("command: argv is empty", rows[0])
        return command

    def check_output(self, row: Row, stage: RowStage, output: Path) -> None:
        """Raise InvalidOutputError if a stage's output is not valid for a row."""
        self._ask("check_output", type(None), (row, stage, output))

    def evaluation(self, row: Row, outputs: Mapping[str, Path]) -> Evaluation:
        """Return the scores of a row."""
        return self._ask("evaluation", Evaluation, (row, outputs))

    def _ask(self, method: str, kind: type[_T], arguments: Sequence[Any] = ()) -> _T:
        """Call a method of the adapter, whose answer must be of a kind."""
        row = _first_row(arguments)
        try:
            answer = getattr(self._adapter, method)(*arguments)
        except (InputError, InvalidOutputError):
            raise
        except (Exception, SystemExit) as error:
            raise self._package.error(f"{method}: {_describe(error)}", row) from error
        if not isinstance(answer, kind):
            expected = "nothing" if kind is type(None) else kind.__name__
            got = type(answer).__name__
            raise self._package.error(f"{method}: expected {expected}, got {got}", row)
        return answer

    def _ask_for_each(self, method: str, kind: Any, arguments: Sequence[Any]) -> list[Any]:
        """Call a method that returns several things of a kind."""
        answer = self._ask(method, Sequence, arguments)  # type: ignore[type-abstract]
        self._require(method, kind, answer, row=_first_row(arguments))
        return list(answer)

    def _require(
        self, method: str, kind: Any, values: Iterable[object], *, row: Row | None = None
    ) -> None:
        for value in values:
            if not isinstance(value, kind):
                raise self._package.error(f"{method}: unexpected {type(value).__name__}", row)


class AddedReader:
    """The reader of a framework's own result files that another package adds."""

    def __init__(self, framework: str, package: str) -> None:
        self._package = _Package(framework, package)
        self.__name__ = f"{package}.results"

    def read_scored_rows(self, document: dict[str, Any], path: str) -> list[ScoredRow] | None:
        """Return the rows of a file that the framework wrote; None if it did not write it.

        Raises ValueError, with the reason, if the file or the package is damaged.
        """
        try:
            reader = self._package.load("results")
        except ModuleNotFoundError:
            # Not every framework writes files that somebody wants to collect.
            return None
        except AdapterError as error:
            raise ValueError(str(error)) from error
        try:
            found: list[ScoredRow] | None = reader.read_scored_rows(document, path)
        except ValueError:
            raise
        except (Exception, SystemExit) as error:
            raise ValueError(str(self._package.error(f"results: {_describe(error)}"))) from error
        return found


def create_added_program(framework: str, package: str) -> AddedProgram:
    """Return the adapter of a package; raises AdapterError if it has none that can be asked."""
    named = _Package(framework, package)
    try:
        module = named.load("program")
    except ModuleNotFoundError as error:
        raise named.error(f"it has no module {package}.program") from error
    if not callable(create := getattr(module, "create_program", None)):
        raise named.error(f"{package}.program has no function create_program")
    try:
        adapter = create()
    except (Exception, SystemExit) as error:
        raise named.error(f"create_program: {_describe(error)}") from error
    lacking = [name for name in _METHODS if not callable(getattr(adapter, name, None))]
    lacking += [] if hasattr(adapter, "version") else ["version"]
    if lacking:
        raise named.error(f"{type(adapter).__name__} has no {', '.join(lacking)}")
    return AddedProgram(named, adapter)


def _first_row(arguments: Sequence[Any]) -> Row | None:
    """Return the row that a call is about, or the first of several."""
    first = arguments[0] if arguments else None
    if isinstance(first, (list, tuple)) and first:
        first = first[0]
    return first if isinstance(first, Row) else None


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
