"""Files of task suites: task-groups.json and those of users, checked and put into types."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from oellm.core import json_config, schema
from oellm.core.json_config import Node
from oellm.errors import nearest
from oellm.manifest import cells
from oellm.tasks import languages
from oellm.tasks.languages import Language

Cells = Mapping[str, str]

# The suite that has every task; none of a file can have its name.
ALL = "all"

_SUITE_KEYS = ("description", "eval_suite", "languages", "tasks")
_SUPER_SUITE_KEYS = ("description", "suites")
_TASK_KEYS = ("task", "n_shot", "eval_suite", "language", "primary_metric")
# Whoever runs a suite decides this; its file, perhaps of somebody else, must not.
_CONFIRMED_BY_OPTION = ("confirm_run_unsafe_code", "trust_remote_code")


class Suite(NamedTuple):
    """A suite: the manifest cells of its rows; of a super-suite the names of its members."""

    description: str
    rows: tuple[Cells, ...] = ()
    members: tuple[str, ...] = ()


class Catalogue(NamedTuple):
    """What is known: languages by code, suites by name."""

    languages: dict[str, Language]
    suites: dict[str, Suite]


def extended(known: Catalogue, path: Path) -> Catalogue:
    """Return what is known together with what a file adds or replaces.

    The file may refer to languages and suites that are known already. Raises InputError, with the
    place in the file, for anything that is not as docs/SUITES.md has it.
    """
    root = json_config.read_json_file(path)
    parts = root.members(("languages", "groups"))
    catalogue = Catalogue(dict(known.languages), dict(known.suites))
    if "languages" in parts:
        for code, node in parts["languages"].members().items():
            catalogue.languages[code] = _language(code, node, catalogue.languages)
    groups = parts["groups"].members() if "groups" in parts else {}
    for name, node in groups.items():
        if name == ALL or not re.fullmatch(r"[^\[\]{}|,\s]+", name):
            raise node.error(f"a suite cannot be called {name!r}")
        catalogue.suites[name] = _suite(name, node, catalogue.languages)
    for name, node in groups.items():
        _check_members(name, node, catalogue.suites)
    return catalogue


def _language(code: str, node: Node, known: Mapping[str, Language]) -> Language:
    members = node.members(("alpha2", "name"), required=("alpha2", "name"))
    language = Language(code, members["alpha2"].text(), members["name"].text())
    for spelling in languages.spellings(language):
        other = languages.find(spelling, known.values())
        if not re.fullmatch(r"\w+", spelling):
            raise node.error(f"expected letters, digits and underscores, got {spelling!r}")
        if other and other.code != code:
            raise node.error(f"{spelling!r} is already a spelling of {other.code}")
    return language


def _suite(name: str, node: Node, known: Mapping[str, Language]) -> Suite:
    members = node.members()
    if ("tasks" in members) == ("suites" in members):
        raise node.error("expected either tasks or suites")
    keys = _SUPER_SUITE_KEYS if "suites" in members else _SUITE_KEYS
    members = node.members(keys)
    description = members["description"].text() if "description" in members else ""
    if "suites" in members:
        names = [item.text() for item in members["suites"].items("names of suites")]
        return Suite(description, members=tuple(names))
    offered = []
    if "languages" in members:
        items = members["languages"].items("languages")
        offered = [_known_language(item, known) for item in items]
    shared = {"eval_suite": schema.table("manifest")["eval_suite"]["default"], "task_group": name}
    if "eval_suite" in members:
        shared["eval_suite"] = _cell("eval_suite", members["eval_suite"])
    tasks = members["tasks"].items("tasks")
    rows = tuple(row for task in tasks for row in _rows(task, shared, offered, known))
    if unused := {each.code for each in offered} - {row["language"] for row in rows}:
        raise members["languages"].error(f"no task has a placeholder that takes {min(unused)}")
    return Suite(description, rows)


def _rows(
    node: Node, shared: Cells, offered: list[Language], known: Mapping[str, Language]
) -> Iterator[Cells]:
    """Yield the cells of each shots × language of one task."""
    flags = [name for name, spec in schema.table("manifest").items() if spec.get("flag")]
    members = node.members((*_TASK_KEYS, *flags), required=("task",))
    for column in _CONFIRMED_BY_OPTION:
        if column in members:
            raise members[column].error(f"only the command line can set it: --{column}=true")
    template = _template(members["task"])
    own = {
        column: _cell(column, members[column])
        for column in ("eval_suite", "primary_metric", *flags)
        if column in members
    }
    for count in _shots(members["n_shot"]) if "n_shot" in members else [""]:
        for language in _targets(members, offered, known):
            yield {
                "task_path": language.fill(template) if language else template,
                "n_shot": count,
                **shared,
                "language": language.code if language else "",
                "primary_metric": "",
                **own,
            }


def _template(node: Node) -> str:
    """Return the name of a task, which may have placeholders, or the absolute path of a file."""
    text = node.text()
    for word in languages.placeholders(text):
        if word not in languages.PLACEHOLDERS:
            hint = nearest(word, languages.PLACEHOLDERS)
            raise node.error(f"unknown placeholder {word!r}{hint}")
    return _beside(node, text) if text.endswith((".yaml", ".yml")) else text


def _targets(
    members: Mapping[str, Node], offered: list[Language], known: Mapping[str, Language]
) -> Sequence[Language | None]:
    """Return the languages of a task: its own, those of the suite for a template, or none."""
    if "language" in members:
        return [_known_language(members["language"], known)]
    words = languages.placeholders(members["task"].value)
    if words and not offered:
        raise members["task"].error(f"{{{words[0]}}} needs languages, and the suite has none")
    return offered if words else [None]


def _shots(node: Node) -> list[str]:
    expected = "non-negative integers"
    for item in node.items(expected):
        if not isinstance(item.value, int) or isinstance(item.value, bool) or item.value < 0:
            raise node.unlike(f"a list of {expected}")
    return [str(count) for count in node.value]


def _cell(column: str, node: Node) -> str:
    """Return the text of a manifest cell; numbers, switches and arguments may be JSON's own."""
    kind = schema.table("manifest")[column]["type"]
    usable = (str, int, float, dict) if kind == "arguments" else (str, int, float)
    if not isinstance(node.value, usable) or node.value == "":
        raise node.unlike("a text, a number, true or false")
    text = node.value if isinstance(node.value, str) else json.dumps(node.value)
    try:
        cells.parse_cell(column, text)
    except ValueError as error:
        raise node.error(str(error)) from None
    return _beside(node, text) if kind == "path" else text


