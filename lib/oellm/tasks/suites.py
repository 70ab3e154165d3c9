"""Suites: which there are, and the manifest rows that a selection of them stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from oellm.core.paths import data_file, user_file
from oellm.errors import UsageError, nearest
from oellm.tasks import suite_files
from oellm.tasks.languages import Language, find_language
from oellm.tasks.suite_files import ALL, Cells, KnownSuites

_FILE = "task-groups.json"
# Cells that say where a row comes from and how it is shown, not what is evaluated.
_LABELS = ("task_group", "language", "primary_metric")
# Most languages that a message lists.
_SHOWN = 12


class SuiteTask(NamedTuple):
    """A task as a suite evaluates it.

    Attributes:
        n_shot: As in the manifest's cell; empty for the task's own default.
    """

    task: str
    n_shot: str
    eval_suite: str


# By suite, the weights of its tasks.
SuiteWeights = Mapping[str, Mapping[SuiteTask, float]]


def load_suites(paths: Iterable[str], environ: Mapping[str, str]) -> KnownSuites:
    """Return the suites and languages of task-groups.json, the user's file and further files.

    A suite replaces those of the same name in earlier files. Raises InputError for a file that is
    not as docs/SUITES.md says.
    """
    known = KnownSuites({}, {})
    own = user_file(_FILE, environ)
    for path in (data_file(_FILE), *([own] if own else []), *map(Path, paths)):
        known = suite_files.add_suite_file(known, path)
    return known


def select_rows(selection: str, known: KnownSuites) -> list[Cells]:
    """Return the manifest cells of a suite's rows; `SUITE[deu_Latn|fr]` keeps two languages.

    A comma separates languages, too. `all` is every suite that does not say otherwise. A row that
    several suites have comes once, from the first of them. Raises UsageError for an unknown suite,
    and for languages that no task of it has.
    """
    match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]*)\])?", selection)
    if not match:
        raise UsageError(f"--task_groups: expected SUITE or SUITE[language|…], got {selection!r}")
    name, bracket = match[1].strip(), match[2]
    if name not in (ALL, *known.suites):
        raise UsageError(f"--task_groups: {_describe_unknown(name, known)}")
    rows = list(_expand_suite(name, known))
    if bracket is not None:
        wanted = _parse_bracket(name, bracket, rows, known=known)
        rows = [row for row in rows if row["language"] in wanted]
    return _drop_duplicates(rows)


def split_selections(text: str) -> list[str]:
    """Return the selections in a list that commas separate; those in brackets do not."""
    return [part.strip() for part in re.split(r",(?![^\[\]]*\])", text) if part.strip()]


def primary_metrics(environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return, by framework, the primary metric of each task that has the same one in all suites."""
    named: dict[tuple[str, str], set[str]] = {}
    for suite in load_suites((), environ).suites.values():
        for row in suite.rows:
            key = row["eval_suite"], row["task_path"]
            named.setdefault(key, set()).add(row["primary_metric"])
    found: dict[str, dict[str, str]] = {}
    for (framework, task), metrics in named.items():
        if len(metrics) == 1:
            found.setdefault(framework, {})[task] = min(metrics)
    return found


def chance_levels(known: KnownSuites) -> dict[tuple[str, str], tuple[str, float]]:
    """Return, by framework and task, the primary metric and what guessing gives of it.

    A task of which suites say different things has none.
    """
    named: dict[tuple[str, str], set[tuple[str, float]]] = {}
    for suite in known.suites.values():
        for row in suite.rows:
            task = row["task_path"]
            if task in suite.chances:
                level = row["primary_metric"], suite.chances[task]
                named.setdefault((row["eval_suite"], task), set()).add(level)
    return {key: min(levels) for key, levels in named.items() if len(levels) == 1}


def suite_weights(known: KnownSuites) -> SuiteWeights:
    """Return the weights of the tasks of each suite, in averages."""
    of_suite = {}
    for name in known.suites:
        weights: dict[SuiteTask, float] = {}
        for row in _expand_suite(name, known):
            weight = known.suites[row["task_group"]].weights.get(row["task_path"], 1.0)
            weights[SuiteTask(row["task_path"], row["n_shot"], row["eval_suite"])] = weight
        of_suite[name] = weights
    return of_suite


def _describe_unknown(name: str, known: KnownSuites) -> str:
    if name in known.left_out:
        return f"there is no suite {name!r}: {known.left_out[name]}"
    hint = nearest(name, (ALL, *known.suites)) or ";"
    return f"unknown suite {name!r}{hint} to see all suites: oe-manifest --list"


def _expand_suite(name: str, known: KnownSuites) -> Iterator[Cells]:
    """Yield the rows of a suite, of a super-suite's members, or of every suite."""
    if name == ALL:
        for suite in known.suites.values():
            yield from suite.rows if suite.in_all else ()
        return
    yield from known.suites[name].rows
    for member in known.suites[name].members:
        yield from _expand_suite(member, known)


def _drop_duplicates(rows: Iterable[Cells]) -> list[Cells]:
    unique: dict[tuple[tuple[str, str], ...], Cells] = {}
    for row in rows:
        key = tuple(item for item in sorted(row.items()) if item[0] not in _LABELS)
        unique.setdefault(key, row)
    return list(unique.values())


def _parse_bracket(name: str, bracket: str, rows: list[Cells], *, known: KnownSuites) -> set[str]:
    """Return the codes of the languages in a bracket; the suite must have each of them."""
    codes = dict.fromkeys(row["language"] for row in rows if row["language"])
    present = [known.languages[code] for code in codes]
    wanted = set()
    for text in (part.strip() for part in re.split("[|,]", bracket)):
        language = find_language(text, present)
        if language is None:
            hint = _language_hint(text, present, known)
            subject = "no suite has the" if name == ALL else f"{name} has no"
            raise UsageError(f"--task_groups: {subject} language {text!r}{hint}")
        wanted.add(language.code)
    return wanted


def _language_hint(text: str, present: list[Language], known: KnownSuites) -> str:
    """Return what to write instead of a language that a suite does not have."""
    if not present:
        return ": its tasks have no language"
    whole = [one.code for one in present if one.code.lower().startswith(f"{text.lower()}_")]
    if whole:
        return f", did you mean {' or '.join(whole)}?"
    close = nearest(text, [word for one in present for word in one.words()])
    if close and not find_language(text, known.languages.values()):
        return close
    if len(present) <= _SHOWN:
        return f"; it has {', '.join(one.code for one in present)}"
    return ""
