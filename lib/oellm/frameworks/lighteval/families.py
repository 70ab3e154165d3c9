"""The tasks of lighteval, of which there are too many to list: families of names and parts.

A task is called NAME or NAME:PART, and NAME is the group of all its parts, as in lighteval.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from oellm.core import json_codec
from oellm.frameworks.catalogue import Catalogue, CatalogueTask

_ANY_TASK = CatalogueTask()


class Family(NamedTuple):
    """Tasks with one data set: each name with each part.

    Attributes:
        names: The names.
        parts: The parts with the configuration of the data set of each; the part may be empty.
        data: The data set on the hub.
        splits: The splits of the data set that are evaluated, joined by `+`.
        revision: The commit or tag of the data set; empty for the newest one.
        nltk: The packages of NLTK that the metrics read.
        obstacle: Why oellm cannot run the tasks; empty if it can.
        answers: How many answers the tasks ask for to one question.
    """

    names: tuple[str, ...]
    parts: Mapping[str, str]
    data: str
    splits: str
    revision: str = ""
    nltk: tuple[str, ...] = ()
    obstacle: str = ""
    answers: int = 1


class KnownTask(NamedTuple):
    """What the catalogue knows of a task: its family, and the configuration of its data set."""

    family: Family
    config: str


class _TaskNames(Mapping[str, CatalogueTask]):
    """The tasks by name, without a list of them."""

    def __init__(self, families: Mapping[str, list[Family]]) -> None:
        self._families = families

    def __getitem__(self, task: str) -> CatalogueTask:
        if not _find(self._families, task):
            raise KeyError(task)
        return _ANY_TASK

    def __iter__(self) -> Iterator[str]:
        for name, families in self._families.items():
            yield from _members(name, families)

    def __len__(self) -> int:
        return sum(len(each.parts) for families in self._families.values() for each in families)


class _Groups(Mapping[str, tuple[str, ...]]):
    """The names that have several parts, with the names of these tasks."""

    def __init__(self, families: Mapping[str, list[Family]]) -> None:
        self._families = families

    def __getitem__(self, name: str) -> tuple[str, ...]:
        members = tuple(_members(name, self._families.get(name, ())))
        if len(members) < 2:
            raise KeyError(name)
        return members

    def __iter__(self) -> Iterator[str]:
        for name, families in self._families.items():
            if sum(len(each.parts) for each in families) > 1:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)


def find_definitions(task: str) -> list[KnownTask]:
    """Return the definition of a task, or those of a group's members; empty for other names."""
    families = _read_families()[1]
    members = read_catalogue().groups.get(task)
    found = [_find(families, name) for name in members or (task,)]
    return [each for each in found if each is not None]


@functools.cache
def read_catalogue() -> Catalogue:
    """Return the tasks and groups."""
    version, families = _read_families()
    return Catalogue(version, _TaskNames(families), _Groups(families))


@functools.cache
def _read_families() -> tuple[str, dict[str, list[Family]]]:
    """Return the version, and the families by each of their names."""
    content = json_codec.loads(pkgutil.get_data(__package__, "catalogue.json") or b"")
    by_name: dict[str, list[Family]] = {}
    for described in content["families"]:
        family = _parse(described, content["lists"])
        for name in family.names:
            by_name.setdefault(name, []).append(family)
    return str(content["version"]), by_name


def _parse(described: Mapping[str, Any], lists: list[list[str]]) -> Family:
    if "pairs" in described:
        codes = described["pairs"]
        parts = [f"{a}-{b}" for a in codes for b in codes if a != b]
    else:
        parts = _listed(described.get("parts", [""]), lists)
    configs = _listed(described.get("configs", parts), lists)
    if "config" in described:
        configs = [described["config"]] * len(parts)
    return Family(
        names=tuple(described["names"]),
        parts=dict(zip(parts, configs, strict=True)),
        data=described["data"],
        splits=described["splits"],
        revision=described.get("revision", ""),
        nltk=tuple(described.get("nltk", ())),
        obstacle=described.get("obstacle", ""),
        answers=described.get("answers", 1),
    )


def _listed(value: Any, lists: list[list[str]]) -> list[str]:
    """Return a list that is given itself, or by its number."""
    return lists[value] if isinstance(value, int) else list(value)


def _find(families: Mapping[str, list[Family]], task: str) -> KnownTask | None:
    name, _, part = task.partition(":")
    for family in families.get(name, ()):
        if part in family.parts and (part or ":" not in task):
            return KnownTask(family, family.parts[part])
    return None


def _members(name: str, families: Any) -> Iterator[str]:
    for family in families:
        for part in family.parts:
            yield f"{name}:{part}" if part else name
