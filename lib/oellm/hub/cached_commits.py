"""Which commits of data sets a program would load from the cache, without loading them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]")


def find_commits(hf_home: str, names: Iterable[str], expected: str) -> list[str]:
    """Return the commits of data sets in a cache, as NAME@COMMIT; those unknown are left out.

    Several commits of a data set may be in the cache: if one of those in `expected` is, that is
    the one that counts, else the one that was prepared last.
    """
    wanted = dict(word.rpartition("@")[::2] for word in expected.split() if "@" in word)
    found = []
    for name in names:
        commits = _cached(hf_home, name)
        if commits:
            chosen = wanted.get(name) if wanted.get(name) in commits else commits[-1]
            found.append(f"{name}@{chosen}")
    return found


def _cached(hf_home: str, name: str) -> list[str]:
    """Return the commits of a data set that `datasets` has prepared, oldest first."""
    by_time: dict[str, float] = {}
    datasets = os.path.join(hf_home, "datasets")
    for directory in _directories(datasets):
        # ORG___NAME, with the name in another spelling.
        if _plain(directory) != _plain(name):
            continue
        place = os.path.join(datasets, directory)
        for configuration in _directories(place):
            for version in _directories(os.path.join(place, configuration)):
                parent = os.path.join(place, configuration, version)
                for commit in filter(_COMMIT.fullmatch, _directories(parent)):
                    changed = os.stat(os.path.join(parent, commit)).st_mtime
                    by_time[commit] = max(changed, by_time.get(commit, 0.0))
    return sorted(by_time, key=lambda commit: by_time[commit])


def _directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []


def _plain(name: str) -> str:
    return _NOT_IN_NAMES.sub("", name.lower())
