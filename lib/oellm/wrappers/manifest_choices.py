"""What the user has chosen for a manifest, and the command lines of oe-manifest that make it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from oellm.wrappers.task_names import split_task, usual_suite

_MANIFEST = "oe-manifest"
# Lines for a shell: the longest one that is not broken, and how a longer one is.
_WIDEST_LINE, _NEXT_LINE = 79, " \\\n    "


class TaskChoice(NamedTuple):
    """Some tasks, and the numbers of examples for each of them.

    Attributes:
        tasks: Names of tasks; those of other frameworks than the usual one are FRAMEWORK:TASK.
        n_shot: Numbers separated by commas; empty for each task's own.
    """

    tasks: tuple[str, ...]
    n_shot: str = ""


class ManifestChoices(NamedTuple):
    """What the rows of a manifest are made of.

    Attributes:
        models: Models, as --models has them.
        suites: Suites, as --task_groups has them.
        tasks: Single tasks.
        options: Further options, by their names without hyphens.
    """

    models: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    tasks: tuple[TaskChoice, ...] = ()
    options: Mapping[str, str] = MappingProxyType({})

    def obstacle(self) -> str:
        """Return what is missing; empty if rows can be made."""
        if not self.models:
            return "no model is chosen"
        return "" if self.suites or self.tasks else "no suite and no task is chosen"

    def commands(self) -> list[list[str]]:
        """Return the commands whose rows, joined in this order, are the manifest.

        Tasks of other frameworks, and with other shots, need commands of their own.
        """
        suites = [f"--task_groups={','.join(self.suites)}"] if self.suites else []
        parts = list(self._task_options()) or [[]]
        models, options = f"--models={','.join(self.models)}", list(self._further_options())
        return [
            [_MANIFEST, models, *(suites if position == 0 else []), *part, *options]
            for position, part in enumerate(parts)
        ]

    def _task_options(self) -> Iterator[list[str]]:
        names: dict[tuple[str, str], list[str]] = {}
        for choice in self.tasks:
            for text in choice.tasks:
                suite, name = split_task(text)
                names.setdefault((suite, choice.n_shot), []).append(name)
        for (suite, n_shot), tasks in names.items():
            yield [
                f"--tasks={','.join(dict.fromkeys(tasks))}",
                *([f"--n_shot={n_shot}"] if n_shot else []),
                *([f"--eval_suite={suite}"] if suite != usual_suite() else []),
            ]

    def _further_options(self) -> Iterator[str]:
        return (f"--{name}={value}" for name, value in self.options.items())


def join_command(paths: Sequence[str]) -> list[str]:
    """Return the command that prints the rows of several manifests."""
    return [_MANIFEST, *(f"--rows={path}" for path in paths)]


def shell_text(choices: ManifestChoices, path: str, *, is_addition: bool) -> str:
    """Return the choices as lines for a shell, which write a manifest, or add its rows to one."""
    commands = choices.commands()
    file = shlex.quote(path)
    if len(commands) == 1 and not is_addition:
        return _broken_line(commands[0], f"> {file}")
    parts = [f"{path}.{number}" for number in range(1, len(commands) + 1)]
    lines = [
        _broken_line(command, f"> {shlex.quote(part)} &&")
        for command, part in zip(commands, parts, strict=True)
    ]
    if not is_addition:
        lines += [f"{shlex.join(join_command(parts))} > {file} &&"]
        return "\n".join([*lines, shlex.join(["rm", *parts])])
    new = shlex.quote(f"{path}.new")
    lines += [f"{shlex.join(join_command([path, *parts]))} > {new} &&", f"mv {new} {file} &&"]
    return "\n".join([*lines, shlex.join(["rm", *parts])])


def _broken_line(command: Sequence[str], end: str) -> str:
    """Return a command and what follows it, with each option on a line of its own if it is long."""
    line = f"{shlex.join(command)} {end}"
    parts = map(shlex.quote, command)
    return line if len(line) <= _WIDEST_LINE else f"{_NEXT_LINE.join(parts)} {end}"
