"""oe-missing: print the manifest rows that have no valid result.

Usage:
  oe-missing [options] [--in=DIR]... [--set=KEY=VALUE]... [--] [PATH]...

Options:
  --in=DIR         Print the rows of a manifest that have no valid result in
                   any run below DIR, or in the run of this name. DIR need not
                   exist yet. May be repeated.
  --also_running   With --in: also print the rows that are queued or running in
                   one of the runs.
  --failed         Of these rows, print only those that failed; not with
                   --also_running.
  --accept_stale   Let results count although their model, task or data have
                   changed since.
  --check          End with status 1 if any row is missing.
  --format=FORMAT  table or csv; by default table on a terminal, csv otherwise.
  --cluster=NAME   With --in: the cluster that you will give to oe-render; by
                   default this machine's.
  --set=KEY=VALUE  With --in: a setting that you will give to oe-render.
  --help           Print this text.
  --version        Print the version.

Without --in, the input is run directories, names of runs (of yours below
eval_output_dir; only one may have the name), or directories that have runs
below them; their manifests say which rows there should be. Files of results,
ours or another tool's, count for the rows too (docs/RESULTS.md). Without a
PATH, oe-missing reads stdin: line by line run objects (from oe-submit) and
result objects (from oe-run-task). It prints each row once, as it is in its
run, if no input has its result.

With --in, the input is a manifest in CSV, a file or stdin, and the runs of all
users below DIR. Hidden directories are skipped, and symbolic links below DIR
are not followed. stderr names runs and directories that cannot be read; their
results do not count. It prints the rows as they came, with all their columns.
It looks up each row by the eval_id that oe-render will give it on this
cluster. For a row of a hub model that names no commit (model_revision), a
result of any commit counts; put oe-fetch before oe-missing if you want new
commits evaluated. For a row whose tasks come from a git or hub source at a
commit (include_path), a result of another commit of this source counts if its
task is the same (task_digest).

Rows whose shard is queued or running in one of these runs are not missing;
Slurm, the workers' heartbeats and the lock of oe-submit tell which these are.
The shard of a row's second stage counts if the first stage has its output. If
Slurm does not answer, or if the run is on another cluster, a submitted row
counts as queued unless its worker has finished. Failed rows are missing, and
so are the rows of runs that were rendered but not submitted.

A result does not count if the files of its model, or the configuration, code
or data of its task, have changed since it was computed. stderr names such
results as stale, and why; nothing is written.

Output: a manifest in CSV (schema.json, table `manifest`), or a table of it for
  people, without empty columns and without what all models have in common.
  stderr counts the rows. It names damaged results, and their rows are missing.
  If nothing is missing, only the header is printed; oe-fetch, oe-render and
  oe-submit then have nothing to do and end with status 0. Buffers.

Exit status: 0 done, even if rows are missing or results are damaged; 1 with
  --check, a row is missing; 2 bad input; 3 no cluster matches this machine.

Examples:
  oe-missing RUN_DIR | oe-render | oe-submit
  oe-missing --check RUN_DIR >/dev/null && oe-report RUN_DIR > report.html
  oe-manifest --models /scratch/runs --task_groups oellm-multilingual |
      oe-missing --in "$EVAL_OUTPUT_DIR" | oe-fetch | oe-render | oe-submit
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, InputError, UsageError

if TYPE_CHECKING:
    from oellm.manifest.rows import Row


class Options(NamedTuple):
    """The command line; with `directories`, at most one path, of a manifest."""

    paths: list[str]
    directories: list[str]
    also_running: bool
    failed: bool
    accept_stale: bool
    check: bool
    is_table: bool
    cluster: str | None
    overrides: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-missing", doc=__doc__, command=_missing, argv=argv)


def read_options(arguments: cli.Arguments) -> Options:
    """Return the command line; raises UsageError for values that it cannot have."""
    from oellm.core import tables
    from oellm.runs.places.named_runs import find_directories

    if not arguments["--in"]:
        for option in ("--also_running", "--cluster", "--set"):
            if arguments[option]:
                raise UsageError(f"{option} needs --in")
    elif arguments["--also_running"] and arguments["--failed"]:
        raise UsageError("--failed and --also_running ask for different rows; give one of them")
    elif "" in arguments["--in"]:
        # An unset variable in a script; without this error, all rows would count as missing.
        raise UsageError("--in: expected a directory, got nothing")
    elif len(arguments["PATH"]) > 1:
        raise UsageError(
            f"--in: expected one manifest at most, got {len(arguments['PATH'])} paths; "
            "repeat --in for several directories"
        )
    layout = tables.choose_format(arguments["--format"], sys.stdout, ("table", "csv"))
    paths = cli.input_paths(arguments)
    return Options(
        # With --in, it is a manifest.
        paths=paths if arguments["--in"] else find_directories(paths),
        directories=find_directories(arguments["--in"]),
        also_running=arguments["--also_running"],
        failed=arguments["--failed"],
        accept_stale=arguments["--accept_stale"],
        check=arguments["--check"],
        is_table=layout == "table",
        cluster=arguments["--cluster"],
        overrides=arguments["--set"],
    )


def _missing(arguments: cli.Arguments) -> int:
    options = read_options(arguments)
    is_missing = _missing_in_manifest(options) if options.directories else _missing_in_runs(options)
    return ExitStatus.FAILED if options.check and is_missing else ExitStatus.DONE


def _missing_in_manifest(options: Options) -> bool:
    """Print the rows of a manifest that no run has; return whether there are any."""
    from oellm.clusters.cluster import resolve_cluster
    from oellm.collect import run_lookup, sources
    from oellm.collect.run_lookup import RowState
    from oellm.hub.environment import point_to_cache
    from oellm.manifest import csv_file

    path = options.paths[0] if options.paths else None
    cluster = resolve_cluster(options.cluster, options.overrides, os.environ)
    point_to_cache(os.environ, cluster.text("hf_home"))
    with cli.open_input(path) as stream:
        manifest = csv_file.ManifestReader(stream, cli.input_name(path), cli.message)
        rows = list(manifest)
    runs = sources.find_runs(options.directories, cli.message)
    states = run_lookup.find_states(
        rows, runs, cluster, log=cli.message, accept_stale=options.accept_stale
    )
    kinds = {RowState.FAILED} if options.failed else {RowState.FAILED, RowState.MISSING}
    if options.also_running:
        kinds |= {RowState.ACTIVE, RowState.PROBABLE}
    missing = (row for row, state in zip(rows, states, strict=True) if state in kinds)
    _print(manifest.header, missing, options.is_table)
    counts = Counter(states)
    cli.message(
        f"{counts[RowState.MISSING] + counts[RowState.FAILED]} of {len(rows)} rows are missing "
        f"({counts[RowState.FAILED]} of them failed); {counts[RowState.DONE]} have results, "
        f"{counts[RowState.ACTIVE]} are queued or running"
        + (f", {counts[RowState.PROBABLE]} may be" if counts[RowState.PROBABLE] else "")
    )
    return bool(counts[RowState.MISSING] + counts[RowState.FAILED])


def _missing_in_runs(options: Options) -> bool:
    """Print the rows of runs that have no valid result; return whether there are any."""
    from oellm.collect import sources, stdin_lines
    from oellm.collect.collection import Collection

    collection = Collection(cli.message)
    if options.paths:
        records, others = stdin_lines.add_files(options.paths, collection)
        if records:
            raise InputError("expected runs, got metric records", records[0])
        if others:
            collection.add_sources(sources.find_sources(others, collection.fail))
    elif stdin_lines.read_lines(cli.open_input(None), "stdin", collection) is not None:
        raise InputError("expected runs, got metric records", "stdin")
    collection.read_all()
    if not options.accept_stale:
        collection.drop_stale()
    missing = list(collection.missing_rows())
    chosen = [row for row in missing if not options.failed or collection.has_failed(row)]
    _print(collection.columns(), chosen, options.is_table)
    what = "failed" if options.failed else "have no valid result"
    cli.message(f"{len(chosen)} of {collection.counts()[1]} rows {what}")
    return bool(missing)


def _print(columns: Sequence[str], rows: Iterable[Row], is_table: bool) -> None:
    if is_table:
        _print_table(columns, rows)
        return
    from oellm.manifest import csv_file

    writer = csv_file.ManifestWriter(sys.stdout)
    writer.header(columns)
    for row in rows:
        writer.write(row)


def _print_table(columns: Sequence[str], rows: Iterable[Row]) -> None:
    from oellm.core import schema, tables
    from oellm.metrics.model_names import shorten_models

    shown, left_out = shorten_models(([row[name] for name in columns] for row in rows), columns)
    if shown:
        spare = schema.spare_columns("manifest")
        tables.write_rows(shown, columns, layout="table", stream=sys.stdout, spare=spare)
    if left_out:
        cli.message(left_out)


if __name__ == "__main__":
    sys.exit(main())
