"""oe-compare: print what changed between two sets of scores, and what is noise.

Usage:
  oe-compare [options] [--filter=EXPR]... [--filter_a=EXPR]...
             [--filter_b=EXPR]... [--] A B

Options:
  --format=FORMAT  csv, jsonl, json, table, markdown, latex (needs the package
                   booktabs), html or parquet. By default table on a terminal,
                   csv otherwise.
  --filter=EXPR    Keep only records with COLUMN=PATTERN (* and ? as in a
                   shell, nothing for an empty value) or COLUMN!=PATTERN; for
                   numbers also COLUMN<NUMBER, <=, > and >=. You may repeat it:
                   all conditions must hold, but of several = on one column
                   any.
  --filter_a=EXPR  Like --filter, but only for A.
  --filter_b=EXPR  Like --filter, but only for B.
  --metric=METRIC  METRIC or METRIC,FILTER is the primary metric of every task
                   that has it; other tasks have none.
  --all            Keep every result of an evaluation, not only the newest.
  --help           Print this text.
  --version        Print the version.

Input: A and B are each a run directory, the name of a run (of yours below
  eval_output_dir; only one may have it), a directory with runs or results
  below it, a file of results, or a file of metric records from oe-collect; one
  of them may be - for stdin. To compare two models of one run, name the run
  twice and choose with --filter_a and --filter_b.

Output: records of differences, B minus A (schema.json, table `comparison`),
  one for each primary metric that A and B share, in the order of A. Each model
  is compared with itself; if A and B have one model each, these two are
  compared, like two checkpoints. The column method says how the noise is
  known: `paired` from the samples of both (rows with log_samples), document by
  document, or `independent` from the two standard errors. Scores of other
  documents, prompts or versions of the task are not comparable: the verdict
  says so, and the remark why. stderr says what only one side has, and how many
  differences are significant. Tables leave out the directories that all models
  have in common. Columns of manifests that oellm does not know are there for
  each side (experiment_a, experiment_b). Buffers.

Exit status: 0 done; 1 a result is damaged; 2 bad input; 3 no pyarrow for
  parquet.

Examples:
  oe-compare --format table OLD_RUN NEW_RUN
  oe-compare --filter_a step=1000 --filter_b step=2000 RUN_DIR RUN_DIR
  oe-collect NEW_RUN | oe-compare baseline.csv -
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from oellm.collect.record_source import RecordRequest


class Side(NamedTuple):
    """One of the two that are compared: a path or `-`, and which of its records count."""

    path: str
    request: RecordRequest


class Options(NamedTuple):
    """The command line; A comes first in `sides`."""

    sides: list[Side]
    layout: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-compare", doc=__doc__, command=_compare, argv=argv)


def _options(arguments: cli.Arguments) -> Options:
    from oellm.collect import record_source

    layout = record_source.choose_format(arguments["--format"], sys.stdout)
    if arguments["A"] == arguments["B"] == "-":
        raise UsageError("A and B: only one of them can be stdin")
    sides = []
    for name in ("A", "B"):
        filters = {option: arguments[option] for option in ("--filter", f"--filter_{name.lower()}")}
        request = record_source.RecordRequest.parse(
            filters, metric=arguments["--metric"], every=arguments["--all"]
        )
        sides.append(Side(arguments[name], request))
    return Options(sides, layout)


def _compare(arguments: cli.Arguments) -> int:
    from oellm.collect import comparison, record_source
    from oellm.core import schema, tables

    options = _options(arguments)
    is_whole, records = True, []
    extra: dict[str, None] = {}
    for path, request in options.sides:
        source = record_source.RecordSource(request, cli.message)
        if path == "-":
            source.add_stream(cli.open_input(None), "stdin")
        else:
            source.add_paths([path])
        source.require_columns()
        extra |= dict.fromkeys(source.extra_columns())
        records.append(list(source.records()))
        is_whole &= source.is_whole
    compared = comparison.compare_records(records[0], records[1])
    for_people = options.layout in tables.TABLES
    columns = schema.shown_columns("comparison") if for_people else comparison.column_names()
    types = comparison.column_types(columns, extra)
    shown = comparison.shorten_models(compared.records) if for_people else compared.records
    rows = comparison.select_columns(shown, list(types))
    record_source.write_rows(
        rows,
        types,
        layout=options.layout,
        stream=sys.stdout,
        counts=schema.count_columns("comparison"),
        caption=compared.caption,
        spare=schema.spare_columns("comparison"),
    )
    left_out = comparison.describe_left_out(compared.records) if for_people else ""
    for text in (*compared.messages, *filter(None, [left_out])):
        cli.message(text)
    return ExitStatus.DONE if is_whole else ExitStatus.FAILED


if __name__ == "__main__":
    sys.exit(main())
