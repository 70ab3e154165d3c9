"""The questions whose answers are a manifest's rows; each can be asked again with its answer."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from oellm.clusters.cluster import resolve_cluster
from oellm.core import menus, schema
from oellm.core.display import format_count, shorten_end
from oellm.core.log import Log
from oellm.errors import MachineError
from oellm.manifest.cells import find_fault
from oellm.manifest.model_spec import ModelSpec, split_models
from oellm.models.known_models import list_known_models
from oellm.tasks.suite_files import KnownSuites
from oellm.tasks.suites import select_rows
from oellm.wrappers.manifest_choices import TaskChoice
from oellm.wrappers.task_names import ask_tasks, list_tasks, split_names

_OTHER_MODELS = "others: names on the hub, or paths"
_OTHER_TASKS = "add tasks with other shots"
_BACK = "go back"
# Options of oe-manifest that are no columns.
_OPTIONS = {
    "checkpoints": "Of each training run only these: every=N, last, training steps.",
    "step_pattern": "How names tell the training step: a regular expression.",
}
# What a terminal of 80 columns has room for behind the question.
_LINE = 60


class ManifestQuestions:
    """The questions about what there is on this machine; `log` gets messages."""

    def __init__(self, models: Sequence[str], suites: KnownSuites, log: Log) -> None:
        self._models = [str(ModelSpec(model)) for model in models]
        self._suites = suites
        self._log = log

    def ask_models(self, chosen: Sequence[str]) -> tuple[str, ...]:
        """Return models, at least one."""
        offered = list(dict.fromkeys([*self._models, *chosen]))
        if not offered:
            return _type_models("Which models? Names on the hub, or paths:", [])
        marked = menus.choose_several("Which models?", [_OTHER_MODELS, *offered], chosen=chosen)
        kept = [model for model in marked if model != _OTHER_MODELS]
        if _OTHER_MODELS in marked:
            kept += _type_models("Names on the hub, or paths:", kept)
        return tuple(dict.fromkeys(kept))

    def ask_suites(self, chosen: Sequence[str]) -> tuple[str, ...]:
        """Return suites, perhaps none, each as --task_groups has it."""
        names = list(self._suites.suites)
        width = max(map(len, names))
        lines = {self._suite_line(name, width): name for name in names}
        before = {selection.partition("[")[0] for selection in chosen}
        marked = [line for line, name in lines.items() if name in before]
        picked = menus.choose_several("Which suites?", list(lines), chosen=marked, least=0)
        return self._narrow([lines[line] for line in picked], chosen)

    def ask_tasks(self, chosen: Sequence[TaskChoice]) -> tuple[TaskChoice, ...]:
        """Return single tasks with their shots, perhaps none."""
        if not chosen:
            return tuple(filter(None, [self._ask_choice(TaskChoice(()))]))
        lines = {_choice_line(choice): place for place, choice in enumerate(chosen)}
        line = menus.choose("Which of the single tasks?", [*lines, _OTHER_TASKS, _BACK])
        if line == _BACK:
            return tuple(chosen)
        choices: list[TaskChoice | None] = list(chosen)
        place = lines.get(line, len(choices))
        choices[place:] = [
            self._ask_choice(chosen[place] if line in lines else TaskChoice(())),
            *choices[place + 1 :],
        ]
        return tuple(filter(None, choices))

    def ask_option(self, chosen: Mapping[str, str]) -> Mapping[str, str]:
        """Return the further options with one of them changed, added or removed."""
        columns = schema.table("manifest")
        meanings = {name: spec["meaning"] for name, spec in columns.items() if spec.get("flag")}
        meanings |= _OPTIONS
        # Those that have a value come first, and show it.
        shown = {
            **{name: chosen[name] for name in meanings if name in chosen},
            **meanings,
            **chosen,
        }
        name = menus.choose_described("Which setting?", shown, [_BACK])
        if name == _BACK:
            return chosen
        check = functools.partial(find_fault, name) if name in columns else None
        text = menus.ask(
            f"{name} (empty: as usual):",
            default=chosen.get(name, ""),
            check=lambda text: check(text.strip()) if check and text.strip() else "",
            meaning=meanings[name],
        ).strip()
        changed = {key: value for key, value in chosen.items() if key != name}
        return {**changed, name: text} if text else changed

    def _suite_line(self, name: str, width: int) -> str:
        rows = format_count(len(select_rows(name, self._suites)), "row")
        description = self._suites.suites[name].description
        return shorten_end(f"{name:{width}}  {rows:>8}  {description}", _LINE)

    def _languages(self, suite: str) -> list[str]:
        rows = select_rows(suite, self._suites)
        return list(dict.fromkeys(row["language"] for row in rows if row["language"]))

    def _narrow(self, picked: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
        """Return suites with a choice of their languages, if the user wants one."""
        of_suites = {suite: self._languages(suite) for suite in picked}
        codes = sorted({code for languages in of_suites.values() for code in languages})
        narrowed = [code for code in codes if any(code in text for text in before)]
        if len(codes) < 2 or menus.confirm(
            f"All {len(codes)} languages of these suites?", default=not narrowed
        ):
            return tuple(picked)
        lines = {f"{code}  {self._suites.languages[code].name}": code for code in codes}
        marked = [line for line, code in lines.items() if code in narrowed]
        wanted = {
            lines[line]
            for line in menus.choose_several("Which languages?", list(lines), chosen=marked)
        }
        found = []
        for suite, languages in of_suites.items():
            kept = [code for code in languages if code in wanted]
            if languages and not kept:
                self._log(f"{suite} has none of these languages, and is left out")
            elif len(kept) < len(languages):
                found.append(f"{suite}[{'|'.join(kept)}]")
            else:
                found.append(suite)
        return tuple(found)

    def _ask_choice(self, choice: TaskChoice) -> TaskChoice | None:
        """Return tasks with their shots, None for no task."""
        question = "Single tasks, separated by commas (empty: none):"
        if not (tasks := ask_tasks(question, self._tasks, default=choice.tasks)):
            return None
        shots = menus.ask(
            "Numbers of their examples, such as 0,5 (empty: the tasks' own):",
            default=choice.n_shot,
            check=_find_bad_shots,
        )
        return TaskChoice(tasks, ",".join(split_names(shots)))

    @functools.cached_property
    def _tasks(self) -> Sequence[str]:
        """All tasks; looking them up takes ten seconds the first time."""
        return list_tasks(self._log)


def known_models(environ: Mapping[str, str]) -> list[str]:
    """Return the models of this machine's cache, and of the directories that containers see."""
    try:
        cluster = resolve_cluster(None, [], environ)
    except MachineError:
        # No cluster fits; what is asked for here needs none.
        cluster = resolve_cluster("local", [], environ)
    directories = [bind.partition(":")[0] for bind in cluster.items("binds")]
    return list_known_models(cluster.text("hf_home"), directories)


def _type_models(question: str, kept: Sequence[str]) -> tuple[str, ...]:
    def check(text: str) -> str:
        try:
            specs = split_models(text)
        except ValueError as error:
            return str(error)
        if any(spec.path == "-" for spec in specs):
            return "a list of models comes from a file here: @FILE"
        return "" if specs or kept else "a name or a path is needed"

    return tuple(map(str, split_models(menus.ask_names(question, _offer_paths, check=check))))


def _offer_paths(typed: str) -> Iterator[str]:
    """Yield the directories whose paths begin with what the user has typed."""
    if "/" in typed:
        for path in sorted(glob.glob(f"{glob.escape(os.path.expanduser(typed))}*/")):
            yield path.rstrip("/")


def _choice_line(choice: TaskChoice) -> str:
    shots = f"{choice.n_shot} examples" if choice.n_shot else "their own examples"
    return f"{', '.join(choice.tasks)}: {shots}"


def _find_bad_shots(text: str) -> str:
    faults: Callable[[str], str] = functools.partial(find_fault, "n_shot")
    return next(filter(None, map(faults, split_names(text))), "")
