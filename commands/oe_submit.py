"""oe-submit: submit the jobs of a run that still lack results.

Usage:
  oe-submit [options] [--] [RUN_DIR]

Options:
  --executor=NAME  slurm or local; by default the cluster's.
  --queue_limit=N  Jobs that you may have in the queue; by default the run's
                   setting.
  --wait[=WHAT]    Stay, and submit the rest as room appears, until everything
                   is submitted; with --wait=done, until nothing of the run is
                   in the queue any more.
  --poll=SECONDS   Longest time between two checks of the queue with --wait.
                   The first checks come sooner, and so does one when the
                   workers have written that they ended. [default: 60]
  --jobs=N         Array elements that the local executor runs at the same
                   time. [default: 1]
  --accept_stale   Keep results whose model, task or data have changed since,
                   instead of evaluating their rows again.
  --dry_run        Print the command lines that would run, and do nothing.
  --include_nodes=NODES  Let jobs go to excluded nodes again: names separated
                   by commas, or all.
  --cancel         Cancel what is queued or running of this run, and do nothing
                   else.
  --help           Print this text.
  --version        Print the version.

Input: a run directory, the name of a run (of yours below eval_output_dir; only
  one may have it), or a run object (from oe-render) on stdin.

oe-submit submits the array elements that lack a valid result and are not in
the queue, as many as there is room for: by the setting queue_limit, and by
Slurm's MaxArraySize and MaxSubmitJobs of account and QOS. All your jobs count.
Run it again to continue, to retry what failed, and to submit the rest; a row
with a valid result is not computed again. One call submits an element only
once, however long it waits.

Second stages of rows are array elements of their own, which follow those of
the first ones: each begins when the element with its number has ended well
(sbatch --dependency=aftercorr), and leaves the queue if that has failed
(--kill-on-invalid-dep), so nothing waits for ever. If all rows of an element
have what their first stage leaves in RUN_DIR/stages, it waits for nothing. A
first stage that is there is not computed again.

A result counts only if it was computed from what the row would be evaluated
from now: the files of the model, the task's configuration, code and local
data. oe-submit names what has changed since, sets these results aside
(results/EVAL_ID.json.stale-TIME) and evaluates their rows again. With
--accept_stale it keeps them, and says so; contents.json remembers that. A
worker refuses a row whose model or task has changed since oe-submit. The same
holds for what a first stage has left.

Two calls at the same time submit nothing twice: the process that holds
RUN_DIR/submit.lock checks and submits. oe-submit takes over a lock at once if
its process is gone, and a lock of another host after 15 minutes. It waits half
a minute for a lock, then ends with status 75. If Slurm does not answer, it
asks again for two minutes. If it did not get a job's number, it looks for the
job by its comment before it submits again, in this call or the next.

A node on which two jobs ended before their first row was loaded is excluded
from then on (sbatch --exclude), also from jobs that wait. Jobs of second
stages are counted by themselves. run.json keeps this, stderr and oe-status
tell it, and --include_nodes undoes it. If all nodes do that, nothing more is
submitted, and the status is 3. On this machine (executor local), two such ends
one after the other stop the rest.

On a login node of several Slurm clusters, jobs go where the run's sbatch
option clusters says, else SBATCH_CLUSTERS or SLURM_CLUSTERS. Later calls ask
the cluster that sbatch has named.

Ctrl-C while it waits leaves submitted jobs in the queue.

The executor `slurm` returns when sbatch has accepted the elements. The
executor `local` runs the same script's elements on this machine, one after the
other or --jobs at a time, with progress on stderr, and returns when all have
ended. It divides the machine's GPUs among them (CUDA_VISIBLE_DEVICES,
ROCR_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES if set, else what nvidia-smi or
rocm-smi lists). A signal stops them all in good order; after a second Ctrl-C,
or half a minute, they are killed. Finished rows keep their results.

Output: the run object with the job ids, on one line; on a terminal the run
  directory and what to do next. run.json has the same as the object. If the
  manifest had no rows, there is nothing to do, and the status is 0.
  --dry_run prints shell commands, one per line; --cancel prints nothing.

Exit status: 0 done; 1 sbatch refused, or rows have no result (executor local,
  --wait=done); 2 bad input; 3 no sbatch or squeue, Slurm does not answer, or
  all nodes end jobs at once;
  75 another oe-submit has the run, or a signal stopped the executor local;
  130 interrupted.

Examples:
  oe-manifest --models acme/tiny --tasks hellaswag | oe-render | oe-submit
  oe-submit --wait=done /scratch/evals/ada/2024-01-15-14-30-45
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

from oellm import cli
from oellm.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from oellm.runs.run_directory import Run
    from oellm.submit.stale_rows import StaleRows
    from oellm.submit.submitter import Round, Submitter


class Options(NamedTuple):
    """The command line."""

    run_dir: str | None
    executor: str | None
    queue_limit: int | None
    # What to wait for, `submitted` or `done`; None if nothing.
    wait: str | None
    poll_s: int
    jobs: int
    # Excluded nodes to include again.
    include_nodes: list[str]
    accept_stale: bool
    dry_run: bool
    cancel: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-submit", doc=__doc__, command=_oe_submit, argv=argv)


def read_options(arguments: cli.Arguments) -> Options:
    """Return the command line; raises UsageError for values that it cannot have."""
    if arguments["--executor"] not in (None, "slurm", "local"):
        raise UsageError(f"--executor: expected slurm or local, got {arguments['--executor']!r}")
    if arguments["--wait"] not in (None, "", "done"):
        raise UsageError(f"--wait: expected nothing or done, got {arguments['--wait']!r}")
    if arguments["--wait"] == "" and arguments["RUN_DIR"] == "done":
        raise UsageError("--wait done: write --wait=done")
    if arguments["RUN_DIR"] == "":
        raise UsageError("expected a run directory or the name of a run, got ''")
    if arguments["--cancel"] and (arguments["--dry_run"] or arguments["--wait"] is not None):
        raise UsageError("--cancel submits nothing: leave out --dry_run and --wait")
    nodes = arguments["--include_nodes"]
    if nodes is not None and (arguments["--cancel"] or arguments["--dry_run"]):
        raise UsageError("--include_nodes changes run.json: leave out --cancel and --dry_run")
    limit = arguments["--queue_limit"]
    return Options(
        run_dir=arguments["RUN_DIR"],
        executor=arguments["--executor"],
        queue_limit=None if limit is None else cli.positive(arguments, "--queue_limit"),
        wait="submitted" if arguments["--wait"] == "" else arguments["--wait"],
        poll_s=cli.positive(arguments, "--poll"),
        jobs=cli.positive(arguments, "--jobs"),
        include_nodes=[] if nodes is None else [name.strip() for name in nodes.split(",")],
        accept_stale=arguments["--accept_stale"],
        dry_run=arguments["--dry_run"],
        cancel=arguments["--cancel"],
    )


def _oe_submit(arguments: cli.Arguments) -> int:
    from oellm.core import json_codec
    from oellm.runs import run_directory
    from oellm.runs.places.named_runs import require_directory
    from oellm.submit import batch_call

    options = read_options(arguments)
    path = None if options.run_dir is None else require_directory(options.run_dir)
    try:
        run = run_directory.open_run(path, lambda: _open_stdin(path))
    except run_directory.NoRunError as error:
        cli.message(str(error))
        if not (options.dry_run or options.cancel or sys.stdout.isatty()):
            sys.stdout.write(json_codec.dumps(run_directory.NO_RUN).decode() + "\n")
        return ExitStatus.DONE
    if options.cancel:
        from oellm.submit import submitter

        submitter.cancel_run(run.path, cli.message)
        return ExitStatus.DONE
    if options.include_nodes:
        from oellm.submit.failing_nodes import include_nodes

        include_nodes(run.path, options.include_nodes, cli.message)
    batch_call.require_sound(run)
    if (options.executor or run.setting("executor")) == "local":
        return _run_here(run, options)
    return _submit(run, options)


def _open_stdin(path: str | None) -> TextIO:
    # Nobody types a run object, unless `-` says so.
    if path is None and sys.stdin.isatty():
        raise UsageError("expected the directory or the name of a run; oe-status lists yours")
    return cli.open_input(None)


def _submit(run: Run, options: Options) -> int:
    from oellm.submit.stale_rows import StaleRows
    from oellm.submit.submitter import Submitter

    stale = StaleRows(run, cli.message, accept=options.accept_stale)
    submitter = Submitter(run.path, options.queue_limit, cli.message, stale=stale)
    status = ExitStatus.DONE
    if not submitter.rows.count():
        _settle_all(run, stale, options)
        cli.message(f"all {run.row_count} rows have results: {run.path}")
    elif options.dry_run:
        _tell(stale)
        for line in submitter.command_lines():
            print(line)
    elif not options.wait:
        again = f"; oe-submit {run.path} submits them later, with --wait as room appears"
        found = submitter.submit_round()
        cli.message(_summary(found) + (again if found.postponed else ""))
    else:
        status = _wait(submitter, options)
    if not options.dry_run and status != ExitStatus.INTERRUPTED:
        _print_run(submitter.run, is_over=not submitter.rows.count() or options.wait == "done")
    return status


def _settle_all(run: Run, stale: StaleRows, options: Options) -> None:
    """Keep results that are out of date, if the user says so, when there is nothing to submit."""
    from oellm.runs.submit_lock import SubmitLock

    if options.dry_run:
        _tell(stale)
    elif options.accept_stale:
        with SubmitLock(run.path):
            stale.settle()


def _tell(stale: StaleRows) -> None:
    for line in stale.describe(dry_run=True):
        cli.message(line)


def _wait(submitter: Submitter, options: Options) -> ExitStatus:
    """Submit as room appears until there is nothing to wait for; report changes."""
    show = cli.status_line() or (lambda _: None)
    try:
        _follow(submitter, options, show)
    except KeyboardInterrupt:
        path = submitter.run.path
        cli.message(
            "interrupted; submitted jobs stay in the queue: "
            f"oe-submit --wait={options.wait} {path} continues, "
            f"oe-submit --cancel {path} cancels them"
        )
        return ExitStatus.INTERRUPTED
    finally:
        show("")
    if options.wait == "submitted":
        return ExitStatus.DONE
    return _report_rows(submitter.run, submitter.rows.count())


def _follow(submitter: Submitter, options: Options, show: Callable[[str], None]) -> None:
    from oellm.submit.queue_pauses import QueuePauses

    reported = None
    pauses = QueuePauses(options.poll_s)
    while True:
        found = _try_round(submitter, options)
        if found is None:
            pauses.wait_long()
            continue
        # What this round has submitted will be in the queue at the next.
        news = found._replace(submitted=0, queued=found.queued + found.submitted)
        if news != reported:
            cli.message(_summary(found))
            reported = news
        if not found.postponed and (options.wait == "submitted" or not news.queued):
            return
        show(_summary(news))
        pauses.wait(submitter.have_workers_ended)


def _try_round(submitter: Submitter, options: Options) -> Round | None:
    """Submit what there is room for; None if Slurm or another oe-submit does not let us."""
    from oellm.runs.submit_lock import LockedError
    from oellm.slurm.commands import SlurmUnavailableError

    try:
        return submitter.submit_round()
    except (SlurmUnavailableError, LockedError) as error:
        cli.message(f"{error}; next check in about {options.poll_s} s")
        return None


def _summary(found: Round) -> str:
    limit = f"{found.limit.name} {found.limit.most}" if found.limit else "Slurm's own limit"
    parts = (
        (found.submitted, "submitted"),
        (found.queued, "already in the queue"),
        (found.postponed, f"waiting for room ({limit})"),
        (found.left, "ended, but not all of their rows have results"),
        (found.barren, "without anything from a first stage"),
        (found.finished, "finished"),
    )
    return "elements: " + ", ".join(f"{count} {what}" for count, what in parts if count)


def _run_here(run: Run, options: Options) -> ExitStatus:
    import signal

    from oellm.runs import run_directory
    from oellm.runs.submit_lock import SubmitLock
    from oellm.submit import array_elements
    from oellm.submit.array_elements import UnfinishedRows
    from oellm.submit.local_executor import LocalExecutor, command_line
    from oellm.submit.stale_rows import StaleRows

    stale = StaleRows(run, cli.message, accept=options.accept_stale)
    rows = UnfinishedRows(run, stale)
    if options.dry_run:
        _tell(stale)
        for element in array_elements.find_unfinished(run, rows):
            print(command_line(run, element))
        return ExitStatus.DONE
    stopped_by = None
    with SubmitLock(run.path) as lock:
        run = run_directory.load_run(run.path)
        stale.settle()
        if elements := array_elements.find_unfinished(run, rows):
            executor = LocalExecutor(run, rows, cli.message, refresh=lock.refresh)
            stopped_by = executor.execute(elements, options.jobs)
    status = _report_rows(run, rows.count())
    if stopped_by is not None:
        cli.message(f"stopped by {stopped_by.name}; oe-submit {run.path} continues")
        interrupted = stopped_by == signal.SIGINT
        return ExitStatus.INTERRUPTED if interrupted else ExitStatus.TRY_AGAIN
    _print_run(run, is_over=True)
    return status


def _report_rows(run: Run, missing: int) -> ExitStatus:
    """Say how many rows have results; return the exit status that this means."""
    cli.message(f"{run.row_count - missing} of {run.row_count} rows have results: {run.path}")
    if missing:
        cli.message(f"why the others have none: oe-status {shlex.quote(str(run.path))}")
    return ExitStatus.FAILED if missing else ExitStatus.DONE


def _print_run(run: Run, *, is_over: bool) -> None:
    steps = [] if is_over else ["watch:  oe-status --watch"]
    cli.print_run(run.to_json(), *steps, "scores: oe-collect")


if __name__ == "__main__":
    sys.exit(main())
