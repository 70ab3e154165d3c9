"""oe-status: show how far runs are, row by row and shard by shard.

Usage:
  oe-status [options] [--] [RUN_DIR]...

Options:
  --format=FORMAT  table, csv, jsonl or json; by default table on a terminal,
                   else csv.
  --shards         In csv and jsonl, print a record for each shard, not each
                   row.
  --watch          Check again and again, until nothing runs or is queued.
  --poll=SECONDS   How often --watch checks. [default: 10]
  --log=NAME       Print the end of a log instead: that of a shard (its number)
                   or of a row (its eval_id, or the beginning of it). A number
                   of up to seven digits is a shard.
  --lines=N        Lines of the log that --log prints. [default: 40]
  --name=PATTERN   List only runs whose name or directory fits the pattern.
                   This and the next options are for the list. Patterns are
                   those of the shell; quote them.
  --model=PATTERN  List only runs with a row of such a model: its model_path,
                   or the end of it after a slash, matches.
  --task=PATTERN   Likewise, with such a task; with both, a row that has both.
  --user=PATTERN   List the runs of these users; by default yours.
  --state=STATES   List only runs with rows in one of these states, separated
                   by commas; done: all rows are.
  --last=N         List at most N runs; by default 20.
  --cluster=NAME   List the runs of this cluster, and look for names of runs
                   among them; by default this machine's.
  --help           Print this text.
  --version        Print the version.

Input: run directories, names of runs (of yours below eval_output_dir; only one
  may have the name), or - for a run object on stdin (from oe-render or
  oe-submit). Without any, oe-status lists your newest runs below the setting
  eval_output_dir. A run is its directory: after oe-submit --cancel, rm -r
  removes it.

oe-status joins the manifest, results, failures, the workers' heartbeats and
Slurm's answers. A row is

  done      if it has a valid result;
  running   if a worker is evaluating it, in a job that runs;
  pending   if it waits in the queue or in a running job;
  not submitted  if it waits for oe-submit: it never was in the queue, or it is
            stale: model, task or data have changed since its result;
  failed    if the worker recorded a reason in failures/;
  cancelled if a user took its job out of the queue;
  lost      if its job ended without a result for another reason: it was
            killed, its node failed, its container did not start.

A row whose answers are programs has two stages: generate asks the model,
evaluate runs the programs. Such a row is in the first one until that has an
output, which the column `stage` says; its state, reason, log and job are those
of the stage. A shard computes one of the stages. The totals count the rows
that are generating, generated (they wait for their evaluation) and evaluating.

Lost rows have the last line of their job's log as part of the reason, and the
log's path. oe-submit starts failed, cancelled and lost rows again. squeue
knows jobs until a while after they end, sacct knows all of them; without
accounting, oe-status says what it cannot know. If Slurm does not answer,
oe-status shows what the files say. Times and GPU-hours come from the
heartbeats, from each worker's start to its last heartbeat. Remaining times
assume the pace so far.

Output: records (schema.json, tables `status` and `shard_status`). In json, one
  object per run and line, with its totals and shards. --watch redraws the
  table with a bar on a terminal; in a pipe it prints a line when something has
  changed.

Exit status: 0 all rows are done, or the list of runs is printed; 1 rows
  failed, were lost or cancelled, and nothing is running or waiting; 75
  something is running, queued or not submitted; for several runs, the highest
  of these. 2 bad input; 130 interrupted.

Examples:
  oe-status --watch RUN_DIR
  oe-status --format=csv RUN_DIR | csvgrep -c state -m failed
  oe-status --model '*pythia*' --task mmlu --user ann --state failed,lost
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from oellm.core.log import Log
    from oellm.runs.run_directory import Run
    from oellm.status.observer import Observer
    from oellm.status.records import RowRecord, ShardRecord
    from oellm.status.run_search import RunSearch
    from oellm.status.statuses import RunStatus, Totals

_FORMATS = ("table", "csv", "jsonl", "json")
# How many runs are listed.
_LISTED = 20
# The options that select runs of the list.
_SELECTING = ("--name", "--model", "--task", "--user", "--state", "--last")


class Options(NamedTuple):
    """The command line."""

    run_dirs: list[str]
    layout: str
    shards: bool
    watch: bool
    poll_s: float
    log: str | None
    lines: int
    cluster: str | None
    search: RunSearch
    # How many runs are listed.
    last: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-status", doc=__doc__, command=_status, argv=argv)


def _options(arguments: cli.Arguments) -> Options:
    from oellm.core import tables

    run_dirs = arguments["RUN_DIR"]
    layout = tables.choose_format(arguments["--format"], sys.stdout, _FORMATS)
    if arguments["--watch"] and (arguments["--format"] or arguments["--shards"]):
        raise UsageError("--watch has its own format: leave out --format and --shards")
    if arguments["--shards"] and layout not in ("csv", "jsonl"):
        raise UsageError("--shards is for the formats csv and jsonl; the others always have shards")
    for option in ("--log", *_SELECTING):
        if arguments[option] == "":
            raise UsageError(f"{option} needs a value that is not empty")
    if "" in run_dirs:
        raise UsageError("expected a run directory or the name of a run, got ''")
    if (arguments["--watch"] or arguments["--log"]) and len(run_dirs) != 1:
        raise UsageError("--watch and --log need one run")
    return Options(
        run_dirs=run_dirs,
        layout=layout,
        shards=arguments["--shards"],
        watch=arguments["--watch"],
        poll_s=cli.positive(arguments, "--poll"),
        log=arguments["--log"],
        lines=cli.positive(arguments, "--lines"),
        cluster=arguments["--cluster"],
        search=_search(arguments),
        last=cli.positive(arguments, "--last") if arguments["--last"] else _LISTED,
    )


def _search(arguments: cli.Arguments) -> RunSearch:
    from oellm.core.paths import user_name
    from oellm.status.run_search import RunSearch, parse_states

    given = [option for option in _SELECTING if arguments[option] is not None]
    if given and arguments["RUN_DIR"]:
        raise UsageError(f"{given[0]} selects runs of the list: leave out the run")
    return RunSearch(
        name=arguments["--name"] or "",
        model=arguments["--model"] or "",
        task=arguments["--task"] or "",
        user=arguments["--user"] or user_name(),
        states=parse_states(arguments["--state"]) if arguments["--state"] else frozenset(),
    )


def _status(arguments: cli.Arguments) -> int:
    from oellm.runs import run_directory
    from oellm.runs.places.named_runs import require_directory
    from oellm.status.observer import Observer

    options = _options(arguments)
    if not options.run_dirs:
        return _list(options)
    paths = [require_directory(text, options.cluster) for text in options.run_dirs]
    runs = [run_directory.open_run(path, lambda: cli.open_input(None)) for path in paths]
    if options.log is not None:
        return _print_log(runs[0], options.log, options.lines)
    tell = _once()
    observers = [Observer(run, tell) for run in runs]
    if options.watch:
        return _watch(observers[0], options.poll_s)
    # Look at all runs before printing: half a table is worse than none.
    statuses = [_look(observer) for observer in observers]
    if options.layout in ("csv", "jsonl"):
        _write_records(statuses, options)
    for status in statuses:
        if options.layout == "json":
            _write_object(status)
        elif options.layout == "table":
            print(_table(status))
    return max(_exit_status(status.totals) for status in statuses)


def _look(observer: Observer) -> RunStatus:
    from oellm.status.run_status import join_evidence

    return join_evidence(observer.look())


def _exit_status(total: Totals) -> ExitStatus:
    from oellm.status.statuses import EvalState

    if total.state in (EvalState.RUNNING, EvalState.PENDING, EvalState.NOT_SUBMITTED):
        return ExitStatus.TRY_AGAIN
    return ExitStatus.DONE if total.state is EvalState.DONE else ExitStatus.FAILED


def _table(status: RunStatus) -> str:
    from oellm.status import table as status_table

    lines = "\n".join(status_table.table_lines(status, _width()))
    return f"{status_table.name_run(status.run, str(status.run.path))}\n\n{lines}"


def _width() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _write_records(statuses: list[RunStatus], options: Options) -> None:
    from oellm.core import schema, tables
    from oellm.status import records as status_records
    from oellm.status.row_titles import make_titles

    def describe(status: RunStatus) -> Iterable[ShardRecord | RowRecord]:
        if not options.shards:
            yield from (status_records.describe_row(status.run, row) for row in status.states)
            return
        titles = make_titles(status.rows)
        for shard in status.shards:
            yield status_records.describe_shard(status.run, shard, titles)

    records = (record for status in statuses for record in describe(status))
    columns = list(schema.table("shard_status" if options.shards else "status"))
    rows = tables.select_values((record.to_json() for record in records), columns)
    tables.write_rows(rows, columns, options.layout, stream=sys.stdout)


def _write_object(status: RunStatus) -> None:
    from oellm.core import json_codec
    from oellm.status import records as status_records
    from oellm.status.row_titles import make_titles

    titles = make_titles(status.rows)
    shards = [status_records.describe_shard(status.run, shard, titles) for shard in status.shards]
    record = status_records.describe_run(status)
    content = {**record.to_json(), "shards": [shard.to_json() for shard in shards]}
    print(json_codec.dumps(content).decode())


def _watch(observer: Observer, poll_s: float) -> int:
    from oellm.status import table as status_table

    before = ""
    while True:
        status = _look(observer)
        total = status.totals
        if sys.stdout.isatty():
            bar = status_table.progress_bar(total, _width())
            # The escape sequences clear the screen and move to its upper left corner.
            print(f"\x1b[H\x1b[2J{_table(status)}\n\n{bar}", flush=True)
        else:
            line = status_table.summary_line(total)
            if line != before:
                print(line, flush=True)
            before = line
        if not total.is_awaited:
            return _exit_status(total)
        time.sleep(poll_s)


def _print_log(run: Run, name: str, lines: int) -> int:
    from oellm.core import display
    from oellm.runs.shard_jobs import read_log_end
    from oellm.status import job_logs

    path = job_logs.find_log(run, name)
    # Lines of a log are rarely longer than 1000 bytes.
    text = read_log_end(path, 1000 * lines)
    cli.message(str(path))
    out = display.guard_terminal(sys.stdout)
    for line in text.splitlines()[-lines:]:
        out.write(f"{line}\n")
    return ExitStatus.DONE


def _list(options: Options) -> int:
    from itertools import islice

    from oellm.core import schema, tables
    from oellm.runs.places.named_runs import output_directory
    from oellm.status import records as status_records
    from oellm.status import table as status_table
    from oellm.status.observer import Observer

    output_dir = output_directory(options.cluster)
    tell = _once()
    runs = iter(options.search.list_runs(output_dir, cli.message))
    found = options.search.find(runs, lambda run: _look(Observer(run, tell)), cli.message)
    statuses = list(islice((status for status in found if status is not None), options.last))
    if older := len(list(runs)):
        cli.message(f"{older} older runs were not looked at; --last=N lists N runs")
    if not statuses:
        cli.message(f"no such runs below {output_dir / options.search.user}")
    if options.layout == "table":
        if not statuses:
            return ExitStatus.DONE
        print(f"{output_dir / options.search.user}\n")
        print("\n".join(status_table.list_lines(statuses, _width())))
        return ExitStatus.DONE
    layout = "jsonl" if options.layout == "json" else options.layout
    records = (status_records.describe_run(status).to_json() for status in statuses)
    columns = list(schema.table("totals"))
    tables.write_rows(tables.select_values(records, columns), columns, layout, stream=sys.stdout)
    return ExitStatus.DONE


def _once() -> Log:
    """Return a log that prints each message only once, whichever run it is about."""
    told: set[str] = set()

    def tell(text: str) -> None:
        if text not in told:
            told.add(text)
            cli.message(text)

    return tell


if __name__ == "__main__":
    sys.exit(main())
