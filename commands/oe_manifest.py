"""oe-manifest: print the rows of models × tasks × shots as CSV.

Usage:
  oe-manifest [options] --models=MODELS... [--tasks=TASKS]... [--n_shot=N]...
              [--task_groups=GROUPS]... [--suites=FILE]...
              [--checkpoints=WHICH]...
  oe-manifest --rows=FILE... [options]
  oe-manifest --list [--task_groups=GROUPS]... [--suites=FILE]... [WORD...]

Options:
  --models=MODELS              Models, separated by commas: hub ids, local
                               directories, `-` for a list of them on stdin,
                               @FILE for a list in a file.
  --checkpoints=WHICH          Only these checkpoints of each training run,
                               separated by commas: every=N, last, training
                               steps. By default all.
  --step_pattern=REGEX         How names tell the training step, if they have
                               none of the usual forms: the first group, or all
                               that fits, such as 'anneal_([0-9]+k)'.
  --skip_broken                Do not fail because of broken models; they are
                               left out.
  --tasks=TASKS                Tasks, groups or tags of the framework, or task
                               YAML files, separated by commas.
  --n_shot=N                   Numbers of few-shot examples for --tasks,
                               separated by commas. Without it, each task uses
                               its own default.
  --task_groups=GROUPS         Suites, separated by commas, with their own
                               shots. `SUITE[deu_Latn|fr|greek]` takes only
                               these languages; `all` is every suite.
  --suites=FILE                File of further suites, in the format of
                               task-groups.json.
  --rows=FILE                  Print the rows of this manifest (- for stdin)
                               instead. The options --backend to --log_samples
                               fill these columns of all its rows. Each
                               further one adds the rows that are new.
  --list                       Print the rows of all suites (or of those that
                               you name with --task_groups), as CSV without
                               models; on a terminal, as tables. Each WORD is
                               a language, or a part of the name of a suite,
                               task, framework or metric: only the rows that
                               have all of them.
  --eval_suite=NAME            Framework of --tasks. [default: lm_eval]
  --backend=NAME               Model class of the framework, for example hf or
                               vllm.
  --dtype=TYPE                 Floating-point type of the weights.
  --tp=N                       GPUs over which one copy of the model is split.
  --trust_remote_code=BOOL     Run code that comes with the model. Off by
                               default.
  --model_args=ARGUMENTS       Arguments of all models: key=value,key=value or
                               a JSON object.
  --limit=N                    Evaluate only the first N documents of each task
                               (or a fraction).
  --batch_size=N               Requests per forward pass: a number, auto or
                               auto:N.
  --apply_chat_template=NAME   true, false, or the name of a chat template.
  --fewshot_as_multiturn=BOOL  Present few-shot examples as turns of a
                               conversation.
  --system_instruction=TEXT    System prompt.
  --gen_kwargs=ARGUMENTS       Generation arguments: key=value,key=value or a
                               JSON object.
  --seed=SEED                  One seed, or four: Python, NumPy, torch,
                               few-shot sampling.
  --include_path=SOURCES       Where further task YAML files are: directories,
                               git+URL@REVISION#subdirectory=DIR or
                               hf://datasets/ORG/NAME@REVISION/DIR, separated
                               by `:`.
  --confirm_run_unsafe_code=BOOL
                               Allow tasks that run code written by the model.
  --log_samples=BOOL           Keep each document's prompt and answer.
  --skip_unsupported           Leave out rows of frameworks that oellm does not
                               run, with status 1. Without it, they are an
                               error.
  --unchecked_tasks            Do not check whether the lm-eval installed here
                               has the tasks.
  --help                       Print this text.
  --version                    Print the version.

You may repeat options that take lists. A piece of --models of the form
key=value belongs to the model before it:

  --models 'EleutherAI/pythia-160m,revision=step1000,dtype=float16,acme/tiny'

names two models. A list of models has one model, with its key=value, per line.
Blank lines and lines that start with # are ignored. key=value after the list's
name belongs to all its models:

  ls -d runs/*/hf/iter_*0 | oe-manifest --models -,dtype=bfloat16 --tasks mmlu

An existing directory is a model, also if its name has commas or looks like
key=value; such a path is quoted in the manifest. A value that is a list or an
object is JSON: max_memory={"0":"10GiB","1":"10GiB"}.

A model has one name, however its path is spelled: absolute, without // and ..,
and without symbolic links, so that a link `latest` is the checkpoint to which
it leads today. A directory of the hub's cache (models--org--name, or one of
its snapshots) is org/name, with its commit in the column model_revision.

A directory without weights stands for the checkpoints below it (up to three
levels deep; symbolic links are followed once), in natural order: iter_2000
before iter_10000. Checkpoints beside each other are one training run:
runs/a/hf/iter_*, runs/b/iter_*/hf. From each run, every=10 takes the 10th, the
20th and so on. It also counts broken ones, so that the choice stays the same
while training continues. last takes the last one that is not broken, and
1000,2000 takes those of these training steps. It is an error if no run is long
enough for every=N, unless last is given too.

Training steps are read from the names that trainers write: iter_0001000,
step1000, global_step1000, checkpoint-1000, epoch=3-step=1000, ep0-ba1000,
checkpoints/1000, and numbers beside each other (runs/a/1000, runs/a/2000). A
name that is not clear has no step: `120k` may be tokens. If --step_pattern is
given, it alone counts; the steps that it finds are in the column step.

A local model that cannot be loaded is left out, and stderr names it with the
reason: config.json, weights or the tokenizer's vocabulary are missing, a shard
that its index names is missing, or a file is empty or truncated. Weights are
judged by their headers; the tensors are not read.

Task names are looked up in an index of lm-eval's tasks, groups and tags, and
of those in include_path. Making it takes about ten seconds, once per version
of lm-eval; it is kept in OELLM_CACHE_DIR (~/.cache/oellm). The names and
settings of other frameworks are those of the versions for which oellm has
adapters.

Output: CSV (schema.json, table `manifest`), by model, then task, then shots.
  Local paths are absolute. A setting has a column if its option is given.
  Streams.

Exit status: 0 done; 1 broken models were left out (0 with --skip_broken), or
  rows were (--skip_unsupported); 2 bad usage, a name that does not exist, or
  no model or row left.

Example:
  oe-manifest --models acme/tiny --tasks hellaswag,mmlu --n_shot 0,5
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, InputError, OellmError, UsageError, raise_errors

if TYPE_CHECKING:
    from oellm.manifest.rows import Row
    from oellm.models.expansion import Expansion


class Options(NamedTuple):
    """The command line."""

    models: list[str]
    checkpoints: list[str]
    step_pattern: str
    skip_broken: bool
    tasks: list[str]
    shots: list[str]
    task_groups: list[str]
    suites: list[str]
    eval_suite: str
    settings: dict[str, str]
    unchecked_tasks: bool
    skip_unsupported: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-manifest", doc=__doc__, command=_manifest, argv=argv)


def _options(arguments: cli.Arguments) -> Options:
    options = Options(
        models=arguments["--models"],
        checkpoints=arguments["--checkpoints"],
        step_pattern=arguments["--step_pattern"] or "",
        skip_broken=arguments["--skip_broken"],
        tasks=_pieces(arguments["--tasks"]),
        shots=_pieces(arguments["--n_shot"]),
        task_groups=_selections(arguments["--task_groups"]),
        suites=_suite_paths(arguments["--suites"]),
        eval_suite=arguments["--eval_suite"],
        settings=_settings(arguments),
        unchecked_tasks=arguments["--unchecked_tasks"],
        skip_unsupported=arguments["--skip_unsupported"],
    )
    if not options.tasks and not options.task_groups:
        raise UsageError("nothing to evaluate: give --tasks or --task_groups")
    if options.shots and not options.tasks:
        raise UsageError("--n_shot applies to --tasks; task groups have their own shots")
    if options.suites and not options.task_groups:
        raise UsageError("--suites needs --task_groups")
    return options


def _settings(arguments: cli.Arguments) -> dict[str, str]:
    """Return the columns that options fill."""
    from oellm.core import schema

    flags = [name for name, spec in schema.table("manifest").items() if spec.get("flag")]
    for name in flags:
        # Probably an unset variable in a script; ignoring the option would evaluate something else.
        if arguments[f"--{name}"] == "":
            raise UsageError(f"--{name}: expected a value, got nothing")
    return {name: arguments[f"--{name}"] for name in flags if arguments[f"--{name}"]}


def _print_filled(paths: Sequence[str], settings: Mapping[str, str]) -> None:
    """Print the rows of manifests with these cells."""
    from oellm.manifest import csv_file, filled_rows

    if paths.count("-") > 1:
        raise UsageError("--rows: stdin can be read only once")
    joined = filled_rows.JoinedRows(settings, cli.message)
    for path in paths:
        with cli.open_input(path) as stream:
            joined.add(csv_file.ManifestReader(stream, cli.input_name(path), cli.message))
    writer = csv_file.ManifestWriter(sys.stdout)
    writer.header([*joined.header, *settings])
    for row in joined.rows:
        writer.write(row)


def _pieces(values: list[str]) -> list[str]:
    return [piece.strip() for value in values for piece in value.split(",") if piece.strip()]


def _selections(values: list[str]) -> list[str]:
    from oellm.tasks import suites

    return [piece for value in values for piece in suites.split_selections(value)]


def _suite_paths(paths: list[str]) -> list[str]:
    """Return paths of suites; an empty one is an unset variable in a script."""
    if "" in paths:
        raise UsageError("--suites: expected a file, got nothing")
    return paths


def _manifest(arguments: cli.Arguments) -> int:
    from oellm.manifest import csv_file, locations, rows

    if arguments["--list"]:
        _list(arguments["--suites"], _selections(arguments["--task_groups"]), arguments["WORD"])
        return ExitStatus.DONE
    if arguments["--rows"]:
        for name in ("--step_pattern", "--skip_broken", "--skip_unsupported", "--unchecked_tasks"):
            if arguments[name]:
                raise UsageError(f"{name} does not go with --rows")
        _print_filled(arguments["--rows"], _settings(arguments))
        return ExitStatus.DONE
    options = _options(arguments)
    # Everything is checked before the first row is printed: the reader of a pipe cannot tell half
    # a manifest from a whole one.
    expansion = _models(options)
    models = [model.cells for model in expansion.models]
    for text in (*expansion.remarks, *expansion.broken):
        cli.message(text)
    if not models:
        raise InputError("no model is left: all are broken")
    asked = _rows(options, models[0]["model_path"])
    of_model = _supported(options, asked)
    raise_errors(_find_errors(options, of_model))
    for cells in models[1:]:
        rows.check_row(of_model[0].with_cells(**cells))
    of_model = [locations.locate_row(row) for row in of_model]
    csv_file.write_models(sys.stdout, models, of_model)
    is_whole = len(of_model) == len(asked) and (options.skip_broken or not expansion.broken)
    return ExitStatus.DONE if is_whole else ExitStatus.FAILED


def _rows(options: Options, model: str) -> list[Row]:
    """Return the rows of one model, unchecked."""
    from oellm.manifest import rows
    from oellm.tasks import suites

    tasks: list[Mapping[str, str]] = [
        {"task_path": task, "n_shot": shots, "eval_suite": options.eval_suite}
        for task in options.tasks
        for shots in options.shots or [""]
    ]
    if options.task_groups:
        known = suites.load_suites(options.suites, os.environ)
        for selection in options.task_groups:
            tasks += suites.select_rows(selection, known)
    return [
        rows.Row({"model_path": model, **cells, **options.settings}, _place(cells))
        for cells in tasks
    ]


def _supported(options: Options, of_model: list[Row]) -> list[Row]:
    """Return the rows that oellm can run; tell of the others, or raise UsageError for them."""
    from oellm import frameworks

    supported, told = frameworks.split_supported(of_model)
    if told and not (options.skip_unsupported and supported):
        hint = "; --skip_unsupported leaves these tasks out" if supported else ""
        raise_errors([UsageError(f"{text}{hint}") for text in told])
    for text in told:
        cli.message(f"left out: {text}")
    return supported


def _place(cells: Mapping[str, str]) -> str:
    """Return where a task was asked for, for messages; empty for the option --tasks."""
    return f"suite {cells['task_group']}" if cells.get("task_group") else ""


def _find_errors(options: Options, of_model: list[Row]) -> list[OellmError]:
    """Return what is wrong with the rows of a model, each thing once."""
    from oellm.manifest import locations, rows

    errors = [error for row in of_model if (error := _find_error(row, options))]
    found: dict[str, OellmError] = {str(error): error for error in errors}
    if not options.unchecked_tasks:
        # A row with another mistake has a task, too.
        names = ("task_path", "eval_suite", "include_path")
        given = (rows.Row({n: row[n] for n in names}, row.source) for row in of_model)
        tasks = map(locations.locate_row, given)
        for unknown in _unknown_tasks(tasks, found):
            option = "--tasks" if unknown.column == "task_path" else f"--{unknown.column}"
            found[str(unknown)] = UsageError(f"{unknown.source or option}: {unknown.message}")
    return list(found.values())


def _find_error(row: Row, options: Options) -> InputError | None:
    """Return the first error of a row, apart from its task."""
    from oellm import frameworks
    from oellm.manifest import rows

    try:
        frameworks.require_known_values(rows.check_row(row))
    except InputError as error:
        if error.column in options.settings:
            # An option is to blame, whatever suite the task is of.
            return InputError(error.message, column=error.column)
        return error
    return None


def _unknown_tasks(tasks: Iterable[Row], found: Mapping[str, OellmError]) -> list[InputError]:
    """Return the errors of tasks that do not exist; none if a cell about tasks is wrong."""
    from oellm import frameworks

    try:
        return frameworks.find_unknown_tasks(list(tasks), cli.message)
    except InputError:
        if not found:
            raise
        return []


def _list(paths: list[str], selections: list[str], words: list[str]) -> None:
    """Print the rows of suites; on a terminal a table for each suite, or one of all suites."""
    import shutil

    from oellm.tasks import suite_listing, suites

    known = suites.load_suites(_suite_paths(paths), os.environ)
    listing = suite_listing.Listing(known, selections, words)
    if sys.stdout.isatty():
        width = shutil.get_terminal_size((100, 24)).columns
        suite_listing.write_tables(listing, width=width, stream=sys.stdout)
    else:
        suite_listing.write_csv(listing, sys.stdout)


def _models(options: Options) -> Expansion:
    """Return the models that can be evaluated, and which of those asked for cannot."""
    from oellm.manifest.rows import Row
    from oellm.models import expansion

    listed = [
        model
        for value in options.models
        for model in expansion.list_models(value, cli.open_input, cli.input_name)
    ]
    if not listed:
        raise UsageError("--models: expected at least one model")
    further = Row(options.settings).value("model_args") or {}
    texts = {name: str(value) for name, value in further.items()}
    return expansion.expand_models(
        listed, options.checkpoints, texts, step_pattern=options.step_pattern
    )


if __name__ == "__main__":
    sys.exit(main())
