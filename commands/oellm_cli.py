"""oellm: evaluate models with one command; it runs the oe-* commands for you.

Usage:
  oellm schedule-eval [options] [--] [FILE]
  oellm schedule [options] [--] [FILE]
  oellm build-csv [FILE]

Options:
  --eval_csv_path=FILE  Take the rows from this CSV file: the same as FILE.
  --local               Evaluate on this machine, without Slurm: the same as
                        --executor=local.
  --download_only       Fetch models and data sets, and stop there.
  --again               Also evaluate rows that have results, or are queued or
                        running, in earlier runs.
  --skip_fetch          Do not fetch: everything is already in the cache.
  --dry_run             Print the plan and the batch script; fetch and submit
                        nothing.
  --explain             Print the plan and the estimate of each row; fetch and
                        submit nothing.
  --print               Print the commands as a line for a shell; run nothing.
  --help                Print this text.
  --version             Print the version.

schedule-eval, or schedule, runs

  oe-manifest | oe-fetch | oe-missing | oe-render | oe-submit

It takes all options of these commands, too, such as --models, --tasks, --limit
and --gen_kwargs of oe-manifest, --cluster, --set, --name and --sbatch of
oe-render, --wait of oe-submit. `oellm help manifest` lists those of
oe-manifest. An option goes to each of the commands that have it.

FILE has the rows, in CSV; then options such as --limit fill their columns, and
there is no --models. If its name ends in .toml, it has options of these five
commands instead, by their names without hyphens (and so `executor = "local"`
for --local); options on the command line override them:

  models = ["acme/tiny", "runs/a/hf"]
  tasks = ["hellaswag", "mmlu"]
  n_shot = [0, 5]
  limit = 100
  gen_kwargs = {max_gen_toks = 300}
  name = "tiny"

  [cluster]
  partition = "debug"

The keys are names of options, so the key for suites is task_groups. The table
cluster has settings of the cluster; its key `name` is --cluster. The run
directory keeps the options as eval.toml: `oellm schedule RUN_DIR/eval.toml`
evaluates the same again, or what is missing of it. Paths in it are relative to
the directory where oellm runs.

oe-missing leaves out the rows that have a result, or are queued or running, in
any run below the setting eval_output_dir, unless the result is out of date.
oellm names the commands on stderr as it runs them. Each command gets the
output of the one before it on stdin, but only after that one has succeeded:
half a manifest is never submitted.

build-csv asks on a terminal for models, suites, tasks, shots and settings,
shows the rows that oe-manifest makes of them, lets you change everything, and
saves them as FILE. It can add rows to a FILE that exists. It also shows the
command line that makes the same rows without questions. If stdout is no
terminal, or FILE is `-`, the rows are printed, too.

Other words run other commands, and take their options:

  oellm collect-results, collect  oe-collect: the scores
  oellm status, report, missing   oe-status, oe-report, oe-missing
  oellm cancel RUN_DIR            oe-submit --cancel: ends its jobs
  oellm setup, run                global-benchmark setup, run
  oellm help [COMMAND]            the manual of a command
  oellm docs [TOPIC]              oe-docs: the guide
  oellm NAME                      oe-NAME, beside oellm or on PATH

TAB completes commands, options and values if one of these lines is in the
settings of the shell. Give the path of oellm if it is not on PATH there.

  eval "$(oellm completion bash)"     in ~/.bashrc
  eval "$(oellm completion zsh)"      in ~/.zshrc
  oellm completion fish | source      in ~/.config/fish/config.fish

Output: the output of the last command.

Exit status: that of the first command that failed.

Examples:
  oellm schedule-eval --models acme/tiny --tasks "hellaswag,mmlu" --n_shot 5
  oellm schedule evals.csv --limit 5 --local
  oellm schedule eval.toml --print
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oellm import cli
from oellm.errors import ExitStatus, UsageError
from oellm.manuals.usage import CommandLineError

if TYPE_CHECKING:
    from oellm.wrappers.schedule import Order

_SHORT = """\
oellm evaluates language models on benchmarks, on Slurm clusters and here.

  oellm config                what is this machine? (once)
  oellm doctor                does it have what a run needs?
  oellm schedule-eval --models acme/tiny --tasks hellaswag --n_shot 5
  oellm build-csv             what is to be evaluated? (menus)
  oellm status                your runs, and how far they are
  oellm collect RUN_DIR       the scores
  oellm help [COMMAND]        the manual
  oellm docs [TOPIC]          the guide
