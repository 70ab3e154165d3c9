"""oe-smoke: evaluate one document of each row, before all of them cost GPU-hours.

Usage:
  oe-smoke [options] [--set=KEY=VALUE]... [--] [MANIFEST]

Options:
  --cluster=NAME   Cluster to use: a name, or a JSON file from oe-detect (with
                   a slash in its name, or ending in .json). Without it, this
                   machine's cluster.
  --set=KEY=VALUE  Override a setting; KEY.MEMBER=VALUE sets a member of a map.
  --executor=NAME  slurm or local; by default the cluster's.
  --jobs=N         Array elements that the local executor runs at the same
                   time. [default: 1]
  --format=FORMAT  table, csv, json or jsonl; by default table on a terminal,
                   else jsonl.
  --help           Print this text.
  --version        Print the version.

Examples:
  oe-smoke evals.csv && oe-render evals.csv | oe-submit
  oe-fetch evals.csv | oe-smoke --set partition=debug

Input: a manifest in CSV, a file or stdin (schema.json, table `manifest`), as
  for oe-render.

oe-smoke runs oe-render and oe-submit --wait=done on the same rows, with limit
1 and without samples: in the same images, with the same jobs, GPUs and sandbox
as the rows themselves will have. A model is loaded once for all its rows in a
framework. Jobs are short (setting shard_time is 10 minutes unless you set it),
and none requeues itself. Nothing is fetched: run oe-fetch before.

The run is EVAL_OUTPUT_DIR/USER/smoke/TIME; its jobs are called smoke. Its
results are none of the rows' own, since another limit is another eval_id, and
oe-render takes no times from it. If all rows are ok, oe-smoke removes it.
Ctrl-C cancels its jobs.

Output: a record for each row (schema.json, table `smoke`): ok or failed, why,
  and the log. Rows that differ only in limit or log_samples are one.

Exit status: 0 all rows are ok; 1 some failed; 2 bad input or setting; 3 no
  cluster, image, directory or Slurm; 75 a signal stopped it; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError

_FORMATS = ("table", "csv", "json", "jsonl")


class Options(NamedTuple):
    """The command line."""

    manifest: str | None
    cluster: str | None
    overrides: list[str]
    executor: str | None
    jobs: int
    layout: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-smoke", doc=__doc__, command=_oe_smoke, argv=argv)


def _options(arguments: cli.Arguments) -> Options:
    from oellm.core import tables

    layout = tables.choose_format(arguments["--format"], sys.stdout, _FORMATS, piped="jsonl")
    if arguments["--executor"] not in (None, "slurm", "local"):
        raise UsageError(f"--executor: expected slurm or local, got {arguments['--executor']!r}")
    return Options(
        manifest=arguments["MANIFEST"],
        cluster=arguments["--cluster"],
        overrides=arguments["--set"],
        executor=arguments["--executor"],
        jobs=cli.positive(arguments, "--jobs"),
        layout=layout,
    )


def _oe_smoke(arguments: cli.Arguments) -> int:
    from oellm.clusters.cluster import resolve_cluster
    from oellm.core import schema, tables
    from oellm.wrappers.smoke_run import SmokeRun, limit_rows

    options = _options(arguments)
    cluster = resolve_cluster(options.cluster, options.overrides, os.environ)
    with cli.open_input(options.manifest) as stream:
        manifest = limit_rows(stream, cli.input_name(options.manifest), cli.message)
    run = SmokeRun(cluster, options.cluster, options.overrides, log=cli.message)
    submitting = [f"--executor={options.executor}"] if options.executor else []
    status = run.execute(manifest, [*submitting, f"--jobs={options.jobs}"])
    if status != ExitStatus.DONE:
        return status
    status, outcomes = run.outcomes()
    if status != ExitStatus.DONE:
        return status
    columns = list(schema.table("smoke"))
    rows: Iterable[tables.Values]
    rows, left_out = tables.select_fields(outcomes, columns), ""
    if options.layout == "table":
        from oellm.metrics.model_names import shorten_models

        rows, left_out = shorten_models(rows, columns)
    tables.write_rows(rows, columns, layout=options.layout, stream=sys.stdout, spare=["eval_id"])
    if left_out:
        cli.message(left_out)
    failed = sum(outcome.status != "ok" for outcome in outcomes)
    if failed:
        cli.message(f"{failed} of {len(outcomes)} rows failed; the run stays: {run.path}")
        return ExitStatus.FAILED
    cli.message(f"all {len(outcomes)} rows are ok")
    run.remove()
    return ExitStatus.DONE


if __name__ == "__main__":
    sys.exit(main())
