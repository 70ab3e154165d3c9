"""The manifest of a run: the rows of its tasks, with the cells that the command line gives them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.core import schema
from oellm.core.log import Log
from oellm.errors import InputError, OellmError, UsageError, nearest, raise_errors
from oellm.global_benchmark.benchmark_tasks import MODEL, TASK, BenchmarkTask, Sampling, vllm_cells
from oellm.global_benchmark.config_file import BenchmarkConfig
from oellm.manifest.cells import find_fault
from oellm.manifest.csv_file import write_models
from oellm.manifest.locations import locate_row
from oellm.manifest.model_spec import split_models
from oellm.manifest.rows import Row, check_row

# Columns whose values are lists of arguments: one more is added to them.
_JOINED = ("gen_kwargs", "model_args")


class GivenCell(NamedTuple):
    """A cell of the command line, for the rows of one framework, or of all for an empty name."""

    eval_suite: str
    column: str
    value: str


def parse_cell(text: str) -> GivenCell:
    """Return the cell of a text `COLUMN=VALUE` or `FRAMEWORK.COLUMN=VALUE`.

    Raises UsageError if it names no framework or no column that a row may have.
    """
    place, equals, value = text.partition("=")
    suite, dot, column = place.rpartition(".")
    if not equals:
        raise UsageError(f"--cell: expected COLUMN=VALUE, got {text!r}")
    if dot and suite not in frameworks.runnable_names():
        raise UsageError(f"--cell: unknown framework {suite!r}{nearest(suite, frameworks.names())}")
    columns = [name for name, spec in schema.table("manifest").items() if spec.get("flag")]
    columns.append("n_shot")
    if column not in columns:
        raise UsageError(f"--cell: unknown column {column!r}{nearest(column, columns)}")
    return GivenCell(suite, column, value)


def require_values(cells: Iterable[GivenCell]) -> None:
    """Raise UsageError for a cell that can be no value of its column, or that has two values."""
    seen: set[tuple[str, str]] = set()
    for cell in cells:
        place = (cell.eval_suite, cell.column)
        if place in seen and cell.column not in _JOINED:
            raise UsageError(f"{'.'.join(filter(None, place))} is given twice")
        seen.add(place)
        if fault := find_fault(cell.column, cell.value):
            raise UsageError(f"{cell.column}: {fault}")


class GivenModel(NamedTuple):
    """A model as the user names it, and the configuration whose binds may have it."""

    text: str
    config: BenchmarkConfig

    def cell(self) -> str:
        """Return its cell of a manifest; raises UsageError unless it is one model."""
        try:
            specs = split_models(self.text)
        except ValueError as error:
            raise UsageError(f"--model: {error}") from None
        if len(specs) != 1:
            raise UsageError(f"--model: expected one model, got {self.text!r}")
        return str(specs[0].at(self.config.find_on_host(specs[0].path)))


def make_rows(
    model: GivenModel,
    tasks: Iterable[BenchmarkTask],
    *,
    samplings: Mapping[str, Sequence[Sampling]],
    cells: Sequence[GivenCell],
    cluster: Cluster,
    log: Log,
) -> list[Row]:
    """Return the checked rows of a model; `samplings` are by framework.

    Raises what is wrong with them, each named by its task. `log` gets a message if the names of a
    framework's tasks must be looked up slowly.
    """
    cell = model.cell()
    rows: list[Row] = []
    errors: dict[str, OellmError] = {}
    for task in tasks:
        made = task.rows(cell, samplings.get(task.eval_suite, ()))
        try:
            rows += [_complete(row, cells, cluster=cluster, model=model.text) for row in made]
        except InputError as error:
            text = f"{task.name}: {error}"
            errors[text] = UsageError(text)
    raise_errors(list(errors.values()))
    others = [row for row in rows if ":" in row[TASK]]
    unknown = frameworks.find_unknown_tasks(others, log) if others else []
    raise_errors([UsageError(f"--tasks: {error.message}") for error in unknown])
    return rows


def write_rows(rows: Sequence[Row]) -> bytes:
    """Return a manifest of the rows."""
    text = io.StringIO()
    write_models(text, [{}], rows)
    return text.getvalue().encode()


def _complete(row: Row, given: Sequence[GivenCell], *, cluster: Cluster, model: str) -> Row:
    """Return a row with all its cells; raises InputError for one that cannot be evaluated."""
    made = row.with_cells(**_further_cells(row, given, cluster), **{MODEL: model})
    frameworks.require_known_values(check_row(made))
    return locate_row(made)


def _further_cells(row: Row, given: Sequence[GivenCell], cluster: Cluster) -> dict[str, str]:
    """Return the cells of a row that its task does not decide."""
    suite = row.typed.eval_suite
    cells = dict(vllm_cells(suite)) if _has_vllm(cluster, suite) else {}
    of_suite = [each for each in given if each.eval_suite in ("", suite)]
    # What is given for the framework comes before what is given for all.
    of_suite.sort(key=lambda each: each.eval_suite)
    if any(each.column == "backend" for each in of_suite):
        cells = {}
    for each in of_suite:
        before = cells.get(each.column) or row[each.column]
        joined = each.column in _JOINED and before
        cells[each.column] = f"{before},{each.value}" if joined else each.value
    return cells


def _has_vllm(cluster: Cluster, suite: str) -> bool:
    """Return whether vLLM is to be the backend of a framework that has others, too.

    It is, as it always was, unless its image is one that is known to lack it.
    """
    image = cluster.mapping("images").get(suite, "")
    return not image.rpartition("/")[2].startswith(f"{suite}-")
