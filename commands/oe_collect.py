"""oe-collect: print the scores of runs and result files as metric records.

Usage:
  oe-collect [options] [--filter=EXPR]... [--] [PATH]...

Options:
  --format=FORMAT  csv, jsonl, json, table, markdown, latex (needs the package
                   booktabs), html, parquet, or dashboard: the CSV that the
                   dashboard of OpenEuroLLM reads. By default table on a
                   terminal, csv otherwise.
  --columns=NAMES  Columns to print, separated by commas. By default tables
                   have the most important columns, fewer on a narrow
                   terminal, and the other formats all.
  --filter=EXPR    Keep only records with COLUMN=PATTERN (* and ? as in a
                   shell, nothing for an empty value) or COLUMN!=PATTERN; for
                   numbers also COLUMN<NUMBER, <=, > and >=. You may repeat it:
                   all conditions must hold, but of several = on one column
                   any.
  --sort=COLUMNS   Sort by these columns, separated by commas; a minus before
                   one means descending.
  --metric=METRIC  METRIC or METRIC,FILTER is the primary metric of every task
                   that has it; other tasks have none.
  --primary        Keep only records of primary metrics.
  --model=NAME     The model of results that name none. By default it is the
                   name of their directory, marked "(guessed)".
  --all            Keep every result of an evaluation, not only the newest.
  --partial        Also keep scores of groups that lack some of their tasks.
  --strict         End with status 1 if a score is not as asked (column
                   remark): other shots, fewer documents, a metric that is no
                   number.
  --help           Print this text.
  --version        Print the version.

Input: run directories, names of runs (of yours below eval_output_dir; only one
  may have the name), directories that have runs below them, and files of
  results: ours, and those of lm-eval, evalchemy, bigcode-evaluation-harness,
  bigcodebench, evalplus and lighteval (docs/RESULTS.md). Files of metric
  records printed earlier (csv, jsonl or json) are read first, and so are the
  score tables (CSV) of oellm-eval and of the dashboard. Without a PATH,
  oe-collect reads stdin: line by line result objects (from oe-run-task) and
  run objects (from oe-submit), or metric records. A file may hold such lines.

Output: metric records (schema.json, table `metric`), one for each task, metric
  and filter: path by path, and for a run in the order of its manifest. csv,
  jsonl, json and parquet stream; tables, and any format with --sort, buffer.
  Tables show numbers with four decimals, and leave out the directories that
  all models have in common. Columns of manifests that oellm does not know come
  last. If a row has several results of the same weights, task and data, the
  newest counts, and stderr names the others; if they differ in these, all are
  printed. Therefore results on stdin are printed only after the last one is
  read. A result belongs to a row if it has its eval_id; a result of another
  tool, if model, task, shots and everything else that it tells are the same.
  stderr counts the rows of the runs that have no valid result.

See also: oe-pivot (models × tasks), oe-compare (two runs), oe-missing (rows
without a result).

Exit status: 0 done; 1 a result is damaged, lacks a metric, or its row had
  failed, or a row has results of different contents; 2 bad input; 3 no pyarrow
  for parquet. JSON files that are no results are only counted.

Examples:
  oe-collect --format table RUN_DIR
  oe-collect --filter 'task=mmlu*' --filter n_shot=5 --sort task,-value RUN_DIR
  oe-collect --primary RUN_DIR | csvsort -c task,value
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from oellm.collect.record_source import RecordRequest

# Where each former option went.
_MOVED = {
    "--pivot": "oe-pivot",
    "--rows": "oe-pivot --rows",
    "--cols": "oe-pivot --cols",
    "--stderr": "oe-pivot --stderr",
    "--average": "oe-pivot --average",
    "--compare": "oe-compare",
    "--filter_a": "oe-compare --filter_a",
    "--filter_b": "oe-compare --filter_b",
    "--missing": "oe-missing",
    "--failed": "oe-missing --failed",
    "--check": "oe-missing --check",
}


class Options(NamedTuple):
    """The command line; without columns, the format decides them."""

    paths: list[str]
    layout: str
    columns: list[str]
    request: RecordRequest
    is_strict: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-collect", doc=__doc__, command=_collect, argv=argv, moved=_MOVED)


def _options(arguments: cli.Arguments) -> Options:
    from oellm.collect import record_source
    from oellm.metrics.selection import split_columns

    dashboard = record_source.DASHBOARD
    layout = record_source.choose_format(arguments["--format"], sys.stdout, dashboard)
    if arguments["--columns"] and layout == dashboard:
        raise UsageError(f"--columns: --format={dashboard} has columns of its own")
    request = record_source.RecordRequest.parse(
        {"--filter": arguments["--filter"]},
        arguments["--sort"],
        arguments["--metric"],
        primary_only=arguments["--primary"],
        every=arguments["--all"],
        partial=arguments["--partial"],
        model=arguments["--model"] or "",
    )
    return Options(
        paths=cli.input_paths(arguments),
        layout=layout,
        columns=split_columns(arguments["--columns"] or ""),
        request=request,
        is_strict=arguments["--strict"],
    )


def _collect(arguments: cli.Arguments) -> int:
    from oellm.collect.record_source import RecordSource
    from oellm.core import schema, tables
    from oellm.metrics import records

    options = _options(arguments)
    source = RecordSource(options.request, cli.message)
    if options.paths:
        source.add_paths(options.paths)
    else:
        source.add_stream(cli.open_input(None), "stdin")
    source.require_columns({"--columns": options.columns})
    is_table = options.layout in tables.TABLES
    usual = schema.shown_columns("metric") if is_table else records.column_names()
    columns = options.columns or [*usual, *source.extra_columns()]
    spare = None if options.columns else schema.spare_columns("metric")
    source.write(columns, options.layout, sys.stdout, spare=spare)
    source.log_missing()
    is_good = source.is_whole and not (options.is_strict and source.tally.remarks)
    return ExitStatus.DONE if is_good else ExitStatus.FAILED


if __name__ == "__main__":
    sys.exit(main())
