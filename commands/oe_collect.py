"""oe-collect: print the metrics of runs, or the rows that still lack a result.

Usage:
  oe-collect [options] [--] [RUN_DIR]...

Options:
  --format=FORMAT   csv, jsonl, table or markdown. [default: csv]
  --columns=NAMES   Columns to print, separated by commas; left out, all of them in csv and
                    jsonl, the most important ones in tables.
  --missing         Print the manifest rows without a valid result, in CSV for oe-render.
  --help            Print this text.
  --version         Print the version.

Input: run directories; or on stdin, line by line, result objects (from oe-run-task) and
  run objects (from oe-submit).

Output: metric records (schema.json, table `metric`), one for each task, metric and
  filter, in the order of the manifest. csv and jsonl stream, tables buffer. Results
  are matched to rows by eval_id alone. With several runs, a row is missing only if
  none of them has its result.

Exit status: 0 done, 1 a row on stdin had failed, or a result file is damaged; 2 bad
  input.

Examples:
  oe-collect --format table RUN_DIR
  oe-collect --missing RUN_DIR | oe-render | oe-submit
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, InputError, UsageError, nearest

if TYPE_CHECKING:
    from oellm.run_directory import Run
    from oellm.scored_rows import ScoredRow


class Options(NamedTuple):
    """The command line."""

    run_dirs: list[str]
    layout: str
    columns: list[str]
    missing: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-collect", __doc__, _collect, argv)


def _options(arguments: cli.Arguments) -> Options:
    from oellm import metric_records, tables

    layout, known = arguments["--format"], metric_records.columns()
    if layout not in tables.FORMATS:
        expected = ", ".join(tables.FORMATS)
        raise UsageError(f"--format: expected one of {expected}, got {layout!r}")
    columns = [name.strip() for name in (arguments["--columns"] or "").split(",") if name.strip()]
    for name in columns:
        if name not in known:
            raise UsageError(f"--columns: no column is called {name!r}{nearest(name, known)}")
    return Options(
        [path for path in arguments["RUN_DIR"] if path != "-"],
        layout,
        columns or (known if layout in tables.STREAMED else metric_records.shown_columns()),
        arguments["--missing"],
    )


def _collect(arguments: cli.Arguments) -> int:
    from oellm import metric_records, run_directory, tables, task_groups

    options = _options(arguments)
    collection = Collection()
    primary = metric_records.PrimaryMetrics(task_groups.primary_metrics(os.environ))
    # All are looked at first: half a table is worse than none.
    runs = [run_directory.load(path) for path in options.run_dirs]
    if options.missing:
        return _print_missing(runs or list(_runs_on_stdin()))
    results = collection.of_runs(runs) if runs else collection.of_stdin()
    found = (record for scored in results for record in metric_records.records(scored, primary))
    tables.write(found, options.columns, options.layout, sys.stdout)
    return ExitStatus.FAILED if collection.failures else ExitStatus.DONE


class Collection:
    """Finds results, and tells the user of those that are not there."""

    def __init__(self) -> None:
        self.failures = 0

    def of_runs(self, runs: list[Run]) -> Iterator[ScoredRow]:
        """Yield the valid results of runs, one run after the other."""
        for run in runs:
            yield from self.of_run(run)

    def of_run(self, run: Run) -> Iterator[ScoredRow]:
        """Yield the valid results of a run, in the order of its manifest."""
        from oellm import scored_rows
        from oellm.results import problem

        missing = 0
        for row in run.rows():
            try:
                result = run.store.read_result(row["eval_id"])
                reason = problem(result, row["eval_id"])
            except FileNotFoundError:
                missing += 1
                continue
            except ValueError as error:
                reason = f"it is not JSON: {error}"
            if reason:
                self._fail(f"{run.store.result_path(row['eval_id'])}: left out, {reason}")
            else:
                yield scored_rows.of_result(result, str(run.path))
        if missing:
            cli.message(f"{run.path}: {missing} of {run.record['n_rows']} rows have no result yet")

    def of_stdin(self) -> Iterator[ScoredRow]:
        """Yield the valid results among lines on stdin, and those of runs that they name."""
        from oellm import run_directory, scored_rows
        from oellm.results import problem

        for number, record in _objects_on_stdin():
            if "oellm" not in record:
                yield from self.of_run(run_directory.load(_run_dir(record, number)))
                continue
            if not (reason := problem(record)):
                place = (record["oellm"].get("provenance") or {}).get("run_dir", "")
                yield scored_rows.of_result(record, place)
                continue
            failure = record["oellm"].get("failure") or {}
            reason = failure.get("message") or reason
            task = (record["oellm"].get("row") or {}).get("task_path", "")
            self._fail(f"stdin:{number}: {task} has no result: {reason}")

    def _fail(self, text: str) -> None:
        self.failures += 1
        cli.message(text)


def _objects_on_stdin() -> Iterator[tuple[int, dict[str, Any]]]:
    from oellm import json_codec

    number = 0
    with cli.open_input(None) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                record = json_codec.loads(line.encode("utf-8"))
            except ValueError as error:
                place = f"stdin:{number}:{getattr(error, 'colno', 1)}"
                text = getattr(error, "msg", error)
                raise InputError(f"expected a JSON object on each line: {text}", place) from None
            if not isinstance(record, dict):
                raise InputError("expected a result or run object", "stdin", number)
            if "oellm" in record and not isinstance(record["oellm"], dict):
                raise InputError("expected an object", "stdin", number, "oellm")
            yield number, record
    if not number:
        raise InputError("expected result or run objects, got nothing", "stdin")


def _runs_on_stdin() -> Iterator[Run]:
    from oellm import run_directory

    for number, record in _objects_on_stdin():
        yield run_directory.load(_run_dir(record, number))


def _run_dir(record: dict[str, Any], number: int) -> str:
    if not isinstance(record.get("run_dir"), str):
        raise InputError("expected a result object or a run object", "stdin", number)
    return str(record["run_dir"])


def _print_missing(runs: list[Run]) -> ExitStatus:
    from oellm import manifest

    finished = {
        row["eval_id"]
        for run in runs
        for row in run.rows()
        if run.store.valid_result(row["eval_id"]) is not None
    }
    missing = {row["eval_id"]: row.without("shard") for run in runs for row in run.rows()}
    rows = [row for identity, row in missing.items() if identity not in finished]
    columns = dict.fromkeys(column for row in missing.values() for column in row.cells)
    writer = manifest.Writer(sys.stdout)
    writer.header(columns)
    for row in rows:
        writer.write(row)
    cli.message(f"{len(rows)} of {len(missing)} rows have no valid result")
    return ExitStatus.DONE


if __name__ == "__main__":
    sys.exit(main())
