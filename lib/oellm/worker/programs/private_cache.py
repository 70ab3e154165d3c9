"""The part of the shared cache that a program in a sandbox needs, in a directory of its own.

Libraries write lock files beside what they read. In the sandbox HF_HOME is a tree of directories
whose files are links to the shared cache, of which only what the rows need is there, read-only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from oellm.clusters.runtime import NLTK
from oellm.frameworks.program import Need, NeededDataSet, NeededMetric, NeededNltk
from oellm.sandbox.contained import SCRATCH

# Where the sandbox has the shared cache, and where the program finds its own.
SHARED = "/oellm/cache"
OWN = f"{SCRATCH}/cache-of-hub"
# The program that makes the links and then starts another one; its Python may be as old as 3.8.
LINKER = b"""import os
import sys

shared, own, *command = sys.argv[1:]
for directory, folders, names in os.walk(shared):
    target = os.path.join(own, os.path.relpath(directory, shared))
    os.makedirs(target, exist_ok=True)
    links = [name for name in folders if os.path.islink(os.path.join(directory, name))]
    for name in names + links:
        os.symlink(os.path.join(directory, name), os.path.join(target, name))
os.execvp(command[0], command)
"""
# Code and metrics that the library `evaluate` has fetched.
_OF_METRICS = ("modules", "evaluate", "metrics")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]")


def find_parts(hf_home: str, needs: Iterable[Need]) -> dict[Path, str]:
    """Return what a program needs of the cache: paths there, and where the sandbox has them."""
    found: dict[Path, str] = {}
    for need in needs:
        for part in _parts(hf_home, need):
            found[Path(hf_home, part)] = f"{SHARED}/{part}"
    return found


def _parts(hf_home: str, need: Need) -> Iterator[str]:
    """Yield paths below HF_HOME of those parts of a need that are there."""
    if isinstance(need, NeededNltk):
        names = [NLTK]
    elif isinstance(need, NeededDataSet):
        hub = _named(hf_home, "hub", f"datasets--{need.name}")
        names = [*hub, *_named(hf_home, "datasets", need.name), "modules"]
    elif isinstance(need, NeededMetric):
        spaces = [each for each in _listed(hf_home, "hub") if each.startswith("spaces--")]
        spaces = [f"hub/{each}" for each in spaces if need.name in each]
        names = [*spaces, *_OF_METRICS]
    else:
        names = []
    yield from (name for name in names if os.path.isdir(os.path.join(hf_home, name)))


def _named(hf_home: str, folder: str, name: str) -> list[str]:
    """Return the directories whose names are the same but for case and punctuation.

    ORG/Name is hub/datasets--ORG--Name and datasets/ORG___name.
    """
    listed = _listed(hf_home, folder)
    return [f"{folder}/{each}" for each in listed if _plain(each) == _plain(name)]


def _listed(hf_home: str, folder: str) -> list[str]:
    try:
        return sorted(os.listdir(os.path.join(hf_home, folder)))
    except OSError:
        return []


def _plain(name: str) -> str:
    return _NOT_IN_NAMES.sub("", name.lower())
