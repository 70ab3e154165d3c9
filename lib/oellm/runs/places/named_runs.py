"""Finds runs below the setting eval_output_dir: all of them, or one by its name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from oellm.clusters.cluster import resolve_cluster
from oellm.core.log import Log
from oellm.core.paths import user_name
from oellm.errors import InputError, MachineError, OellmError
from oellm.runs import run_directory
from oellm.runs.places.new_directory import STAMP_PATTERN
from oellm.runs.run_directory import RUN, Run

# Runs of one name that an error lists.
_LISTED = 10
# How the names of the directories begin that oe-render named.
_STAMP = re.compile(rf"{STAMP_PATTERN}(?![0-9])")


class NoSuchRunError(InputError):
    """A text is neither a path nor the name of a run."""


def output_directory(cluster: str | None = None) -> Path:
    """Return the directory that has a directory of runs for each user.

    It is the one of a cluster, or of this machine's. Raises what `resolve_cluster` raises, and
    MachineError if there is none.
    """
    text = resolve_cluster(cluster, [], os.environ).text("eval_output_dir")
    if not text:
        raise MachineError("the setting eval_output_dir is empty")
    return Path(text)


def list_runs(directories: Iterable[Path], log: Log) -> list[Run]:
    """Return the runs in some directories, newest first; `log` gets those that are damaged."""
    runs = filter(None, (_load(path, log) for path in directories for path in _find_runs(path)))
    return sorted(runs, key=lambda run: (run.created, run.path), reverse=True)


def find_directories(texts: Sequence[str]) -> list[str]:
    """Return the directories that texts of a command line mean; see `find_directory`."""
    return list(map(find_directory, texts))


def find_directory(text: str, cluster: str | None = None) -> str:
    """Return the directory of the user's run that has this name, or that is called so.

    A path is returned as it is: a text that has a slash, that exists, or that is no run's name.
    Raises InputError if several runs have the name, and for a cluster what `output_directory`
    raises.
    """
    try:
        return require_directory(text, cluster)
    except NoSuchRunError:
        return text


def require_directory(text: str, cluster: str | None = None) -> str:
    """Return what `find_directory` does, but raise NoSuchRunError for neither a path nor a name.

    A text that has a slash is a path, whether it exists or not.
    """
    if not text or text == "-" or os.sep in text or os.path.lexists(text):
        return text
    try:
        directory = output_directory(cluster) / user_name()
    except OellmError as error:
        if cluster is not None:
            raise
        # Only paths mean something on a machine that is no cluster.
        raise NoSuchRunError(f"no such directory; names of runs need: {error}", text) from None
    found = [path for path in _find_runs(directory) if _is_called(path, text)]
    if len(found) > 1:
        shown = ", ".join(map(str, sorted(found, key=_created, reverse=True)[:_LISTED]))
        more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise InputError(f"{len(found)} runs have this name, give one of {shown}{more}", text)
    if not found:
        raise NoSuchRunError(f"no such directory, nor a run of this name below {directory}", text)
    return str(found[0])


def _find_runs(directory: Path) -> Iterator[Path]:
    """Yield the run directories in a directory."""
    return (path.parent for path in directory.glob(f"*/{RUN}"))


def _is_called(path: Path, text: str) -> bool:
    if path.name == text:
        return True
    # Such a directory ends with the name of its run, so that few records need to be read.
    if _STAMP.match(path.name) and not path.name.endswith(f"-{text}"):
        return False
    run = _load(path, lambda _: None)
    return run is not None and run.name == text


def _created(path: Path) -> tuple[str, Path]:
    run = _load(path, lambda _: None)
    return (run.created if run else "", path)


def _load(path: Path, log: Log) -> Run | None:
    try:
        return run_directory.load_run(path)
    except (InputError, OSError) as error:
        log(str(error))
        return None
