"""oe-manifest: print the rows of models × tasks × shots as CSV.

Usage:
  oe-manifest [options] --models=MODELS... [--tasks=TASKS]... [--n_shot=N]...
              [--task_groups=GROUPS]...

Options:
  --models=MODELS              Models, separated by commas: hub ids, local directories.
  --tasks=TASKS                Tasks, groups or tags of the framework, or task YAML files,
                               separated by commas.
  --n_shot=N                   Numbers of few-shot examples for --tasks, separated by commas;
                               left out, each task uses its own default.
  --task_groups=GROUPS         Suites of task-groups.json, separated by commas, with their own
                               shots; `SUITE[deu_Latn|fra_Latn]` takes only these languages.
  --eval_suite=NAME            Framework of --tasks. [default: lm_eval]
  --backend=NAME               Model class of the framework, for example hf or vllm.
  --dtype=TYPE                 Floating-point type of the weights.
  --limit=N                    Evaluate only the first N documents of each task (or a fraction).
  --batch_size=N               Requests per forward pass: a number, auto or auto:N.
  --apply_chat_template=NAME   true, false, or the name of a chat template.
  --fewshot_as_multiturn=BOOL  Few-shot examples as turns of a conversation.
  --system_instruction=TEXT    System prompt.
  --gen_kwargs=ARGUMENTS       Generation arguments, key=value,key=value.
  --seed=SEED                  One seed, or four: Python, NumPy, torch, few-shot sampling.
  --include_path=DIR           Directory with further task YAML files.
  --log_samples=BOOL           Keep each document's prompt and answer.
  --help                       Print this text.
  --version                    Print the version.

Options that take lists may also be repeated. A piece of --models of the form
key=value belongs to the model before it:

  --models 'EleutherAI/pythia-160m,revision=step1000,dtype=float16,acme/tiny'

names two models. A directory without a config.json stands for the checkpoints
below it (up to three levels), in natural order: iter_2000 before iter_10000.

Output: CSV (schema.json, table `manifest`), by model, then task, then shots.
  Local paths are absolute. Columns of settings appear where their option is given.
  Streams.

Exit status: 0 done, 2 bad usage or a name that does not exist.

Example:
  oe-manifest --models EleutherAI/pythia-160m --tasks hellaswag,mmlu --n_shot 0,5
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from oellm import manifest
    from oellm.models import ModelSpec


class Options(NamedTuple):
    """The command line."""

    models: list[str]
    tasks: list[str]
    shots: list[str]
    task_groups: list[str]
    eval_suite: str
    settings: dict[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-manifest", __doc__, _manifest, argv)


def _options(arguments: cli.Arguments) -> Options:
    from oellm import schema

    flags = [name for name, spec in schema.table("manifest").items() if spec.get("flag")]
    for name in flags:
        # An unset variable in a script: to leave the option out would evaluate something else.
        if arguments[f"--{name}"] == "":
            raise UsageError(f"--{name}: expected a value, got nothing")
    return Options(
        models=arguments["--models"],
        tasks=_pieces(arguments["--tasks"]),
        shots=_pieces(arguments["--n_shot"]),
        task_groups=_pieces(arguments["--task_groups"]),
        eval_suite=arguments["--eval_suite"],
        settings={name: arguments[f"--{name}"] for name in flags if arguments[f"--{name}"]},
    )


def _pieces(values: list[str]) -> list[str]:
    return [piece.strip() for value in values for piece in value.split(",") if piece.strip()]


def _manifest(arguments: cli.Arguments) -> int:
    from oellm import manifest

    options = _options(arguments)
    if not options.tasks and not options.task_groups:
        raise UsageError("nothing to evaluate: give --tasks or --task_groups")
    if options.shots and not options.tasks:
        raise UsageError("--n_shot applies to --tasks; task groups have their own shots")
    # Everything that can be wrong is found before the first row is printed: a reader at the other
    # end of a pipe cannot tell half a manifest from a whole one.
    models = list(_models(options.models))
    if not models:
        raise UsageError("--models: expected at least one model")
    rows = _rows(options, str(models[0]))
    columns = dict.fromkeys(column for row in rows for column in row.cells)
    writer = manifest.Writer(sys.stdout)
    writer.header(columns)
    for model in models:
        for row in rows:
            writer.write(row.with_cells(model_path=str(model)))
    return ExitStatus.DONE


def _rows(options: Options, model: str) -> list[manifest.Row]:
    """Return the checked rows of one model."""
    from oellm import manifest, task_groups

    tasks = [
        {"task_path": task, "n_shot": shots, "eval_suite": options.eval_suite}
        for task in options.tasks
        for shots in options.shots or [""]
    ]
    for selection in options.task_groups:
        tasks += task_groups.select(selection)
    rows = (manifest.Row({"model_path": model, **cells, **options.settings}) for cells in tasks)
    return [manifest.located(manifest.checked(row)) for row in rows]


def _models(values: list[str]) -> Iterator[ModelSpec]:
    from oellm import models

    for value in values:
        try:
            specs = models.split_models(value)
        except ValueError as error:
            raise UsageError(f"--models: {error}") from None
        for spec in specs:
            yield from models.expand(spec)


if __name__ == "__main__":
    sys.exit(main())
