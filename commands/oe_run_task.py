"""oe-run-task: evaluate rows on this machine, loading each model once.

Usage:
  oe-run-task [options]

Options:
  --run_dir=DIR     Evaluate a shard of this run instead of rows from stdin.
  --shard=N         Number of the shard; needs --run_dir.
  --output_dir=DIR  With rows from stdin: keep results/, failures/ and samples/
                    in DIR.
  --check_tasks     Evaluate nothing; check whether the rows' tasks can start
                    without a network.
  --fetch_tasks     The same, after downloading what they need.
  --bootstrap_iters=N
                    Draws for bootstrapped standard errors; by default the run's
                    setting, else 1000.
  --jobs=N          Processes of --check_tasks and --fetch_tasks. [default: 4]
  --help            Print this text.
  --version         Print the version.

Input: a manifest in CSV on stdin, or the rows of one shard in a run's jobs.csv.
  Rows of the same model are evaluated together, so it is loaded once. A row
  with a valid result in the run (or in --output_dir) is not evaluated again,
  unless that in --output_dir is out of date. If a row fails, its reason is
  recorded, and the other rows continue. A row of a run whose model or task has
  changed since oe-submit fails.

Output: one JSON object per row, on one line, when the row ends: the framework's
  own result plus the key `oellm` (schema.json, table `result`). oe-collect
  reads these lines. The same objects are written to files if there is a
  directory for them: results/EVAL_ID.json and failures/EVAL_ID.json. Progress
  goes to stderr. Streams.

--check_tasks and --fetch_tasks load no model. A process without network access
builds each task, asks two of its documents, and scores made-up answers; this
shows missing data, metrics and packages. They print one JSON object per task
and use of it (schema.json, table `task`). oe-fetch calls this in the
environment that the jobs will have.

While the model answers for one row, other processes prepare the next rows and
compute the last row's metrics (docs/WORKER.md). On SIGUSR1, SIGTERM, SIGHUP and
SIGINT the model finishes its batch, and its answers are kept in answers/; the
next attempt continues from there.

A worker that was given GPUs (by its run, or by Slurm) and cannot use them ends
before it loads a model, and says what it saw. The setting allow_cpu, or
OELLM_ALLOW_CPU=true here, lets it compute on the CPU. A full disk ends it, too.
In both cases its rows get no failure, and the next worker evaluates them. A row
that takes longer than row_timeout fails, and the next row begins.

oe-run-task needs the framework: run it in a container, or after `pip install
'oellm[hf]'`. A run has it as the file oe-run-task.pyz, which needs nothing
else.

Exit status: 0 every row has a result (or can start); 1 some rows failed (or
  cannot start), or the job makes no progress within its time limit; 2 bad
  input; 3 the machine lacks something, such as the GPUs that it was to have; 75
  a signal or a full disk stopped it before all rows were evaluated; 130
  interrupted.

Example:
  oe-manifest --models acme/tiny --tasks arc_easy | oe-run-task | oe-collect
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from signal import Signals

    from oellm.core.processes.stop_signals import StopSignals
    from oellm.manifest.rows import Row
    from oellm.runs.heartbeat import HeartbeatWriter
    from oellm.runs.result_record import Facts
    from oellm.runs.result_store import ResultStore
    from oellm.runs.run_directory import Run
    from oellm.worker.halts import Halt
    from oellm.worker.job_script import JobScript
    from oellm.worker.row_ledger import RowCounts
    from oellm.worker.row_scheduler import RunOptions


class Options(NamedTuple):
    """The command line."""

    run_dir: str | None
    shard: int | None
    output_dir: str | None
    only_tasks: bool
    fetch_tasks: bool
    jobs: int
    bootstrap_iters: int | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-run-task", doc=__doc__, command=_run_task, argv=argv)


def _options(arguments: cli.Arguments) -> Options:
    run_dir, shard = arguments["--run_dir"], arguments["--shard"]
    if (run_dir is None) != (shard is None):
        raise UsageError("--run_dir and --shard belong together")
    if run_dir is not None and arguments["--output_dir"] is not None:
        raise UsageError("--output_dir is for rows from stdin; a run keeps its results itself")
    fetch = arguments["--fetch_tasks"]
    return Options(
        run_dir=run_dir,
        shard=cli.natural(arguments, "--shard"),
        output_dir=arguments["--output_dir"],
        only_tasks=fetch or arguments["--check_tasks"],
        fetch_tasks=fetch,
        jobs=cli.positive(arguments, "--jobs"),
        bootstrap_iters=cli.natural(arguments, "--bootstrap_iters"),
    )


def _run_task(arguments: cli.Arguments) -> int:
    from oellm.core.processes.stop_signals import StopSignals
    from oellm.runs import run_directory

    options = _options(arguments)
    run = None if options.run_dir is None else run_directory.load_run(options.run_dir)
    rows = list(_rows(run, options.shard))
    if options.only_tasks:
        return _prepare_tasks(rows, options)
    with StopSignals() as signals:
        script = _begin_job(run)
        return _evaluate(rows, run, options=options, signals=signals, script=script)


def _begin_job(run: Run | None) -> JobScript:
    """Prepare this process for evaluating; return the batch script that has started it."""
    import os

    from oellm.clusters import gpu_variables
    from oellm.core import redaction
    from oellm.core.processes import log_lines
    from oellm.worker.job_script import JobScript

    script = JobScript(os.environ)
    script.follow()
    order: tuple[str, ...] = ()
    if run is not None:
        settings = (run.setting("container_args") or [], run.setting("gpu_gres") or "")
        order = gpu_variables.order_by_settings(*settings)
    gpu_variables.keep_one_variable(os.environ, order or gpu_variables.order_by_devices())
    if script.exists:
        # A job is offline, so it needs no token, and whatever it prints is in a log.
        redaction.drop_secrets(os.environ)
    if not sys.stderr.isatty():
        log_lines.keep_lines(is_stamped=script.exists)
    return script


def _evaluate(
    rows: list[Row],
    run: Run | None,
    *,
    options: Options,
    signals: StopSignals,
    script: JobScript,
) -> int:
    from pathlib import Path

    from oellm.runs.result_store import ResultStore
    from oellm.worker.row_ledger import Sinks
    from oellm.worker.worker import Worker

    directory = options.run_dir or options.output_dir
    store = ResultStore(Path(directory).absolute()) if directory else None
    if store is None and any(row.value("log_samples") for row in rows):
        raise UsageError("log_samples: samples need a directory, use --output_dir")
    # The framework prints, too; stdout must have records only.
    with cli.stdout_diverted() as stdout:

        def emit(line: bytes) -> None:
            stdout.write(line + b"\n")
            stdout.flush()

        sinks = Sinks(
            emit=emit,
            log=cli.message,
            status=cli.status_line(),
            heartbeat=_heartbeat(run, options.shard),
        )
        run_options = _run_options(rows, run, options=options, origin=_origin(run, store))
        run_options = run_options._replace(script=script)
        counts = Worker(store, sinks, signals=signals, options=run_options).run(rows)
    # Slurm may send one before the time limit at this very moment.
    signals.ignore()
    left = f", {counts.left} left" if counts.left else ""
    cli.message(
        f"{counts.done} rows evaluated, {counts.skipped} already had results, "
        f"{counts.failed} failed{left}"
    )
    if counts.halt is not None:
        return _halted(counts.halt)
    if counts.left and signals.first is not None:
        return _stopped(run, options.shard, counts=counts, number=signals.first)
    return ExitStatus.FAILED if counts.failed else ExitStatus.DONE


def _halted(halt: Halt) -> int:
    """Tell why the machine lets the worker evaluate nothing more; return the exit status."""
    import socket

    host = socket.gethostname()
    if halt.is_unusable:
        hint = "the rows go back (--set=allow_cpu=true permits the CPU)"
        cli.message(f"{host} is unusable: {halt.reason}; {hint}")
        return ExitStatus.MACHINE
    cli.message(f"stopped on {host}: {halt.reason}; the rows go back")
    return ExitStatus.TRY_AGAIN


def _run_options(rows: list[Row], run: Run | None, options: Options, origin: Facts) -> RunOptions:
    """Return how to evaluate the rows; `origin` is what the run adds to the provenance."""
    import os

    from oellm.models import staging
    from oellm.runs import provenance
    from oellm.runs.accepted_contents import read_accepted
    from oellm.worker import gpu_check, time_limit
    from oellm.worker.row_scheduler import BOOTSTRAP_ITERS, RunOptions

    draws = options.bootstrap_iters
    if draws is None:
        setting = run.setting("bootstrap_iters") if run is not None else None
        draws = BOOTSTRAP_ITERS if setting is None else setting
    setting = run.setting("stage_dir") if run is not None else None
    return RunOptions(
        bootstrap_iters=draws,
        provenance={**provenance.process_facts(), **origin},
        start_s=provenance.start_seconds(),
        notice_s=_notice(run, options.shard),
        stage_dir=staging.resolve_stage_dir(setting, os.environ) if setting else "",
        gpus=gpu_check.find_demand(run, options.shard, rows),
        row_limit=time_limit.find_default(run, options.shard),
        accepted=None if run is None else read_accepted(run.path),
    )


def _heartbeat(run: Run | None, shard: int | None) -> HeartbeatWriter | None:
    """Return the writer of heartbeats; None if the rows are not a shard of a run."""
    from oellm.runs.heartbeat import HeartbeatWriter

    if run is None or shard is None:
        return None
    return HeartbeatWriter(run.path, shard, run.arrays[run.shards[shard].array].gpus)


def _notice(run: Run | None, shard: int | None) -> float:
    """Return the seconds in which the worker must stop before the time limit of its job.

    One minute is kept back, in which the job requeues itself.
    """
    from oellm.plan import time_limits
    from oellm.slurm import notation
    from oellm.worker.stopper import TIME_TO_STOP

    seconds = None
    if run is not None and shard is not None:
        limit = run.arrays[run.shards[shard].array].time_limit
        seconds = time_limits.clamp_stop_before(
            run.setting("stop_before"), notation.parse_time_limit(limit)
        )
    return max(TIME_TO_STOP, (seconds or 0) - 60.0)


def _origin(run: Run | None, store: ResultStore | None) -> Facts:
    """Return the part of the provenance that the run gives."""
    if run is None:
        return {"run_dir": str(store.directory) if store else ""}
    return {
        "run_dir": str(run.path),
        "cluster": run.setting("name"),
        "images": run.images,
    }


def _stopped(run: Run | None, shard: int | None, counts: RowCounts, number: Signals) -> int:
    """Tell why rows are left; return the exit status, which may ask for a requeue."""
    from signal import SIGINT, SIGUSR1

    from oellm.worker import requeues

    if number == SIGINT:
        cli.message("interrupted")
        return ExitStatus.INTERRUPTED
    kept = "; some answers of unfinished rows are kept" if counts.kept_bytes > 0 else ""
    cli.message(f"stopped by {number.name}{kept}")
    if number == SIGUSR1 and run is not None and shard is not None:
        limit = run.setting("requeues") or 0
        has_progressed = bool(counts.done or counts.kept_bytes > 0)
        if not requeues.count_timeout(run.path, shard, made_progress=has_progressed, limit=limit):
            cli.message(
                f"stuck: {limit + 1} times in a row the time ran out before a row was finished or "
                "a batch of requests was answered; use a longer time_limit"
            )
            return ExitStatus.FAILED
    return ExitStatus.TRY_AGAIN


def _prepare_tasks(rows: list[Row], options: Options) -> int:
    from oellm.core import json_codec
    from oellm.fetch import task_preparation
    from oellm.fetch.task_records import Obstacle

    failed = 0
    with cli.stdout_diverted() as stdout:
        for record in task_preparation.prepare_tasks(
            rows, fetch=options.fetch_tasks, at_once=options.jobs, log=cli.message
        ):
            failed += isinstance(record.answer, Obstacle)
            stdout.write(json_codec.dumps(record.to_json()) + b"\n")
            stdout.flush()
    return ExitStatus.FAILED if failed else ExitStatus.DONE


def _rows(run: Run | None, shard: int | None) -> Iterator[Row]:
    """Yield the rows to evaluate; the caller evaluates none before all are checked."""
    from oellm import frameworks
    from oellm.manifest import csv_file, locations
    from oellm.manifest import rows as manifest

    if run is not None:
        if shard is not None and shard >= len(run.shards):
            raise UsageError(f"--shard: expected 0 to {len(run.shards) - 1}, got {shard}")
        # A row that was changed since would get the result of another one.
        yield from map(manifest.identify_row, run.rows(shard))
        return
    with cli.open_input(None) as stream:
        rows = csv_file.read_rows(stream, cli.input_name(None), cli.message)
        for row in frameworks.select_runnable(rows, cli.message):
            yield manifest.identify_row(locations.locate_row(row))


if __name__ == "__main__":
    sys.exit(main())
