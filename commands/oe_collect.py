"""oe-collect: print the scores of runs, of two compared, or the rows that still lack one.

Usage:
  oe-collect [options] [--filter=EXPR]... [--filter_a=EXPR]... [--filter_b=EXPR]... [--] [PATH]...

Options:
  --format=FORMAT   csv, jsonl, json, table, markdown, latex (needs the package booktabs),
                    html or parquet. [default: csv]
  --columns=NAMES   Columns to print, separated by commas; left out, the most important ones in
                    tables, else all of them.
  --filter=EXPR     Only records with COLUMN=PATTERN (* and ? as in a shell, nothing for an
                    empty value), COLUMN!=PATTERN or, for numbers, COLUMN<NUMBER, <=, >, >=. May
                    be repeated: all must hold, but of several = on one column any.
  --sort=COLUMNS    Sort by these columns, separated by commas; a minus before one: descending.
  --metric=METRIC   METRIC or METRIC,FILTER is the primary metric of every task that has it;
                    the others have none.
  --primary         Only records of primary metrics.
  --all             Every result of an evaluation, not the newest only.
  --partial         Scores of groups, too, that lack some of their tasks: from those there are.
  --pivot           Print a row for each model and a column for each task, with its shots: the
                    values of the primary metrics.
  --rows=COLUMNS    What the rows of the pivot are, instead of model_path.
  --cols=COLUMNS    What its columns are, instead of task.
  --stderr          Standard errors, too, in the pivot.
  --average         A last column in the pivot: the mean over its complete columns.
  --compare         Print what changed from the first PATH to the second, primary metric by
                    primary metric, and whether that is beyond noise.
  --filter_a=EXPR   As --filter, for the first PATH of --compare alone.
  --filter_b=EXPR   As --filter, for the second.
  --missing         Print the manifest rows without a valid result, in CSV for oe-render.
  --failed          Print those of them that failed.
  --check           Exit with status 1 where a row has no valid result.
  --help            Print this text.
  --version         Print the version.

Input: run directories, directories that have some below them, and files of results: ours, and
  those of lm-eval, bigcode-evaluation-harness, bigcodebench, evalplus and lighteval
  (docs/RESULTS.md). Or on stdin, line by line, result objects (from oe-run-task) and run
  objects (from oe-submit); or metric records that were printed before, in csv, jsonl or json.

Output: metric records (schema.json, table `metric`), one for each task, metric and
  filter, path after path, of a run in the order of its manifest. csv, jsonl, json and
  parquet stream; tables, the pivot, and any format with --sort, buffer. Tables show numbers
  with four decimals. Of several results of a row the newest counts, and stderr names the others;
  so results on stdin are printed when all have come. A result is a row's by its eval_id; one of
  another tool where model, task, shots and all else that it tells are the same. A row is missing
  only if no path has its result.

Pivot: scores of different shots, metrics, filters or frameworks never share a column (or
  a row, where --rows has the task); heads say what it takes to tell them apart. All metrics
  count where --rows or --cols has the metric. Parts of groups are left out unless a --filter,
  or one of these two, names the column group. Refused are results of several limits, and
  two scores for one cell. Tables mark the best scores of each task (bold in markdown, latex
  and html) and, with *, those of groups that lack tasks; they leave out the directories that
  all models are in. An average is one of tasks for which every row has a score, and more is
  better; those on a scale beyond 1 count only where all are. stderr names the others.

Comparison: records of the table `comparison` in schema.json. Models are compared with themselves;
  where each path has one model only, these two, as checkpoints. The noise is known from the
  samples of both (rows with log_samples), document by document, or else from the two standard
  errors; the column method says which.

Exit status: 0 done; 1 a result is damaged, a row on stdin had failed, or with --check a row has no
  valid result; 2 bad input; 3 no pyarrow for parquet.

Examples:
  oe-collect --format table RUN_DIR
  oe-collect --pivot --average --format markdown --filter limit= RUN_DIR
  oe-collect --filter 'task=mmlu*' --filter 'n_shot=5' --sort task,-value RUN_DIR
  oe-collect --compare --filter_a step=1000 --filter_b step=2000 --format table RUN_DIR RUN_DIR
  oe-collect --missing RUN_DIR | oe-render | oe-submit
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, InputError, UsageError

if TYPE_CHECKING:
    from oellm.collect.collection import Collection
    from oellm.collect.pivot import Request
    from oellm.collect.record_maker import MadeRecords
    from oellm.metrics.records import Record
    from oellm.metrics.selection import Selection

# What is printed instead of records, and the options that say nothing about that.
_LISTS = ("--columns", "--sort", "--primary", "--pivot", "--rows", "--cols", "--stderr")
_NOT_FOR = {
    "--compare": (*_LISTS, "--average", "--partial", "--check"),
    "--missing": (*_LISTS, "--average", "--partial", "--format", "--filter", "--metric", "--all"),
}
_NOT_FOR["--failed"] = _NOT_FOR["--missing"]


class Options(NamedTuple):
    """The command line."""

    paths: list[str]
    # What is printed instead of records: --compare, --missing or --failed.
    instead: str
    layout: str
    # Left out, those that the layout usually has.
    columns: list[str]
    selection: Selection
    # Of the two sides of a comparison.
    sides: list[Selection]
    metric: str
    every: bool
    partial: bool
    check: bool
    pivot: Request | None
    stderr: bool
    average: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-collect", __doc__, _collect, argv)


def _options(arguments: cli.Arguments) -> Options:
    from oellm.core import tables
    from oellm.metrics.selection import Selection, split_columns

    paths = [path for path in arguments["PATH"] if path != "-"]
    instead = _instead(arguments, paths)
    layout, formats = arguments["--format"], (*tables.STREAMED, *tables.TABLES, "parquet")
    if layout not in formats:
        raise UsageError(f"--format: expected one of {', '.join(formats)}, got {layout!r}")
    if layout == "parquet" and sys.stdout.isatty():
        raise UsageError("--format=parquet: stdout is a terminal; redirect it to a file")
    metric = arguments["--metric"]
    if metric is not None and not metric.partition(",")[0]:
        raise UsageError(f"--metric: expected METRIC or METRIC,FILTER, got {metric!r}")
    filters, keys = arguments["--filter"], arguments["--sort"] or ""
    selection = Selection.parse(filters, keys, arguments["--primary"])
    sides = [
        Selection.parse([*filters, *arguments[option]], "", False)
        for option in ("--filter_a", "--filter_b")
    ]
    return Options(
        paths,
        instead,
        layout,
        split_columns("--columns", arguments["--columns"] or ""),
        selection,
        sides,
        metric or "",
        arguments["--all"],
        arguments["--partial"],
        arguments["--check"],
        _pivot_request(arguments, selection),
        arguments["--stderr"],
        arguments["--average"],
    )


def _instead(arguments: cli.Arguments, paths: Sequence[str]) -> str:
    """Return what is printed instead of records; refuse options that say nothing about that."""
    asked = [option for option in _NOT_FOR if arguments[option]]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)}: expected one of them")
    for option in ("--filter_a", "--filter_b"):
        if arguments[option] and asked != ["--compare"]:
            raise UsageError(f"{option} needs --compare")
    if not asked:
        return ""
    for option in _NOT_FOR[asked[0]]:
        if arguments[option] not in (None, False, [], "csv"):
            raise UsageError(f"{option} says nothing about what {asked[0]} prints")
    if asked == ["--compare"] and len(paths) != 2:
        raise UsageError(f"--compare: expected two paths, got {len(paths)}")
    return asked[0]


def _pivot_request(arguments: cli.Arguments, selection: Selection) -> Request | None:
    """Return what to pivot; None without --pivot, which then nothing may ask for."""
    if not arguments["--pivot"]:
        for option in ("--rows", "--cols", "--stderr", "--average"):
            if arguments[option] not in (None, False):
                raise UsageError(f"{option} needs --pivot")
        return None
    from oellm.collect import pivot

    if arguments["--columns"]:
        raise UsageError("--columns: a pivot has --rows and --cols instead")
    request = pivot.Request.parse(arguments["--rows"], arguments["--cols"], selection.conditions)
    if arguments["--average"] and request.scores_in_rows:
        raise UsageError("--average: expected tasks in the columns of the pivot, not in its rows")
    return request


def _collect(arguments: cli.Arguments) -> int:
    from oellm.collect import sources, stdin_lines
    from oellm.collect.collection import Collection

    options = _options(arguments)
    if options.instead == "--compare":
        return _compare(options)
    collection = Collection(cli.message, options.every)
    saved = None
    if options.paths:
        collection.add_sources(sources.found(options.paths, collection.fail))
    else:
        saved = stdin_lines.read(cli.open_input(None), "stdin", collection)
    if options.instead:
        if saved is not None:
            raise InputError("expected runs, got metric records", "stdin")
        # A damaged result makes its row a missing one, and is no failure of this.
        lacking, failures = _print_rows(collection, options.instead), 0
    else:
        _print_records(collection, saved, options)
        lacking, number = collection.counts()
        if lacking:
            cli.message(f"{lacking} of {number} rows have no valid result")
        failures = collection.failures
    is_done = not failures and not (options.check and lacking)
    return ExitStatus.DONE if is_done else ExitStatus.FAILED


def _print_records(
    collection: Collection, saved: Iterator[Record] | None, options: Options
) -> None:
    """Print the records of a collection, or some that were printed before."""
    from oellm.core import tables
    from oellm.metrics import records as metric_records
    from oellm.metrics.records import PrimaryMetrics

    made = _made(collection, options, options.selection)
    if saved is None:
        records = options.selection.ordered(made)
    else:
        records = options.selection.of(PrimaryMetrics({}, options.metric).rechosen(saved))
    if options.pivot is None:
        shown = metric_records.shown_columns() if options.layout in tables.TABLES else None
        columns = options.columns or shown or metric_records.columns()
        if saved is None and options.layout in tables.BY_LINE and not options.selection.keys:
            # The processes that read the results write the lines, too.
            sys.stdout.write(tables.head(columns, options.layout))
            sys.stdout.writelines(made.lines(columns, options.layout))
        else:
            _write(records, _types("metric", columns), options.layout)
    else:
        _print_pivot(records, options.pivot, options)
    if made.partial_left_out:
        cli.message(
            f"{made.partial_left_out} scores of groups that lack some of their tasks are left out "
            "(--partial prints them)"
        )


def _print_pivot(records: Iterable[Record], request: Request, options: Options) -> None:
    from oellm.collect import pivot, pivot_table
    from oellm.core import tables

    matrix = pivot.of_records(records, request)
    style = pivot_table.Style(options.layout in tables.TABLES, options.stderr, options.average)
    sheet = pivot_table.of_matrix(matrix, style)
    for note in (*matrix.notes, *sheet.notes):
        cli.message(note)
    _write(sheet.records, sheet.types, options.layout)


def _compare(options: Options) -> int:
    """Print what changed between two paths."""
    from oellm.collect import comparison, sources
    from oellm.collect.collection import Collection
    from oellm.core import tables

    sides, failures = [], 0
    for path, selection in zip(options.paths, options.sides, strict=True):
        collection = Collection(cli.message, options.every)
        collection.add_sources(sources.found([path], collection.fail))
        sides.append(list(_made(collection, options, selection)))
        failures += collection.failures
    compared = comparison.compared(sides[0], sides[1])
    for_people = options.layout in tables.TABLES
    columns = comparison.shown_columns() if for_people else comparison.columns()
    _write(compared.records, _types("comparison", columns), options.layout)
    for text in compared.messages:
        cli.message(text)
    return ExitStatus.FAILED if failures else ExitStatus.DONE


def _made(collection: Collection, options: Options, selection: Selection) -> MadeRecords:
    """Return the records of a collection that are wanted."""
    from oellm.collect.record_maker import MadeRecords, RecordMaker
    from oellm.metrics.records import PrimaryMetrics
    from oellm.tasks import suites

    primary = PrimaryMetrics(suites.primary_metrics(os.environ), options.metric)
    return MadeRecords(collection, RecordMaker(primary, selection, options.partial))


def _write(records: Iterable[Record], types: Mapping[str, str], layout: str) -> None:
    """Write records whose columns are of some types (schema.json)."""
    from oellm.core import parquet, tables

    if layout == "parquet":
        parquet.write(records, types, sys.stdout.buffer)
    else:
        tables.write(records, list(types), layout, sys.stdout)


def _types(table: str, columns: Sequence[str]) -> dict[str, str]:
    from oellm.core import schema

    return {column: schema.table(table)[column]["type"] for column in columns}


def _print_rows(collection: Collection, which: str) -> int:
    """Print rows without a valid result, or those of them that failed; return how many lack one."""
    from oellm.manifest import csv_file

    # Only which results are valid counts here.
    for _ in collection.results(len):
        pass
    runs = collection.runs
    if not runs:
        raise InputError("expected a run directory, whose manifest tells what is missing")
    missing = list(collection.missing())
    chosen = missing if which == "--missing" else [row for row in missing if collection.failed(row)]
    writer = csv_file.Writer(sys.stdout)
    columns = dict.fromkeys(column for run in runs for column in run.columns())
    writer.header(column for column in columns if column != "shard")
    for row in chosen:
        writer.write(row)
    what = "failed" if which == "--failed" else "have no valid result"
    cli.message(f"{len(chosen)} of {collection.counts()[1]} rows {what}")
    return len(missing)


if __name__ == "__main__":
    sys.exit(main())
