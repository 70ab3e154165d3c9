"""Task groups: the suites that are known, and the manifest rows that a selection stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from oellm.core.paths import data_file, user_file
from oellm.errors import UsageError, nearest
from oellm.tasks import languages, suite_files
from oellm.tasks.languages import Language
from oellm.tasks.suite_files import ALL, Catalogue, Cells

_FILE = "task-groups.json"
# Cells that say where a row comes from and how it is shown, not what is evaluated.
_LABELS = ("task_group", "language", "primary_metric")
# A message lists so many languages.
_SHOWN = 12


def known(paths: Iterable[str], environ: Mapping[str, str]) -> Catalogue:
    """Return the suites and languages of task-groups.json, the user's file and further files.

    A later file replaces suites of the same name. Raises InputError for a file that is not right.
    """
    catalogue = Catalogue({}, {})
    own = user_file(_FILE, environ)
    for path in (data_file(_FILE), *([own] if own else []), *map(Path, paths)):
        catalogue = suite_files.extended(catalogue, path)
    return catalogue


def select(selection: str, catalogue: Catalogue) -> list[Cells]:
    """Return the manifest cells of a suite's rows; `SUITE[deu_Latn|fr]` keeps two languages.

    `all` is every suite. A row that several suites have comes once, from the first of them.
    Raises UsageError for an unknown suite, and for languages that no task of it has.
    """
    match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]*)\])?", selection)
    if not match:
        raise UsageError(f"--task_groups: expected SUITE or SUITE[language|…], got {selection!r}")
    name, bracket = match[1].strip(), match[2]
    if name not in (ALL, *catalogue.suites):
        hint = nearest(name, (ALL, *catalogue.suites))
        raise UsageError(f"--task_groups: unknown suite {name!r}{hint}")
    rows = list(_rows(name, catalogue))
    if bracket is not None:
        wanted = _wanted(name, bracket, rows, catalogue)
        rows = [row for row in rows if row["language"] in wanted]
    return _once(rows)


def primary_metrics(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the metric that stands for a task, by task, of those that all suites agree on."""
    named: dict[str, set[str]] = {}
    for suite in known((), environ).suites.values():
        for row in suite.rows:
            named.setdefault(row["task_path"], set()).add(row["primary_metric"])
    return {
        task: metric for task, metrics in named.items() if len(metrics) == 1 for metric in metrics
    }


def _rows(name: str, catalogue: Catalogue) -> Iterator[Cells]:
    """Yield the rows of a suite, of a super-suite's members, or of every suite."""
    if name == ALL:
        for suite in catalogue.suites.values():
            yield from suite.rows
        return
    yield from catalogue.suites[name].rows
    for member in catalogue.suites[name].members:
        yield from _rows(member, catalogue)


def _once(rows: Iterable[Cells]) -> list[Cells]:
    unique: dict[tuple[tuple[str, str], ...], Cells] = {}
    for row in rows:
        key = tuple(item for item in sorted(row.items()) if item[0] not in _LABELS)
        unique.setdefault(key, row)
    return list(unique.values())


def _wanted(name: str, bracket: str, rows: list[Cells], catalogue: Catalogue) -> set[str]:
    """Return the codes of the languages in a bracket; the suite must have each of them."""
    codes = dict.fromkeys(row["language"] for row in rows if row["language"])
    present = [catalogue.languages[code] for code in codes]
    wanted = set()
    for text in (part.strip() for part in bracket.split("|")):
        language = languages.find(text, present)
        if language is None:
            hint = _hint(text, present, catalogue)
            subject = "no suite has the" if name == ALL else f"{name} has no"
            raise UsageError(f"--task_groups: {subject} language {text!r}{hint}")
        wanted.add(language.code)
    return wanted


def _hint(text: str, present: list[Language], catalogue: Catalogue) -> str:
    """Return what to write instead of a language that a suite does not have."""
    if not present:
        return ": its tasks have no language"
    close = nearest(text, [word for each in present for word in each])
    if close and not languages.find(text, catalogue.languages.values()):
        return close
    if len(present) <= _SHOWN:
        return f"; it has {', '.join(each.code for each in present)}"
    return ""
