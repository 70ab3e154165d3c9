"""oe-run-task: evaluate rows on this machine, loading each model once.

Usage:
  oe-run-task [options]

Options:
  --run_dir=DIR     Evaluate a shard of this run instead of rows from stdin.
  --shard=N         Number of the shard; needs --run_dir.
  --output_dir=DIR  With rows from stdin: keep results/, failures/, samples/
                    and stages/ in DIR.
  --check_tasks     Evaluate nothing; check whether the rows' tasks can start
                    without a network.
  --fetch_tasks     The same, after downloading what they need.
  --bootstrap_iters=N
                    Draws for bootstrapped standard errors; by default the
                    run's setting, else 1000.
  --unsafe_execution
                    Let code that a model has written run without a container:
                    it can do whatever you can do on this machine.
  --jobs=N          Processes of --check_tasks and --fetch_tasks. [default: 4]
  --help            Print this text.
  --version         Print the version.

Input: a manifest in CSV on stdin, or the rows of one shard in a run's
  jobs.csv. Rows of the same model are evaluated together, so it is loaded
  once. A row with a valid result in the run (or in --output_dir) is not
  evaluated again, unless that in --output_dir is out of date. If a row fails,
  its reason is recorded, and the other rows continue. A row of a run whose
  model or task has changed since oe-submit fails.

Output: one JSON object per row, on one line, when the row ends: the
  framework's own result plus the key `oellm` (schema.json, table `result`).
  oe-collect reads these lines. The same objects are written to files if there
  is a directory for them: results/EVAL_ID.json and failures/EVAL_ID.json.
  Progress goes to stderr. Streams.

--check_tasks and --fetch_tasks load no model. A process without network access
builds each task, asks two of its documents, and scores made-up answers; this
shows missing data, metrics and packages. They print one JSON object per task
and use of it (schema.json, table `task`). oe-fetch calls this in the
environment that the jobs will have.

While the model answers for one row, other processes prepare the next rows and
compute the last row's metrics (docs/WORKER.md). On SIGUSR1, SIGTERM, SIGHUP
and SIGINT the model finishes its batch, and its answers are kept in answers/;
the next attempt continues from there.

Rows of frameworks that are programs (bigcode_eval, evalplus and others) are
evaluated after the others. oe-run-task starts the program of each on this
machine, in the environment that the settings images and venvs name, else with
this Python. Rows whose answers are programs have two stages: a shard of a run
computes one, rows from stdin go through both. Code that a model has written
runs in a sandbox; without a container only with --unsafe_execution.

A worker that was given GPUs (by its run, or by Slurm) and cannot use them ends
before it loads a model, and says what it saw. The setting allow_cpu, or
OELLM_ALLOW_CPU=true here, lets it compute on the CPU. A full disk ends it,
too. In both cases its rows get no failure, and the next worker evaluates them.
A row that takes longer than row_timeout fails, and the next row begins.

For lm_eval, oe-run-task needs the framework: run it in a container, or after
`pip install 'oellm[hf]'`. A run has it as the file oe-run-task.pyz, which
needs nothing else.

Exit status: 0 every row has a result (or can start); 1 some rows failed (or
  cannot start), or the job makes no progress within its time limit; 2 bad
  input; 3 the machine lacks something, such as the GPUs that it was to have,
  or a sandbox; 75 a signal or a full disk stopped it before all rows were
  evaluated; 130 interrupted. A shard of first stages ends with 0 if second
  stages of its rows can follow, and a shard of second stages if only rows
  without a first output are left out.

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
    from oellm.core.processes.stop_signals import StopSignals
    from oellm.manifest.rows import Row
    from oellm.runs.run_directory import Run
    from oellm.worker.job_script import JobScript
    from oellm.worker.jobs.assignment import Assignment


class Options(NamedTuple):
    """The command line."""

    run_dir: str | None
    shard: int | None
    output_dir: str | None
    only_tasks: bool
    fetch_tasks: bool
    jobs: int
    bootstrap_iters: int | None
    unsafe_execution: bool


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
        unsafe_execution=arguments["--unsafe_execution"],
    )


def _run_task(arguments: cli.Arguments) -> int:
    from pathlib import Path

    from oellm.core.processes.stop_signals import StopSignals
    from oellm.runs import run_directory
    from oellm.worker.jobs.assignment import Assignment
    from oellm.worker.jobs.job_start import begin_job

    options = _options(arguments)
    run = None if options.run_dir is None else run_directory.load_run(options.run_dir)
    rows = list(_rows(run, options.shard, only_tasks=options.only_tasks))
    if options.only_tasks:
        return _prepare_tasks(rows, options)
    place = options.run_dir or options.output_dir
    assignment = Assignment(
        rows,
        run,
        options.shard,
        directory=Path(place).absolute() if place else None,
        unsafe_execution=options.unsafe_execution,
    )
    with StopSignals() as signals:
        script = begin_job(run)
        draws = options.bootstrap_iters
        return _evaluate(assignment, draws=draws, signals=signals, script=script)


def _evaluate(
    assignment: Assignment, *, draws: int | None, signals: StopSignals, script: JobScript
) -> int:
    from oellm.worker.jobs.endings import find_status
    from oellm.worker.jobs.session import Session
    from oellm.worker.row_ledger import Sinks

    if assignment.directory is None and any(row.value("log_samples") for row in assignment.rows):
        raise UsageError("log_samples: samples need a directory, use --output_dir")
    # The framework prints, too; stdout must have records only.
    with cli.stdout_diverted() as stdout:

        def emit(line: bytes) -> None:
            stdout.write(line + b"\n")
            stdout.flush()

        heartbeat = assignment.heartbeat()
        sinks = Sinks(emit, log=cli.message, status=cli.status_line(), heartbeat=heartbeat)
        options = assignment.options(draws, script)
        session = Session(assignment, sinks, signals, options=options)
        session.evaluate()
    # Slurm may send one before the time limit at this very moment.
    signals.ignore()
    return find_status(assignment, session.counts, signals.first, log=cli.message)


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


def _rows(run: Run | None, shard: int | None, *, only_tasks: bool) -> Iterator[Row]:
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
        for row in frameworks.select_runnable(rows, cli.message, skipped=[]):
            if not only_tasks:
                # oe-fetch has checked the rows, and gives us no more of them than their tasks.
                frameworks.require_known_values(row)
            yield manifest.identify_row(locations.locate_row(row))


if __name__ == "__main__":
    sys.exit(main())
