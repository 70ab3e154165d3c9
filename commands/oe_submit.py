"""oe-submit: submit what a run still lacks.

Usage:
  oe-submit [options] [--] [RUN_DIR]

Options:
  --executor=NAME  slurm or local; left out, the cluster's.
  --jobs=N         Shards that the local executor runs at a time. [default: 1]
  --help           Print this text.
  --version        Print the version.

Input: a run directory, or a run object (from oe-render) on stdin.

It submits the shards that lack a valid result and are not in the queue, as many
as the setting queue_limit leaves room for. Run it again to retry what failed and
to submit the rest; nothing that has a valid result is computed again.

The executor `slurm` returns when sbatch has taken the shards. The executor `local`
runs the same script's array indices on this machine, one after the other or --jobs
at a time, with progress on stderr, and returns when all have ended.

Output: the run object, with the job ids, on one line. The same is in run.json.

Exit status: 0 done, 1 sbatch refused or rows failed (executor local), 2 bad input,
  3 no sbatch or squeue, 130 interrupted.

Examples:
  oe-manifest --models acme/tiny --tasks hellaswag | oe-render | oe-submit
  oe-submit /scratch/evals/ada/2024-01-15-14-30-45
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from oellm.run_directory import Run


class Options(NamedTuple):
    """The command line."""

    run_dir: str | None
    executor: str | None
    jobs: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-submit", __doc__, _submit, argv)


def _options(arguments: cli.Arguments) -> Options:
    if arguments["--executor"] not in (None, "slurm", "local"):
        raise UsageError(f"--executor: expected slurm or local, got {arguments['--executor']!r}")
    if not arguments["--jobs"].isdecimal() or int(arguments["--jobs"]) < 1:
        raise UsageError(f"--jobs: expected a positive integer, got {arguments['--jobs']!r}")
    return Options(arguments["RUN_DIR"], arguments["--executor"], int(arguments["--jobs"]))


def _submit(arguments: cli.Arguments) -> int:
    from oellm import json_codec, run_directory, submission

    options = _options(arguments)
    if options.run_dir in (None, "-"):
        with cli.open_input(None) as stream:
            run = run_directory.parse(stream.read(), "stdin")
    else:
        run = run_directory.load(str(options.run_dir))
    incomplete = submission.incomplete_shards(run)
    if not incomplete:
        cli.message(f"all {run.record['n_rows']} rows have results: {run.path}")
        status = ExitStatus.DONE
    elif (options.executor or run.setting("executor")) == "local":
        status = _run_here(run, incomplete, options.jobs)
    else:
        status = _submit_to_slurm(run, incomplete)
    sys.stdout.write(json_codec.dumps(run.record).decode() + "\n")
    return status


def _submit_to_slurm(run: Run, incomplete: list[int]) -> ExitStatus:
    from oellm import slurm, submission

    found = submission.pending(run, incomplete, slurm.queued())
    if found.queued:
        cli.message(f"in the queue already: shards {slurm.ranges(found.queued)}")
    if found.ready:
        job_id = submission.submit(run, found.ready)
        cli.message(f"submitted as job {job_id}: shards {slurm.ranges(found.ready)} of {run.path}")
    if found.postponed:
        cli.message(
            f"no room in the queue (queue_limit {run.setting('queue_limit')}) for shards "
            f"{slurm.ranges(found.postponed)}; run oe-submit {run.path} again later"
        )
    return ExitStatus.DONE


def _run_here(run: Run, incomplete: list[int], jobs: int) -> ExitStatus:
    import os

    from oellm import submission
    from oellm.local_executor import LocalExecutor

    submission.record(run, "local", os.getpid(), incomplete)
    LocalExecutor(run, cli.message).execute(incomplete, jobs)
    missing = sum(1 for _ in run.missing_rows())
    done = run.record["n_rows"] - missing
    cli.message(f"{done} of {run.record['n_rows']} rows have results: {run.path}")
    return ExitStatus.FAILED if missing else ExitStatus.DONE


if __name__ == "__main__":
    sys.exit(main())
