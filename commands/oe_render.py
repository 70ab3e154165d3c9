"""oe-render: plan shards for a manifest and write a run directory.

Usage:
  oe-render [options] [--set=KEY=VALUE]... [--sbatch=OPTION]... [--] [MANIFEST]

Options:
  --cluster=NAME   Cluster to render for: a name, or a JSON file from oe-detect
                   (with a slash in its name, or ending in .json). Without it,
                   this machine's cluster.
  --set=KEY=VALUE  Override a setting; KEY.MEMBER=VALUE sets a member of a map.
  --sbatch=OPTION  A further sbatch option by its long name: NAME=VALUE, or NAME
                   if it takes no value. The same as --set=sbatch.NAME=VALUE.
  --run_dir=DIR    Create this directory instead of one named after the time.
  --explain        Print the estimate of each row on stdout and the plan on
                   stderr; write nothing.
  --dry_run        Print the batch scripts on stdout and the plan on stderr;
                   write nothing.
  --help           Print this text.
  --version        Print the version.

Input: a manifest in CSV, a file or stdin (schema.json, table `manifest`). Every
  row gets its eval_id. A row that occurs twice is evaluated once. If a row
  leaves batch_size or dtype empty, the cluster's setting of that name fills it.

oe-render puts rows into shards. A shard is the work of one worker and takes
about as long as the setting shard_time. Estimates come from earlier runs below
eval_output_dir, or are guessed (docs/PLANNING.md). Several workers load the
same model only if that pays. There are never more jobs than the setting
queue_limit.

Output: the run as one JSON object on one line (schema.json, table `run`), for
  oe-submit. The run directory, EVAL_OUTPUT_DIR/USER/TIME, holds jobs.csv,
  run.json, submit_evals.sbatch, oe-run-task.pyz, slurm_logs/ and results/.
  Slurm is not needed. run.json has the SHA-256 of the container image; it is
  cached in OELLM_CACHE_DIR (~/.cache/oellm) until the image changes. If the
  manifest is a header alone, oe-render writes nothing and prints
  {"run_dir":null,"n_rows":0}, for which oe-submit has nothing to do.
  Buffers: nothing is written before the last row is read. Until then the rows
  are in a temporary file (in TMPDIR; none with --dry_run), and memory holds
  about 20 to 50 bytes per row plus some facts about each model.

Exit status: 0 done, 2 bad input or setting, 3 no cluster, image or directory.

Examples:
  oe-manifest --models acme/tiny --tasks hellaswag | oe-render | oe-submit
  oe-render --dry_run --cluster leonardo --sbatch mail-type=FAIL evals.csv
  oe-render --explain evals.csv | sort -t, -k7 -g | tail
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from oellm.clusters.cluster import Cluster
    from oellm.plan.planning import Jobs
    from oellm.plan.row_spool import RowSpool


class Options(NamedTuple):
    """The command line."""

    manifest: str | None
    cluster: str | None
    overrides: list[str]
    run_dir: str | None
    explain: bool
    dry_run: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-render", __doc__, _render, argv)


def _options(arguments: cli.Arguments) -> Options:
    if arguments["--explain"] and arguments["--dry_run"]:
        raise UsageError("--explain and --dry_run print different things: give one of them")
    return Options(
        arguments["MANIFEST"],
        arguments["--cluster"],
        arguments["--set"] + [_setting(text) for text in arguments["--sbatch"]],
        arguments["--run_dir"],
        arguments["--explain"],
        arguments["--dry_run"],
    )


def _setting(text: str) -> str:
    """Return an option for sbatch as the text of --set."""
    name, _, value = text.partition("=")
    if not name.strip():
        raise UsageError(f"--sbatch: expected NAME=VALUE, or NAME, got {text!r}")
    return f"sbatch.{name}={value}"


def _render(arguments: cli.Arguments) -> int:
    import contextlib
    import os

    from oellm.clusters.image_digest import ImageDigests
    from oellm.core import json_codec
    from oellm.plan import measured_times, planning, rendering
    from oellm.plan.costs import CostModel
    from oellm.plan.row_spool import RowSpool
    from oellm.runs import run_directory

    options = _options(arguments)
    cluster = _cluster(options)
    cluster_name = cluster.text("name")
    measured = measured_times.read(cluster.text("eval_output_dir"), cluster_name, os.environ)
    costs = CostModel(measured, cluster_name)
    with contextlib.nullcontext() if options.dry_run else RowSpool() as spool:
        try:
            with cli.open_input(options.manifest) as stream:
                name = cli.input_name(options.manifest)
                jobs = planning.read_jobs(
                    stream, name, cluster, costs, report=cli.message, spool=spool
                )
        except planning.NoRowsError:
            if not (options.dry_run or options.explain):
                sys.stdout.write(json_codec.dumps(run_directory.NO_RUN).decode() + "\n")
            raise
        if spool is None or options.explain:
            _show(jobs, spool, cluster, options)
            return ExitStatus.DONE
        digests = ImageDigests(os.environ, cli.message)
        run = rendering.write(jobs, spool, cluster, options.run_dir, digests)
    cli.message(
        f"rows: {jobs.count}, shards: {len(jobs.shards)}, about {jobs.gpu_hours:.2g} GPU-hours, "
        f"in {run.path}"
    )
    sys.stdout.write(json_codec.dumps(run.record).decode() + "\n")
    return ExitStatus.DONE


def _cluster(options: Options) -> Cluster:
    import os

    from oellm.clusters.cluster import resolve_cluster
    from oellm.plan import batch_script

    given = resolve_cluster(options.cluster, options.overrides, os.environ)
    cluster = batch_script.fitted(given)
    if cluster != given:
        cli.message(
            f"jobs are told to stop {cluster.number('stop_before')} s before their end, not "
            f"{given.number('stop_before')}: that is half of time_limit"
        )
    return cluster


def _show(jobs: Jobs, spool: RowSpool | None, cluster: Cluster, options: Options) -> None:
    """Print the plan, and what each row should take, or the batch scripts."""
    from oellm.core import schema, tables
    from oellm.plan import planning, rendering

    for line in planning.plan_lines(jobs):
        cli.message(line)
    if spool is None:
        for script in rendering.scripts(jobs, cluster, options.run_dir):
            print(script, end="")
        return
    layout = "table" if sys.stdout.isatty() else "csv"
    columns = list(schema.table("estimate"))
    rows = tables.select_values(spool.estimates(jobs.shard_of), columns)
    tables.write_rows(rows, columns, layout, sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
