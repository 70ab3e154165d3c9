"""oe-render: plan shards for a manifest and write a run directory.

Usage:
  oe-render [options] [--set=KEY=VALUE]... [--sbatch=OPTION]... [--] [MANIFEST]

Options:
  --cluster=NAME   Cluster to render for: a name, or a JSON file from oe-detect
                   (with a slash in its name, or ending in .json). Without it,
                   this machine's cluster.
  --set=KEY=VALUE  Override a setting; KEY.MEMBER=VALUE sets a member of a map.
  --sbatch=OPTION  A further sbatch option by its long name: NAME=VALUE, or
                   NAME if it takes no value (as --set=sbatch.NAME=VALUE).
  --skip_unsupported  Leave out rows of a framework (eval_suite) whose results
                   oellm can only read, with status 1 at the end. Without it,
                   they are an error.
  --unsafe_execution  Let code that a model wrote run without a container, with
                   all your rights, if there is no image for it. It is the
                   setting of this name.
  --name=NAME      Name the run: the name of its jobs in squeue, a part of its
                   directory's name, and what other commands call it.
  --run_dir=DIR    Create this directory instead of one named after the time.
  --explain        Print the estimate of each row, or of both of its stages, on
                   stdout and the plan on stderr; write nothing.
  --dry_run        Print the batch scripts on stdout and the plan on stderr;
                   write nothing.
  --help           Print this text.
  --version        Print the version.

Input: a manifest in CSV, a file or stdin (schema.json, table `manifest`).
  Every row gets its eval_id. A row that occurs twice is evaluated once. If a
  row leaves batch_size, dtype or tp empty, the cluster's setting of that name
  fills it. A task that does not exist is an error if jobs use the environment
  of oe-render, and a warning otherwise: jobs may have another version.

oe-render puts rows into shards. A shard is the work of one worker and takes
about as long as the setting shard_time. Estimates come from earlier runs below
eval_output_dir, or are guessed (docs/PLANNING.md). Several workers load the
same model only if that pays. There are never more jobs than the setting
queue_limit.

A row whose answers are programs has two stages: the first generates them with
the model, the second runs them. The second stages have job arrays of their
own, without GPUs, in cpu_partition. Each of their elements follows one of the
first stages' elements; jobs.csv has its shard in the column evaluate_shard.
Rows that need the same answers share a shard, and generate them once. A row
whose code would run in no container is refused, unless --unsafe_execution or
its column confirm_run_unsafe_code permits that.

Rows of local models get the column model_digest, and rows of task files and of
include paths the column task_digest. If these change later, oe-submit notices.
oe-render says how many rows have results in earlier runs.

Output: the run as one JSON object on one line (schema.json, table `run`), for
  oe-submit; on a terminal the run directory and what to do next. The
  directory, EVAL_OUTPUT_DIR/USER/TIME or TIME-NAME, holds jobs.csv, run.json,
  submit_evals.sbatch, oe-run-task.pyz, slurm_logs/ and results/. Slurm is not
  needed. run.json has the SHA-256 of each container image; it is cached in
  OELLM_CACHE_DIR (~/.cache/oellm) until the image changes. If the manifest
  is a header alone, oe-render writes nothing and prints
  {"run_dir":null,"n_rows":0}, for which oe-submit has nothing to do.
  Buffers: nothing is written before the last row is read. Until then the rows
  are in a temporary file (in TMPDIR; none with --dry_run), and memory holds
  about 100 bytes per row plus some facts about each model.

Exit status: 0 done; 1 done, but rows were left out (--skip_unsupported); 2 bad
  input or setting; 3 no cluster, image or directory.

Examples:
  oe-manifest --models acme/tiny --tasks hellaswag | oe-render | oe-submit
  oe-render --dry_run --cluster leonardo --sbatch mail-type=FAIL evals.csv
  oe-render --explain evals.csv | csvcut -c seconds,task_path,model_path |
      sort -gr | head
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from oellm.clusters.cluster import Cluster
    from oellm.manifest.rows import Row
    from oellm.plan.planning import RunPlan
    from oellm.plan.rendering import RunPlace
    from oellm.plan.row_spool import RowSpool


class Options(NamedTuple):
    """The command line."""

    manifest: str | None
    cluster: str | None
    overrides: list[str]
    # The name of the run, empty if it has none.
    name: str
    run_dir: str | None
    explain: bool
    dry_run: bool
    # The rows that were left out; None if there may be none.
    skipped: list[Row] | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-render", doc=__doc__, command=_run, argv=argv)


def read_options(arguments: cli.Arguments) -> Options:
    """Return the command line; raises UsageError for values that it cannot have."""
    from oellm.runs.places.new_directory import check_name

    if arguments["--explain"] and arguments["--dry_run"]:
        raise UsageError("--explain and --dry_run print different things: use only one of them")
    return Options(
        manifest=arguments["MANIFEST"],
        cluster=arguments["--cluster"],
        overrides=[
            *arguments["--set"],
            *(_setting(text) for text in arguments["--sbatch"]),
            *(["unsafe_execution=true"] if arguments["--unsafe_execution"] else []),
        ],
        name="" if arguments["--name"] is None else check_name(arguments["--name"]),
        run_dir=arguments["--run_dir"],
        explain=arguments["--explain"],
        dry_run=arguments["--dry_run"],
        skipped=[] if arguments["--skip_unsupported"] else None,
    )


def _setting(text: str) -> str:
    """Return an option for sbatch as the text of --set."""
    name, _, value = text.partition("=")
    if not name.strip():
        raise UsageError(f"--sbatch: expected NAME=VALUE, or NAME, got {text!r}")
    return f"sbatch.{name}={value}"


def _run(arguments: cli.Arguments) -> int:
    options = read_options(arguments)
    cluster = _cluster(options)
    if options.dry_run:
        _dry_run(options, cluster)
    elif options.explain:
        _explain(options, cluster)
    else:
        _render(options, cluster)
    return ExitStatus.FAILED if options.skipped else ExitStatus.DONE


def _dry_run(options: Options, cluster: Cluster) -> None:
    """Print the plan and the batch scripts."""
    from oellm.plan import planning, rendering

    plan = _plan(options, cluster)
    for line in planning.describe_plan(plan):
        cli.message(line)
    for script in rendering.render_scripts(plan, cluster, _place(options)):
        print(script, end="")


def _explain(options: Options, cluster: Cluster) -> None:
    """Print the plan and the estimate of each row."""
    from oellm.core import schema, tables
    from oellm.plan import planning
    from oellm.plan.row_spool import RowSpool

    with RowSpool() as spool:
        plan = _plan(options, cluster, spool)
        for line in planning.describe_plan(plan):
            cli.message(line)
        layout = "table" if sys.stdout.isatty() else "csv"
        columns = list(schema.table("estimate"))
        rows: Iterable[tables.Values]
        rows, left_out = tables.select_values(spool.estimates(plan.places), columns), ""
        if layout == "table":
            from oellm.metrics.model_names import shorten_models

            rows, left_out = shorten_models(rows, columns)
        spare = schema.spare_columns("estimate")
        tables.write_rows(rows, columns, layout=layout, stream=sys.stdout, spare=spare)
    if left_out:
        cli.message(left_out)


def _render(options: Options, cluster: Cluster) -> None:
    """Write the run directory and print the run."""
    import os

    from oellm.clusters.image_digest import ImageDigests
    from oellm.core import json_codec
    from oellm.core.display import format_gpu_time
    from oellm.plan import planning, rendering
    from oellm.plan.row_spool import RowSpool
    from oellm.runs import run_directory

    digests = ImageDigests(os.environ, cli.message)
    with RowSpool() as spool:
        try:
            plan = _plan(options, cluster, spool)
        except planning.NoRowsError:
            sys.stdout.write(json_codec.dumps(run_directory.NO_RUN).decode() + "\n")
            raise
        run = rendering.write_run(plan, spool, cluster, place=_place(options), digests=digests)
    cli.message(
        f"rows: {plan.count}, shards: {plan.used_shards}, "
        f"about {format_gpu_time(plan.gpu_hours)}, in {run.path}"
    )
    cli.print_run(run.to_json(), "next: oe-submit")


def _place(options: Options) -> RunPlace:
    from oellm.plan.rendering import RunPlace

    return RunPlace(options.name, options.run_dir)


def _plan(options: Options, cluster: Cluster, spool: RowSpool | None = None) -> RunPlan:
    """Read the manifest and plan the run; a spool gets the rows."""
    import os
    import shlex

    from oellm.plan import measured_times, planning
    from oellm.plan.costs import CostModel

    name = cluster.text("name")
    output_dir = cluster.text("eval_output_dir")
    earlier = measured_times.read_measurements(output_dir, name, os.environ)
    costs = CostModel(earlier.measurements, name)
    with cli.open_input(options.manifest) as stream:
        source = cli.input_name(options.manifest)
        plan = planning.plan_run(
            stream,
            source,
            cluster,
            costs=costs,
            report=cli.message,
            spool=spool,
            earlier=earlier.eval_ids,
            only_plan=options.dry_run or options.explain,
            skipped=options.skipped,
        )
    if plan.repeated:
        cli.message(
            f"{plan.repeated} of {plan.count} rows have results in earlier runs; to leave out "
            f"those that are still valid: … | oe-missing --in {shlex.quote(output_dir)} | oe-render"
        )
    return plan


def _cluster(options: Options) -> Cluster:
    import os

    from oellm.clusters.cluster import resolve_cluster
    from oellm.hub.environment import point_to_cache
    from oellm.plan import time_limits

    given = resolve_cluster(options.cluster, options.overrides, os.environ)
    point_to_cache(os.environ, given.text("hf_home"))
    cluster = time_limits.with_stop_before_clamped(given)
    if cluster != given:
        cli.message(
            f"jobs are told to stop {cluster.number('stop_before')} s before their end, not "
            f"{given.number('stop_before')} s: that is half of time_limit"
        )
    return cluster


if __name__ == "__main__":
    sys.exit(main())