"""
_OWN = ("schedule-eval", "schedule", "build-csv")
# What the scripts of completion run; nobody types it.
_COMPLETE = "__complete"
# Seconds that a user waits for an answer after TAB, if a file system hangs.
_COMPLETION_S = 2.0
# Words that stand for a command, apart from NAME for oe-NAME.
_SHORTCUTS = {
    "collect-results": ["oe-collect"],
    "cancel": ["oe-submit", "--cancel"],
    "setup": ["global-benchmark", "setup"],
    "run": ["global-benchmark", "run"],
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run(
        "oellm", doc=__doc__, command=_oellm, argv=argv, dispatch=_dispatch, further=_further
    )


def _dispatch(words: Sequence[str]) -> ExitStatus | None:
    """Do what the first word says; None if it is schedule-eval, or an option."""
    if not words:
        print(_SHORT + _other_commands())
        return ExitStatus.DONE
    first, *others = words
    if first == "help":
        return _help(others)
    if first == "completion":
        return _print_script(others)
    if first == _COMPLETE and others:
        return _complete(others)
    if not first.startswith("-") and first not in _OWN:
        from oellm.wrappers.pipeline import become_command

        become_command([*_command(first), *others])
    return None


def _help(words: Sequence[str]) -> ExitStatus:
    if len(words) > 1:
        raise CommandLineError(f"unexpected argument {words[1]!r}", "oellm help")
    if words and words[0] not in (*_OWN, "completion", "help", "--help", "-h"):
        if words[0].startswith("-"):
            raise CommandLineError(f"unknown option {words[0]}", "oellm help")
        command = [words[0]] if words[0].startswith("oe-") else _command(words[0])
        from oellm.wrappers.pipeline import become_command

        become_command([command[0], "--help"])
    from oellm.manuals.usage import arrange

    print(arrange(__doc__ or ""))
    return ExitStatus.DONE


def _print_script(words: Sequence[str]) -> ExitStatus:
    """Print what makes a shell complete command lines."""
    from oellm.completion.grammar import SHELLS
    from oellm.completion.shells import read_script
    from oellm.wrappers.pipeline import find_command

    if len(words) != 1 or words[0] not in SHELLS:
        raise CommandLineError(f"expected one of {', '.join(SHELLS)}", "oellm help")
    # If oellm is not on PATH at the time of a TAB, that runs this one.
    path = shlex.quote(find_command("oellm"))
    set_ = "set -g _oellm_command " if words[0] == "fish" else "_oellm_command="
    print(f"{set_}{path}\n{read_script(words[0])}", end="")
    return ExitStatus.DONE


def _complete(words: Sequence[str]) -> ExitStatus:
    """Print what a shell may offer; the words are the shell, and what `answer` takes."""
    from oellm.completion import shells
    from oellm.completion.grammar import Subcommands
    from oellm.completion.timed_answer import answer_in_time

    known = Subcommands(_OWN, _SHORTCUTS, _list_installed)
    shell, *given = words
    answer = answer_in_time(lambda: shells.answer(shell, given, known), _COMPLETION_S)
    sys.stdout.write(answer.decode())
    return ExitStatus.DONE


def _command(word: str) -> list[str]:
    """Return the words of the command that a word stands for; raises CommandLineError for none."""
    from oellm.errors import nearest

    if word in _SHORTCUTS:
        return _SHORTCUTS[word]
    names = _list_installed()
    if word not in names:
        hint = nearest(word, [*_OWN, *_SHORTCUTS, "completion", "help", *names])
        raise CommandLineError(f"unknown command {word!r}{hint}", "oellm help")
    return [f"oe-{word}"]


def _other_commands() -> str:
    import textwrap

    names = sorted({*_OWN, *_SHORTCUTS, *_list_installed()})
    return "\n" + textwrap.fill(f"commands: {', '.join(names)}", 79, break_on_hyphens=False)


def _list_installed() -> list[str]:
    """Return NAME for each oe-NAME that is installed."""
    from oellm.wrappers.pipeline import installed_commands

    return [name.removeprefix("oe-") for name in installed_commands("oe-")]


def _further() -> Mapping[str, str]:
    from oellm.wrappers.schedule import option_forms

    return option_forms()


def _oellm(arguments: cli.Arguments) -> int:
    return _build_csv(arguments) if arguments["build-csv"] else _schedule(arguments)


def _build_csv(arguments: cli.Arguments) -> int:
    from oellm.core import menus
    from oellm.tasks.suites import load_suites
    from oellm.wrappers import manifest_dialog
    from oellm.wrappers.manifest_questions import ManifestQuestions, known_models

    if arguments["further"]:
        raise UsageError(f"build-csv asks for it: leave out {arguments['further'][0]}")
    if not menus.is_interactive():
        problem = "build-csv asks on a terminal, and stdin or stderr is none: use oe-manifest"
        raise CommandLineError(problem, "oe-manifest --help")
    file, is_terminal = arguments["FILE"], sys.stdout.isatty()
    if file is not None and file != "-" and (fault := manifest_dialog.find_path_fault(file)):
        raise UsageError(fault)
    models, suites = known_models(os.environ), load_suites((), os.environ)
    dialog = manifest_dialog.ManifestDialog(
        ManifestQuestions(models, suites, cli.message),
        path=Path(file) if file and file != "-" else None,
        is_saved=file != "-" and (file is not None or is_terminal),
        show=lambda line: cli.relay(f"{line}\n"),
        log=cli.message,
    )
    agreed = dialog.run()
    if agreed is None:
        cli.message("nothing was written")
        return ExitStatus.FAILED
    if not is_terminal or agreed.path is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(agreed.content)
        return ExitStatus.DONE
    path = shlex.quote(str(agreed.path))
    print(agreed.path)
    cli.next_steps(
        f"what it costs:      oellm schedule {path} --explain",
        f"evaluate it:        oellm schedule {path}",
        f"stage by stage:     oe-fetch {path} | oe-render | oe-submit",
    )
    return ExitStatus.DONE


def _schedule(arguments: cli.Arguments) -> int:
    from oellm.wrappers import schedule
    from oellm.wrappers.pipeline import run_pipeline, shell_line

    order, kept = _order(arguments)
    data = None
    if not arguments["--print"] and Path(order.rows).is_fifo():
        # No other process has the pipe that a shell makes of <(...).
        data, order = _read(order.rows), order._replace(rows="-")
    stages = schedule.plan_stages(order)
    source = order.rows if stages[0][0] != schedule.MANIFEST and order.rows != "-" else ""
    if arguments["--print"]:
        print(shell_line(stages, source))
        return ExitStatus.DONE
    if source:
        data = _read(source)

    def on_output(stage: Sequence[str], given: bytes, output: bytes) -> None:
        # Of rows on stdin, and of those that have not failed, oe-missing itself tells.
        if stage[0] == schedule.MISSING and given and "--failed" not in stage:
            _tell_skipped(given, output, order.earlier)
        if stage[0] == schedule.RENDER and kept:
            _keep(kept, output)

    return run_pipeline(stages, log=cli.message, given=data, on_output=on_output)


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _order(arguments: cli.Arguments) -> tuple[Order, str]:
    """Return what is to be done, and the text of eval.toml for the run directory, if any."""
    from oellm.wrappers import eval_file, schedule

    shown = [name for name in ("--dry_run", "--explain") if arguments[name]]
    if len(shown) > 1:
        raise UsageError("--explain and --dry_run print different things: use only one of them")
    if arguments["--download_only"] and (shown or arguments["--skip_fetch"]):
        raise UsageError("--download_only only fetches; leave out the other option")
    words: list[str] = arguments["further"]
    if arguments["--local"]:
        words = [*words, "--executor=local"]
    rows, kept = _file(arguments), ""
    if rows.lower().endswith(".toml"):
        text = eval_file.decode(_read(rows), rows)
        merged = eval_file.merge_options(eval_file.read_options(text, rows), words)
        kept = eval_file.dump_options(merged) if words else text
        words, rows = merged, ""
    schedule.require_sense(words, rows)
    order = schedule.Order(
        rows=rows,
        words=words,
        show=shown[0] if shown else "",
        only_fetch=arguments["--download_only"],
        fetch=not arguments["--skip_fetch"],
        again=arguments["--again"],
        earlier="" if arguments["--again"] else _output_dir(words),
    )
    return order, kept


def _file(arguments: cli.Arguments) -> str:
    """Return the path of the rows, or of the options; empty if there is none."""
    file, option = arguments["FILE"], arguments["--eval_csv_path"]
    if file and option:
        raise UsageError(f"two files: {file} and --eval_csv_path={option}; give one of them")
    if "" in (file, option):
        raise UsageError("expected the name of a file, got nothing")
    return file or option or ""


def _output_dir(words: Sequence[str]) -> str:
    """Return the directory of earlier runs; empty if the cluster has none."""
    from oellm.clusters.cluster import resolve_cluster

    options = [word.partition("=") for word in words]
    names = [value for name, _, value in options if name == "--cluster"]
    settings = [value for name, _, value in options if name == "--set"]
    cluster = resolve_cluster(names[-1] if names else None, settings, os.environ)
    return cluster.text("eval_output_dir")


def _tell_skipped(given: bytes, output: bytes, earlier: str) -> None:
    if skipped := _count_rows(given) - _count_rows(output):
        cli.message(
            f"{skipped} of {_count_rows(given)} rows have results already, or are under way; "
            f"--again evaluates them anew; their scores: oe-collect {shlex.quote(earlier)}"
        )


def _count_rows(manifest: bytes) -> int:
    """Return the number of rows of a manifest that a command has accepted."""
    import csv

    lines = manifest.decode("utf-8-sig", "replace").splitlines(keepends=True)
    return max(0, sum(1 for cells in csv.reader(lines) if cells) - 1)


def _keep(options: str, run: bytes) -> None:
    """Write eval.toml into the run directory, if there is one."""
    from oellm.core import atomic, json_codec
    from oellm.wrappers.eval_file import NAME

    if run_dir := json_codec.loads(run)["run_dir"]:
        atomic.write_file(Path(run_dir) / NAME, options.encode(errors="surrogateescape"))


if __name__ == "__main__":
    sys.exit(main())
