"""Files of suites, task-groups.json and those of users: checked, and put into types."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from oellm.core import json_config, schema
from oellm.core.json_config import Node
from oellm.errors import nearest
from oellm.manifest import cells
from oellm.manifest.task_source import move_directories
from oellm.tasks.languages import PLACEHOLDERS, Language, find_language, find_placeholders

Cells = Mapping[str, str]

# Stands for every suite that does not say otherwise; no suite of a file can have its name.
ALL = "all"

_SUITE_KEYS = ("description", "url", "in_all", "eval_suite", "source", "languages", "tasks")
_SUPER_SUITE_KEYS = ("description", "url", "suites")
_TASK_KEYS = (
    *("task", "n_shot", "eval_suite", "source", "language"),
    *("primary_metric", "chance", "weight"),
)
_SOURCE_KEYS = ("reference", "url", "license")
# Only the person who runs a suite decides this; its file may be somebody else's.
_CONFIRMED_BY_OPTION = ("confirm_run_unsafe_code", "trust_remote_code")


class Suite(NamedTuple):
    """A named list of tasks, or of other suites: then it is a super-suite.

    Attributes:
        description: What it is, for people.
        rows: The manifest cells of its rows; none if it is a super-suite.
        members: The names of a super-suite's suites.
        in_all: Whether `all` has its rows.
        url: The definition that it follows.
        chances: By task, the value of its primary metric that guessing gives.
        weights: By task, its weight in averages, if that is not 1.
    """

    description: str
    rows: tuple[Cells, ...] = ()
    members: tuple[str, ...] = ()
    in_all: bool = True
    url: str = ""
    chances: Mapping[str, float] = MappingProxyType({})
    weights: Mapping[str, float] = MappingProxyType({})


class KnownSuites(NamedTuple):
    """All suites, and what they refer to.

    Attributes:
        languages: Languages by code.
        suites: Suites by name.
        left_out: Why there is no suite of a name that people may look for.
        sources: References of task sources by name, as cells of include_path have them.
    """

    languages: dict[str, Language]
    suites: dict[str, Suite]
    left_out: Mapping[str, str] = MappingProxyType({})
    sources: Mapping[str, str] = MappingProxyType({})


def add_suite_file(known: KnownSuites, path: Path) -> KnownSuites:
    """Return what is known with the suites, languages and task sources of a file added or replaced.

    The file may refer to all that is known already. Raises InputError, with the
    place in the file, for anything that is not as docs/SUITES.md says.
    """
    keys = ("languages", "sources", "groups", "left_out")
    parts = json_config.read_json_file(path).members(keys)
    absent = parts["left_out"].members() if "left_out" in parts else {}
    left_out = {**known.left_out, **{name: node.text() for name, node in absent.items()}}
    sources = parts["sources"].members() if "sources" in parts else {}
    references = {name: _read_source(node) for name, node in sources.items()}
    result = KnownSuites(
        languages=dict(known.languages),
        suites=dict(known.suites),
        left_out=left_out,
        sources={**known.sources, **references},
    )
    if "languages" in parts:
        for code, node in parts["languages"].members().items():
            result.languages[code] = _read_language(code, node, result.languages)
    groups = parts["groups"].members() if "groups" in parts else {}
    for name, node in groups.items():
        if name == ALL or not re.fullmatch(r"[^\[\]{}|,\s]+", name):
            raise node.error(f"a suite cannot be called {name!r}")
        result.suites[name] = _read_suite(name, node, result)
    for name, node in groups.items():
        _check_members(name, node, result.suites)
    return result


def _read_language(code: str, node: Node, known: Mapping[str, Language]) -> Language:
    members = node.members(("alpha2", "name"), required=("alpha2", "name"))
    language = Language(code, members["alpha2"].text(), members["name"].text())
    for spelling in map(str.lower, language.words()):
        other = find_language(spelling, known.values())
        if not re.fullmatch(r"\w+", spelling):
            raise node.error(f"expected letters, digits and underscores, got {spelling!r}")
        if other and other.code != code:
            raise node.error(f"{spelling!r} is already a spelling of {other.code}")
    return language


def _read_source(node: Node) -> str:
    """Return the reference of a task source; what else the file says of it is for people."""
    members = node.members(_SOURCE_KEYS, required=("reference",))
    for member in members.values():
        member.text()
    return _read_cell_text("include_path", members["reference"])


def _read_suite(name: str, node: Node, known: KnownSuites) -> Suite:
    members = node.members()
    if ("tasks" in members) == ("suites" in members):
        raise node.error("expected either tasks or suites")
    keys = _SUPER_SUITE_KEYS if "suites" in members else _SUITE_KEYS
    members = node.members(keys)
    description, url = (
        members[key].text() if key in members else "" for key in ("description", "url")
    )
    if "suites" in members:
        names = [item.text() for item in members["suites"].items("names of suites")]
        return Suite(description, members=tuple(names), url=url)
    offered = []
    if "languages" in members:
        items = members["languages"].items("languages")
        offered = [_read_known_language(item, known.languages) for item in items]
    shared = {"eval_suite": schema.table("manifest")["eval_suite"]["default"], "task_group": name}
    if "eval_suite" in members:
        shared["eval_suite"] = _read_cell_text("eval_suite", members["eval_suite"])
    if "source" in members:
        shared["include_path"] = _read_known_source(members["source"], known.sources)
    rows: list[Cells] = []
    chances: dict[str, float] = {}
    weights: dict[str, float] = {}
    for task in members["tasks"].items("tasks"):
        of_task = list(_read_task(task, shared, offered=offered, known=known))
        rows += of_task
        if "chance" in task.members():
            chance = _read_chance(task.members()["chance"])
            chances.update((row["task_path"], chance) for row in of_task)
        if "weight" in task.members():
            weight = _read_weight(task.members()["weight"])
            weights.update((row["task_path"], weight) for row in of_task)
    if unused := {one.code for one in offered} - {row["language"] for row in rows}:
        raise members["languages"].error(f"no task has a placeholder for {min(unused)}")
    in_all = _read_flag(members["in_all"]) if "in_all" in members else True
    return Suite(description, tuple(rows), in_all=in_all, url=url, chances=chances, weights=weights)


def _read_flag(node: Node) -> bool:
    if not isinstance(node.value, bool):
        raise node.unlike("true or false")
    return node.value


def _read_chance(node: Node) -> float:
    """Return a share below 1, a number or a fraction such as `1/3`."""
    value = node.value
    with contextlib.suppress(ValueError, ZeroDivisionError, OverflowError):
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", value, re.ASCII):
            value = float(Fraction(value))
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1:
        return value
    raise node.unlike('a number from 0 to below 1, or a fraction such as "1/3"')


def _read_weight(node: Node) -> float:
    value = node.value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
        return float(value)
    raise node.unlike("a number above 0")


def _read_task(
    node: Node, shared: Cells, offered: list[Language], known: KnownSuites
) -> Iterator[Cells]:
    """Yield the cells of one task for each of its shots and each of its languages."""
    flags = [name for name, spec in schema.table("manifest").items() if spec.get("flag")]
    members = node.members((*_TASK_KEYS, *flags), required=("task",))
    for column in _CONFIRMED_BY_OPTION:
        if column in members:
            raise members[column].error(f"only the command line can set it: --{column}=true")
    template = _read_template(members["task"])
    own = {
        column: _read_cell_text(column, members[column])
        for column in ("eval_suite", "primary_metric", *flags)
        if column in members
    }
    if "source" in members:
        if "include_path" in members:
            raise members["source"].error("expected either source or include_path")
        own["include_path"] = _read_known_source(members["source"], known.sources)
    for count in _read_shots(members["n_shot"]) if "n_shot" in members else [""]:
        for language in _read_targets(members, offered, known.languages):
            yield {
                "task_path": language.fill(template) if language else template,
                "n_shot": count,
                **shared,
                "language": language.code if language else "",
                "primary_metric": "",
                **own,
            }


def _read_template(node: Node) -> str:
    """Return the name of a task, which may have placeholders, or the absolute path of a file."""
    text = node.text()
    for word in find_placeholders(text):
        if word not in PLACEHOLDERS:
            hint = nearest(word, PLACEHOLDERS)
            raise node.error(f"unknown placeholder {word!r}{hint}")
    return _path_beside(node, text) if text.endswith((".yaml", ".yml")) else text


def _read_targets(
    members: Mapping[str, Node], offered: list[Language], known: Mapping[str, Language]
) -> Sequence[Language | None]:
    """Return the languages of a task: its own, those of the suite for a template, or none."""
    if "language" in members:
        return [_read_known_language(members["language"], known)]
    words = find_placeholders(members["task"].value)
    if words and not offered:
        raise members["task"].error(f"{{{words[0]}}} needs languages, and the suite has none")
    return offered if words else [None]


def _read_shots(node: Node) -> list[str]:
    expected = "non-negative integers"
    for item in node.items(expected):
        if not isinstance(item.value, int) or isinstance(item.value, bool) or item.value < 0:
            raise node.unlike(f"a list of {expected}")
    return [str(count) for count in node.value]


def _read_cell_text(column: str, node: Node) -> str:
    """Return the text of a manifest cell, which may be a number, a boolean or an object in JSON."""
    kind = schema.table("manifest")[column]["type"]
    usable = (str, int, float, dict) if kind == "arguments" else (str, int, float)
    if not isinstance(node.value, usable) or node.value == "":
        raise node.unlike("a text, a number, true or false")
    text = node.value if isinstance(node.value, str) else json.dumps(node.value)
    try:
        cells.parse_cell(column, text)
    except ValueError as error:
        raise node.error(str(error)) from None
    if kind == "sources":
        return move_directories(text, lambda path: _path_beside(node, path))
    return text


def _path_beside(node: Node, path: str) -> str:
    """Return a path made absolute, relative to the directory of the file that has it."""
    return os.path.abspath(os.path.join(os.path.dirname(node.source), os.path.expanduser(path)))


def _read_known_language(node: Node, known: Mapping[str, Language]) -> Language:
    text = node.text()
    language = find_language(text, known.values())
    if language is None:
        words = [word for one in known.values() for word in one.words()]
        raise node.error(f"unknown language {text!r}{nearest(text, words)}")
    return language


def _read_known_source(node: Node, known: Mapping[str, str]) -> str:
    name = node.text()
    if name not in known:
        raise node.error(f"unknown task source {name!r}{nearest(name, known)}")
    return known[name]


def _check_members(name: str, node: Node, suites: Mapping[str, Suite]) -> None:
    """Raise InputError if a super-suite has an unknown member, or contains itself."""
    if not suites[name].members:
        return
    for item in node.members()["suites"].items("names of suites"):
        if item.value not in suites:
            raise item.error(f"unknown suite {item.value!r}{nearest(item.value, suites)}")
        if name in _members_below(item.value, suites):
            raise item.error("the super-suite contains itself")


def _members_below(name: str, suites: Mapping[str, Suite]) -> set[str]:
    """Return a suite with all its members, and theirs."""
    reached: set[str] = set()
    pending = [name]
    while pending:
        current = pending.pop()
        if current in suites and current not in reached:
            reached.add(current)
            pending += suites[current].members
    return reached
