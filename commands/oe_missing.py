"""oe-missing: print the manifest rows that have no valid result.

Usage:
  oe-missing [options] [--] [PATH]...

Options:
  --failed   Of these rows, print only those that failed.
  --check    End with status 1 if any row has no valid result.
  --help     Print this text.
  --version  Print the version.

Input: run directories, or directories that have some below them, whose manifests say which
  rows there should be. Files of results, ours or another tool's, count for the rows too
  (docs/RESULTS.md). Without a PATH, stdin has, line by line, run objects (from oe-submit)
  and result objects (from oe-run-task).

Output: the rows without a valid result, each once, as a manifest in CSV (schema.json, table
  `manifest`) for oe-render. A row is missing only if no input has its result. A damaged
  result is named on stderr, and its row is missing. stderr counts the rows.

Exit status: 0 done, also if there are missing rows or damaged results; 1 with --check, a row
  has no valid result; 2 bad input.

Examples:
  oe-missing RUN_DIR | oe-render | oe-submit
  oe-missing --check RUN_DIR >/dev/null && oe-report RUN_DIR > report.html
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, InputError


class Options(NamedTuple):
    """The command line."""

    paths: list[str]
    failed: bool
    check: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-missing", __doc__, _missing, argv)


def _options(arguments: cli.Arguments) -> Options:
    return Options(
        paths=[path for path in arguments["PATH"] if path != "-"],
        failed=arguments["--failed"],
        check=arguments["--check"],
    )


def _missing(arguments: cli.Arguments) -> int:
    from oellm.collect import sources, stdin_lines
    from oellm.collect.collection import Collection
    from oellm.manifest import csv_file

    options = _options(arguments)
    collection = Collection(cli.message)
    if options.paths:
        collection.add_sources(sources.find_sources(options.paths, collection.fail))
    elif stdin_lines.read_lines(cli.open_input(None), "stdin", collection) is not None:
        raise InputError("expected runs, got metric records", "stdin")
    collection.read_all()
    missing = list(collection.missing())
    chosen = [row for row in missing if not options.failed or collection.has_failed(row)]
    writer = csv_file.Writer(sys.stdout)
    writer.header(collection.columns())
    for row in chosen:
        writer.write(row)
    what = "failed" if options.failed else "have no valid result"
    cli.message(f"{len(chosen)} of {collection.counts()[1]} rows {what}")
    return ExitStatus.FAILED if options.check and missing else ExitStatus.DONE


if __name__ == "__main__":
    sys.exit(main())
