"""oe-pivot: print metric records as a matrix, by default models × tasks.

Usage:
  oe-pivot [options] [--filter=EXPR]... [--] [PATH]...

Options:
  --rows=COLUMNS   Columns of metric records that make the rows, also columns
                   of your own manifest.
                   [default: model_path]
  --cols=COLUMNS   Columns of metric records that make the columns.
                   [default: task]
  --stderr         Also print standard errors.
  --average[=OVER]  Add last columns: the mean over the complete columns (all),
                   or one for each suite or language that they have.
  --normalised     Show scores above chance: 0 is what guessing gives, and 1 is
                   perfect. Tasks whose chance level no suite knows are left
                   out.
  --filter=EXPR    Keep only records with COLUMN=PATTERN (* and ? as in a
                   shell, nothing for an empty value) or COLUMN!=PATTERN; for
                   numbers also COLUMN<NUMBER, <=, > and >=. You may repeat it:
                   all conditions must hold, but of several = on one column
                   any.
  --sort=COLUMNS   Sort the records by these columns first, separated by
                   commas; a minus before one means descending. Rows and
                   columns appear in that order.
  --metric=METRIC  METRIC or METRIC,FILTER is the primary metric of every task
                   that has it; other tasks have none.
  --all            Keep every result of an evaluation, not only the newest.
  --partial        Also keep scores of groups that lack some of their tasks.
  --format=FORMAT  csv, jsonl, json, table, markdown, latex (needs the package
                   booktabs), html or parquet. By default table on a terminal,
                   csv otherwise.
  --help           Print this text.
  --version        Print the version.

Input: metric records from oe-collect on stdin or in files (csv, jsonl or
  json), or what oe-collect itself reads: run directories, names of runs, and
  files of results.

Output: one record per row of the matrix. Each cell is one score: the value of
  the task's primary metric, or of every metric if --rows or --cols has the
  column metric. Scores of different shots, metrics, filters or frameworks
  never share a column (or a row, if --rows has the task); the headers say what
  tells them apart. Parts of groups are left out unless a --filter, --rows or
  --cols names the column group. It is an error if results of several limits
  are mixed, or if two scores meet in one cell. Buffers.

  Tables mark the best score of each task (bold in markdown, latex and html),
  mark scores of groups that lack tasks with *, and leave out the directories
  that all models have in common. Scores that cannot be compared with the
  others of their column (other version of the task, documents, prompts, chat
  template, shots or limit), or that are not as asked, have a letter and a
  legend; such a column has no best score and no part in the average. stderr
  and the caption name the limit of documents. The average covers the tasks for
  which every row has a score and more is better; scores on a scale beyond 1
  count only if all are on such a scale. stderr names the tasks that do not
  count. --average=suite has the suites of which no task is missing, with their
  weights. The standard error of an average takes tasks as independent.

Exit status: 0 done; 1 a result is damaged, or a row on stdin had failed; 2 bad
  input; 3 no pyarrow for parquet.

Examples:
  oe-collect RUN_DIR | oe-pivot --format markdown
  oe-pivot --average --filter limit= scores.csv
  oe-pivot --average=suite --normalised RUN_DIR
  oe-pivot --rows language --cols model_path --format table RUN_DIR
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from oellm.collect.pivots.averages import Scope
    from oellm.collect.pivots.pivot import PivotRequest
    from oellm.collect.record_source import RecordRequest
    from oellm.metrics.records import MetricRecord
    from oellm.tasks.suite_files import KnownSuites


class Options(NamedTuple):
    """The command line."""

    paths: list[str]
    layout: str
    matrix: PivotRequest
    records: RecordRequest
    stderr: bool
    averages: Scope | None
    normalised: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-pivot", doc=__doc__, command=_pivot, argv=argv)


def _options(arguments: cli.Arguments) -> Options:
    from oellm.collect import record_source
    from oellm.collect.pivots import pivot

    layout = record_source.choose_format(arguments["--format"], sys.stdout)
    records = record_source.RecordRequest.parse(
        {"--filter": arguments["--filter"]},
        arguments["--sort"],
        arguments["--metric"],
        every=arguments["--all"],
        partial=arguments["--partial"],
    )
    selection = records.selection
    matrix = pivot.PivotRequest.parse(arguments["--rows"], arguments["--cols"], selection)
    averages = _scope(arguments["--average"])
    if averages and matrix.scores_in_rows:
        raise UsageError("--average: expected tasks in the columns of the matrix, not in its rows")
    return Options(
        paths=cli.input_paths(arguments),
        layout=layout,
        matrix=matrix,
        records=records,
        stderr=arguments["--stderr"],
        averages=averages,
        normalised=arguments["--normalised"],
    )


def _scope(text: str | None) -> Scope | None:
    from oellm.collect.pivots.averages import Scope

    if text is None:
        return None
    names = [scope.value for scope in Scope]
    if text and text not in names:
        raise UsageError(f"--average: expected {', '.join(names)} or nothing, got {text!r}")
    return Scope(text or Scope.ALL)


def _pivot(arguments: cli.Arguments) -> int:
    from oellm.collect import record_source
    from oellm.collect.pivots import pivot, pivot_table
    from oellm.core import schema, tables
    from oellm.tasks import suites

    options = _options(arguments)
    source = record_source.RecordSource(options.records, cli.message)
    if options.paths:
        source.add_paths(options.paths)
    else:
        source.add_stream(cli.open_input(None), "stdin")
    source.require_columns({"--rows": options.matrix.rows, "--cols": options.matrix.cols})
    known = suites.load_suites((), os.environ)
    records = source.records()
    if options.normalised:
        records = _normalise(records, known)
    matrix = pivot.make_matrix(records, options.matrix)
    style = pivot_table.SheetStyle(
        for_people=options.layout in tables.TABLES,
        with_stderr=options.stderr,
        averages=options.averages,
    )
    sheet = pivot_table.make_sheet(matrix, style, suites.suite_weights(known))
    for note in (*matrix.notes, *sheet.notes, *sheet.caption):
        cli.message(note)
    counts = schema.count_columns("metric")
    record_source.write_rows(
        sheet.rows,
        sheet.types,
        layout=options.layout,
        stream=sys.stdout,
        counts=counts,
        caption=sheet.caption,
    )
    if options.layout == "table" and _is_too_wide(sheet.types) and len(matrix.cols.keys) > 1:
        rows, cols = (",".join(names) for names in (options.matrix.rows, options.matrix.cols))
        cli.message(
            "the table is wider than the terminal; the same the other way round: "
            f"--rows={cols} --cols={rows}"
        )
    source.log_missing()
    return ExitStatus.DONE if source.is_whole else ExitStatus.FAILED


def _normalise(records: Iterable[MetricRecord], known: KnownSuites) -> list[MetricRecord]:
    """Return scores above chance; tell which tasks are left out."""
    from oellm.metrics import chance_levels
    from oellm.tasks import suites

    levels = {
        key: chance_levels.ChanceLevel(*level) for key, level in suites.chance_levels(known).items()
    }
    normalised, left_out = chance_levels.normalise(records, levels)
    if left_out:
        cli.message(f"left out because no suite knows their chance level: {', '.join(left_out)}")
    if not normalised and left_out:
        raise UsageError("--normalised: no score has a known chance level")
    return normalised


def _is_too_wide(heads: Iterable[str]) -> bool:
    """Return whether stdout is a terminal that is narrower than the heads of a table."""
    if not sys.stdout.isatty():
        return False
    return sum(len(head) + 2 for head in heads) > os.get_terminal_size(1).columns > 0


if __name__ == "__main__":
    sys.exit(main())
