"""oellm: run the whole pipeline in one command.

Usage:
  oellm schedule-eval [options] [--models=MODELS]... [--tasks=TASKS]...
                      [--n_shot=N]... [--task_groups=GROUPS]...
                      [--suites=FILE]... [--checkpoints=WHICH]...
                      [--set=KEY=VALUE]...
  oellm collect-results [--] RUN_DIR...

Options:
  --models=MODELS       Models, as for oe-manifest.
  --checkpoints=WHICH   Only these checkpoints of each training run, as for
                        oe-manifest.
  --skip_broken         Leave out broken models and continue.
  --tasks=TASKS         Tasks, as for oe-manifest.
  --n_shot=N            Numbers of few-shot examples, as for oe-manifest.
  --task_groups=GROUPS  Suites of tasks, as for oe-manifest.
  --suites=FILE         File of further suites, as for oe-manifest.
  --limit=N             Evaluate only the first N documents of each task.
  --include_path=DIR    Directory with further task YAML files.
  --eval_csv_path=FILE  Take the rows from this CSV file instead.
  --cluster=NAME        Cluster, as for oe-detect.
  --set=KEY=VALUE       Override a setting of the cluster.
  --executor=NAME       slurm or local; by default the cluster's.
  --download_only       Fetch models and data sets, and stop there.
  --again               Also evaluate rows that have results, or are queued or
                        running, in earlier runs.
  --skip_fetch          Do not fetch: everything is already in the cache.
  --dry_run             Print the plan and the batch script; fetch and submit
                        nothing.
  --help                Print this text.
  --version             Print the version.

schedule-eval runs oe-manifest | oe-fetch | oe-missing | oe-render | oe-submit;
collect-results runs oe-collect. oe-missing leaves out the rows that have a
result, or are queued or running, in any run below the setting eval_output_dir,
unless the result is out of date. oellm names the commands on stderr as it runs
them. Each command gets the output of the one before it on stdin, but only
after that one has succeeded: half a manifest is never submitted.

Output: the output of the last command. Exit status: that of the first command
that failed.

Example:
  oellm schedule-eval --models acme/tiny --tasks "hellaswag,mmlu" --n_shot 5
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from oellm import cli
from oellm.errors import UsageError

_MANIFEST_LISTS = ("--models", "--checkpoints", "--tasks", "--n_shot", "--task_groups", "--suites")
_MISSING = "oe-missing"
_MANIFEST_VALUES = ("--limit", "--include_path")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oellm", doc=__doc__, command=_oellm, argv=argv)


def _oellm(arguments: cli.Arguments) -> int:
    if arguments["collect-results"]:
        return _pipeline([["oe-collect", "--", *arguments["RUN_DIR"]]])
    if arguments["--download_only"] and (arguments["--dry_run"] or arguments["--skip_fetch"]):
        raise UsageError("--download_only only fetches; leave out the other option")
    return _pipeline(list(_stages(arguments)), arguments["--eval_csv_path"])


def _stages(arguments: cli.Arguments) -> Iterator[list[str]]:
    """Yield the command lines of schedule-eval in order."""
    rows = [
        *(f"{name}={value}" for name in _MANIFEST_LISTS for value in arguments[name]),
        *(f"{name}={arguments[name]}" for name in _MANIFEST_VALUES if arguments[name]),
        *(["--skip_broken"] if arguments["--skip_broken"] else []),
    ]
    if arguments["--eval_csv_path"] and rows:
        raise UsageError(
            f"--eval_csv_path gives all the rows; leave out {rows[0].partition('=')[0]}"
        )
    if not arguments["--eval_csv_path"]:
        if not arguments["--models"]:
            raise UsageError("nothing to evaluate: give --models, or --eval_csv_path")
        yield ["oe-manifest", *rows]
    cluster = [f"--set={value}" for value in arguments["--set"]]
    if arguments["--cluster"]:
        cluster.append(f"--cluster={arguments['--cluster']}")
    if not arguments["--dry_run"] and not arguments["--skip_fetch"]:
        yield ["oe-fetch", *cluster]
    if arguments["--download_only"]:
        return
    if not arguments["--again"] and (runs := _output_dir(arguments)):
        yield [_MISSING, f"--in={runs}", *cluster]
    if arguments["--dry_run"]:
        yield ["oe-render", "--dry_run", *cluster]
        return
    yield ["oe-render", *cluster]
    executor = arguments["--executor"]
    yield ["oe-submit", *([f"--executor={executor}"] if executor else [])]


def _output_dir(arguments: cli.Arguments) -> str:
    """Return the directory of earlier runs; empty if the cluster has none."""
    from oellm.clusters.cluster import resolve_cluster

    cluster = resolve_cluster(arguments["--cluster"], arguments["--set"], os.environ)
    return cluster.text("eval_output_dir")


def _pipeline(stages: list[list[str]], first_input: str | None = None) -> int:
    """Run the stages; the first reads this file."""
    from oellm.wrappers.pipeline import run_pipeline

    given = None
    if first_input:
        with open(first_input, "rb") as stream:
            given = stream.read()
    return run_pipeline(stages, log=cli.message, given=given, on_output=_tell_skipped)


def _tell_skipped(stage: Sequence[str], given: bytes, output: bytes) -> None:
    if stage[0] == _MISSING and (skipped := _count_rows(given) - _count_rows(output)):
        cli.message(
            f"{skipped} of {_count_rows(given)} rows have results already, or are under way, "
            f"in {stage[1].removeprefix('--in=')}; --again evaluates them anew"
        )


def _count_rows(manifest: bytes) -> int:
    """Return the number of rows of a manifest that a command has accepted."""
    import csv

    lines = manifest.decode("utf-8-sig", "replace").splitlines(keepends=True)
    return max(0, sum(1 for cells in csv.reader(lines) if cells) - 1)


if __name__ == "__main__":
    sys.exit(main())
