"""Models as other tools name them: one name for each, whatever its spelling."""

from __future__ import annotations

import re

from oellm.manifest.model_spec import ModelSpec

# Model arguments whose default means the same as their absence.
_DEFAULTS = {"dtype": "auto", "revision": "main"}

# The directory of a model in a hub's cache, up to its files at a commit. The cache may be on
# another machine.
_IN_HUB_CACHE = re.compile(
    r"(?:.*/)?models--(?P<name>(?:(?!--)[^/])+(?:--(?:(?!--)[^/])+)?)"
    r"(?:/snapshots/(?P<commit>[0-9A-Za-z]+))?/*",
    re.DOTALL,
)


def is_default(name: str, value: object) -> bool:
    """Return whether an argument of a model has a value that means the same as its absence."""
    return name in _DEFAULTS and value == _DEFAULTS[name]


def model_and_commit(path: str) -> tuple[str, str]:
    """Return the one spelling of a model's path, and its commit; empty if the path tells none.

    A directory of a hub's cache is the model of the hub. The path may be of another machine.
    """
    commit = ""
    if match := _IN_HUB_CACHE.fullmatch(path):
        path, commit = match["name"].replace("--", "/"), match["commit"] or ""
    path = re.sub(r"/(?:\.?/)+", "/", path.strip())
    while len(path) > 1 and path.endswith(("/", "/.")):
        path = path[: path.rindex("/")] or "/"
    return path, commit


def named_model(cell: str) -> dict[str, str]:
    """Return the cells of a model that a user or another tool names like a model's cell.

    Raises ValueError if it is none.
    """
    spec = ModelSpec.parse(cell)
    path, commit = model_and_commit(spec.path)
    told = tuple(pair for pair in spec.arguments if not is_default(*pair))
    cells = {"model_path": str(ModelSpec(path, told))}
    return {**cells, "model_revision": commit} if commit else cells