def _beside(node: Node, path: str) -> str:
    """Return a path as seen from the directory of the file that has it."""
    return os.path.abspath(os.path.join(os.path.dirname(node.source), os.path.expanduser(path)))


def _known_language(node: Node, known: Mapping[str, Language]) -> Language:
    text = node.text()
    language = languages.find(text, known.values())
    if language is None:
        words = [word for each in known.values() for word in each]
        raise node.error(f"unknown language {text!r}{nearest(text, words)}")
    return language


def _check_members(name: str, node: Node, suites: Mapping[str, Suite]) -> None:
    """Raise InputError where a super-suite has an unknown member, or leads back to itself."""
    if not suites[name].members:
        return
    for item in node.members()["suites"].items("names of suites"):
        if item.value not in suites:
            raise item.error(f"unknown suite {item.value!r}{nearest(item.value, suites)}")
        if name in _reached(item.value, suites):
            raise item.error("the super-suite contains itself")


def _reached(name: str, suites: Mapping[str, Suite]) -> set[str]:
    """Return a suite and, of a super-suite, all members, those of its members among them."""
    reached: set[str] = set()
    pending = [name]
    while pending:
        each = pending.pop()
        if each in suites and each not in reached:
            reached.add(each)
            pending += suites[each].members
    return reached
