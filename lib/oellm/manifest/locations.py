"""Where the models and tasks of rows are: local paths have one spelling, in any directory."""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from typing import NamedTuple

from oellm.core.regular_files import STATE, read_regular
from oellm.manifest.argument_texts import COMPANIONS
from oellm.manifest.model_spec import ModelSpec, looks_local, parse_listed
from oellm.manifest.rows import Row
from oellm.manifest.task_source import move_directories

_CACHED_PATHS = 8192
# models--org--name, which the hub's cache has for each repository, or one of its snapshots.
_IN_HUB_CACHE = re.compile(
    r"(?P<directory>(?P<hub>.*)/models--(?P<name>[^/]+))(/snapshots(/(?P<commit>[^/]+))?)?"
)


class HubSnapshot(NamedTuple):
    """A model in a hub's cache on disk.

    Attributes:
        hub: The directory of the cache.
        name: The model on the hub, org/name.
        commit: Its commit; empty if the cache does not tell one.
        path: The directory of the snapshot, or the given one if no commit is known.
    """

    hub: str
    name: str
    commit: str
    path: str

    def name_on_hub(self, model: ModelSpec) -> ModelSpec:
        """Return the model that this snapshot was found for, by its name on the hub.

        A path that names the commit decides what is loaded: the argument `revision` beside it has
        no effect, and would tell another training step than that of the commit.
        """
        if model.path != self.path:
            return model.at(self.name)
        arguments = ((name, text) for name, text in model.arguments if name != "revision")
        return ModelSpec(self.name, tuple(arguments))


class Locator:
    """Gives the local paths of rows the one spelling that means the same in any directory.

    A path is absolute, without `//`, `.`, `..` and symbolic links, so that a model has one name; a
    link that moves names another model. A directory of the hub's cache `hub` is the model of the
    hub, at its commit. A row that carries its eval_id got it by the path that it has, and only
    becomes absolute. Asks the file system once for each model, however many rows have it.
    """

    def __init__(self, hub: str = "") -> None:
        self._hub = os.path.realpath(hub) if hub else ""
        self._located = functools.lru_cache(_CACHED_PATHS)(self._locate_model)
        self._absolute = functools.lru_cache(_CACHED_PATHS)(_absolute_task)

    def locate(self, row: Row) -> Row:
        """Return a checked row with its local paths in their one spelling."""
        moved = {}
        for name in ("task_path", "include_path"):
            text = row.cells.get(name)
            if text and (absolute := self._absolute(name, text)) != text:
                moved[name] = absolute
        moved |= self._located(row["model_path"], bool(row["eval_id"]), row["model_revision"])
        return row.with_cells(**moved) if moved else row

    def _locate_model(self, text: str, is_identified: bool, revision: str) -> dict[str, str]:
        """Return the cells of a model that change."""
        if not text:
            return {}
        if is_identified:
            spec = ModelSpec.parse(text)
            located = spec.at(absolute_path(spec.path)) if spec.is_local else spec
            return {"model_path": str(located)} if located != spec else {}
        spec = parse_listed(text)
        located = locate_model(spec)
        cells = {}
        snapshot = find_hub_snapshot(located) if located.is_local else None
        is_known = snapshot and snapshot.commit and revision in ("", snapshot.commit)
        if snapshot and is_known and snapshot.hub == self._hub:
            located, cells = snapshot.name_on_hub(located), {"model_revision": snapshot.commit}
        elif snapshot:
            located = located.at(snapshot.path)
        if located == ModelSpec.parse(text):
            return cells
        return {"model_path": str(located), **cells}


def locate_row(row: Row) -> Row:
    """Return one checked row with its local paths in their one spelling; see Locator for many."""
    return Locator().locate(row)


def locate_model(model: ModelSpec) -> ModelSpec:
    """Return a model with its local paths, and those of its arguments, in their one spelling."""
    arguments = tuple(
        (name, locate_path(text) if name in COMPANIONS and looks_local(text) else text)
        for name, text in model.arguments
    )
    path = locate_path(model.path) if model.is_local else model.path
    return ModelSpec(path, arguments)


def locate_path(path: str) -> str:
    """Return the one spelling of a path: absolute, and without links if it exists."""
    path = os.path.expanduser(path)
    composed = unicodedata.normalize("NFC", path)
    for spelling in (path, composed, unicodedata.normalize("NFD", path)):
        if os.path.exists(spelling):
            return os.path.realpath(spelling)
    return absolute_path(composed)


def absolute_path(path: str) -> str:
    """Return an absolute path without `//`, `.` and `..`."""
    path = os.path.abspath(os.path.expanduser(path))
    # POSIX lets two slashes at the beginning mean something else; no system here does.
    return "/" + path.lstrip("/")


def find_hub_snapshot(model: ModelSpec) -> HubSnapshot | None:
    """Return the snapshot that a model's path names if it is one of a hub's cache, else None.

    The directory of a repository stands for the argument `revision`, or for `main`.
    """
    match = _IN_HUB_CACHE.fullmatch(model.path)
    if not match or not os.path.isdir(os.path.join(match["directory"], "snapshots")):
        return None
    revision = dict(model.arguments).get("revision", "main")
    commit = match["commit"] or _find_commit(match["directory"], revision)
    path = os.path.join(match["directory"], "snapshots", commit) if commit else model.path
    name = match["name"].replace("--", "/")
    return HubSnapshot(hub=match["hub"], name=name, commit=commit, path=path)


def _find_commit(directory: str, revision: str) -> str:
    try:
        path = os.path.join(directory, "refs", revision)
        commit = read_regular(path, largest=STATE).decode().strip()
    except (OSError, ValueError):
        commit = revision
    snapshots = os.listdir(os.path.join(directory, "snapshots"))
    if commit in snapshots:
        return commit
    return snapshots[0] if len(snapshots) == 1 and revision == "main" else ""


def _absolute_task(name: str, text: str) -> str:
    if name == "include_path":
        return move_directories(text, absolute_path)
    return absolute_path(text) if text.endswith((".yaml", ".yml")) else text
