"""oe-render: plan shards for a manifest and write a run directory.

Usage:
  oe-render [options] [--set=KEY=VALUE]... [--sbatch=OPTION]... [--] [MANIFEST]

Options:
  --cluster=NAME   Cluster to render for: a name, or a JSON file that oe-detect wrote (with a
                   slash in its name, or ending in .json); left out, this machine's.
  --set=KEY=VALUE  Override a setting of the cluster; KEY.MEMBER=VALUE sets a member of a map.
  --sbatch=OPTION  A further option for sbatch by its long name, NAME=VALUE, or NAME alone where
                   it takes no value; the same as --set=sbatch.NAME=VALUE.
  --run_dir=DIR    Create this directory instead of one named after the time.
  --dry_run        Print the plan on stderr and the batch script on stdout, write nothing.
  --help           Print this text.
  --version        Print the version.

Input: a manifest in CSV, a file or stdin (schema.json, table `manifest`). Every row
  gets its eval_id; a row that is there twice is evaluated once. Where a row leaves
  batch_size or dtype empty, the cluster's settings of these names fill it.

One shard is made for each model, so that it is loaded once; more models than the
setting queue_limit share shards.

Output: the run as one JSON object on one line (schema.json, table `run`), for
  oe-submit. The run directory, EVAL_OUTPUT_DIR/USER/TIME, holds jobs.csv, run.json,
  submit_evals.sbatch, oe-run-task.pyz, slurm_logs/ and results/. Slurm is not needed.
  run.json has the SHA-256 of the container image, which is kept below OELLM_CACHE_DIR
  (default ~/.cache/oellm) for as long as the image stays as it is.
  Buffers: nothing is written before the last row is read. Until then the rows are in
  a temporary file (in TMPDIR; none with --dry_run); in memory it keeps some 20 to 50
  bytes for each row, and what it knows of each model.

Exit status: 0 done, 2 bad input or setting, 3 no cluster, image or directory.

Examples:
  oe-manifest --models acme/tiny --tasks hellaswag | oe-render | oe-submit
  oe-render --dry_run --cluster leonardo --sbatch mail-type=FAIL evals.csv
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError


class Options(NamedTuple):
    """The command line."""

    manifest: str | None
    cluster: str | None
    overrides: list[str]
    run_dir: str | None
    dry_run: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-render", __doc__, _render, argv)


def _setting(text: str) -> str:
    """Return an option for sbatch as the text of --set."""
    name, _, value = text.partition("=")
    if not name.strip():
        raise UsageError(f"--sbatch: expected NAME=VALUE, or NAME, got {text!r}")
    return f"sbatch.{name}={value}"


def _render(arguments: cli.Arguments) -> int:
    import contextlib
    import os

    from oellm import batch_script, json_codec, rendering
    from oellm.cluster import resolve
    from oellm.image_digest import ImageDigests
    from oellm.row_spool import RowSpool

    options = Options(
        arguments["MANIFEST"],
        arguments["--cluster"],
        arguments["--set"] + [_setting(text) for text in arguments["--sbatch"]],
        arguments["--run_dir"],
        arguments["--dry_run"],
    )
    given = resolve(options.cluster, options.overrides, os.environ)
    cluster = batch_script.fitted(given)
    if cluster != given:
        cli.message(
            f"jobs are told to stop {cluster.number('stop_before')} s before their end, not "
            f"{given.number('stop_before')}: that is half of time_limit"
        )
    name = cli.input_name(options.manifest)
    with contextlib.nullcontext() if options.dry_run else RowSpool() as spool:
        with cli.open_input(options.manifest) as stream:
            jobs = rendering.read_jobs(stream, name, cluster, cli.message, spool)
        if spool is None:
            for line in rendering.plan_lines(jobs):
                cli.message(line)
            print(rendering.script(jobs, cluster, options.run_dir), end="")
            return ExitStatus.DONE
        digests = ImageDigests(os.environ, cli.message)
        run = rendering.write(jobs, spool, cluster, options.run_dir, digests)
    cli.message(f"rows: {jobs.count}, shards: {len(jobs.shards)}, in {run.path}")
    sys.stdout.write(json_codec.dumps(run.record).decode() + "\n")
    return ExitStatus.DONE


if __name__ == "__main__":
    sys.exit(main())
