"""Which commits of data sets a program would load from the cache, without loading them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]")


def find_commit(hf_home: str, name: str, config: str = "") -> str:
    """Return the commit of a data set that `datasets` loads without a network; empty if unknown.

    That is the one whose directory was changed last, of the configuration or of all (as in
    datasets 3.6 and 5.2).
    """
    newest = max(_prepared(hf_home, name, config), default=(0.0, ""))
    return newest[1]


def _prepared(hf_home: str, name: str, config: str) -> Iterator[tuple[float, str]]:
    """Yield the commits of a data set that are prepared, each with its time of change."""
    datasets = os.path.join(hf_home, "datasets")
    for directory in _directories(datasets):
        # ORG___NAME, with the name in another spelling.
        if _plain(os.path.basename(directory)) != _plain(name):
            continue
        for configuration in _directories(directory):
            found = os.path.basename(configuration)
            # An identifier of its other arguments may follow the name.
            if config and found != config and not found.startswith(f"{config}-"):
                continue
            for version in _directories(configuration):
                for path in _directories(version):
                    if _COMMIT.fullmatch(commit := os.path.basename(path)):
                        with contextlib.suppress(OSError):
                            yield os.stat(path).st_mtime, commit


def _directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir()]
    except OSError:
        return []


def _plain(name: str) -> str:
    return _NOT_IN_NAMES.sub("", name.lower())
