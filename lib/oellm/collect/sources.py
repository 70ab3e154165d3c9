"""Finds results: the run directories and JSON files below the paths that a user names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from oellm.core.log import Log
from oellm.errors import InputError
from oellm.manifest.checkpoint_names import natural_key
from oellm.runs import run_directory
from oellm.runs.run_directory import Run
from oellm.runs.stages import stage_store


class UnusableRunError(InputError):
    """The record or the manifest of a run directory is damaged."""


def find_sources(paths: Iterable[str], log: Log) -> list[Run | str]:
    """Return the runs, and the paths of files outside of them, at or below some paths, each once.

    A run directory counts as a whole. Elsewhere every file *.json may be a result, except in hidden
    directories and outputs of first stages. `log` gets the run directories that cannot be used;
    their files count on their own. Raises InputError for a path that does not exist, or that has
    neither runs nor JSON files below it, and for a run directory that cannot be used if it is the
    only path.
    """
    paths = list(paths)
    places: dict[str, Run | str] = {}
    for path in paths:
        try:
            below = dict(_below(path, log))
        except UnusableRunError as error:
            if len(paths) == 1:
                raise
            log(str(error))
            continue
        if not below:
            raise InputError("not a run directory, and no JSON file below it", path)
        places |= {name: place for name, place in below.items() if name not in places}
    return list(places.values())


def find_runs(directories: Iterable[str], log: Log) -> list[Run]:
    """Return the run directories at or below some directories, each once.

    A directory may be missing, or have no run yet. `log` gets the places that cannot be read, and
    the runs that cannot be used. Raises InputError for a file, and for a directory that cannot be
    listed: what is below it would count as missing.
    """
    runs: dict[str, Run] = {}
    for top in directories:
        try:
            os.scandir(top).close()
        except FileNotFoundError:
            log(f"{top}: does not exist yet")
            continue
        except OSError as error:
            raise InputError(f"expected a directory: {error.strerror}", top) from None
        for directory in _run_directories(os.path.abspath(top), log):
            real = os.path.realpath(directory)
            if real not in runs:
                try:
                    runs[real] = run_directory.load_run(directory)
                except InputError as error:
                    log(f"{error}; this run is left out")
                except OSError as error:
                    log(f"{describe_error(error)}; this run is left out")
    return list(runs.values())


def _run_directories(top: str, log: Log) -> Iterator[str]:
    """Yield the directories at or below one that have a run.json, without looking into runs."""
    for directory, folders, names in os.walk(top, onerror=lambda error: log(describe_error(error))):
        if run_directory.RUN in names:
            folders.clear()
            yield directory
        else:
            folders[:] = sorted((name for name in folders if name[0] != "."), key=natural_key)


def _below(path: str, log: Log) -> Iterator[tuple[str, Run | str]]:
    """Yield the runs and files at or below a path, with their real paths."""
    if not os.path.exists(path):
        raise InputError("no such file or directory", path)
    if os.path.basename(path) == run_directory.RUN and os.path.isfile(path):
        path = os.path.dirname(path) or "."
    if not os.path.isdir(path):
        yield os.path.realpath(path), os.path.abspath(path)
        return
    if os.path.exists(os.path.join(path, run_directory.RUN)):
        run = _run(path)
        yield os.path.realpath(run.path), run
        return
    walk = os.walk(os.path.abspath(path), onerror=lambda error: log(describe_error(error)))
    for directory, folders, names in walk:
        real = os.path.realpath(directory)
        folders[:] = _result_folders(folders, names)
        if run_directory.RUN in names:
            try:
                yield real, _run(directory)
                folders.clear()
                continue
            except InputError as error:
                log(str(error))
                folders[:] = [name for name in folders if name == run_directory.RESULTS]
        for name in _result_names(names):
            yield os.path.join(real, name), os.path.join(directory, name)


def _result_folders(folders: list[str], names: list[str]) -> list[str]:
    """Return the folders of a directory that may hold results; `names` are its files."""
    if stage_store.RECORD in names:
        # The output of a first stage.
        return []
    return sorted((name for name in folders if name[0] != "."), key=natural_key)


def _result_names(names: list[str]) -> list[str]:
    """Return the names of files of a directory that may be results."""
    found = (n for n in names if n.endswith(".json") and n[0] != "." and n != run_directory.RUN)
    return [] if stage_store.RECORD in names else sorted(found, key=natural_key)


def _run(directory: str) -> Run:
    """Return a run; raises UnusableRunError if its record or its manifest is damaged."""
    try:
        run = run_directory.load_run(directory)
        columns = run.columns()
    except FileNotFoundError:
        raise UnusableRunError(f"{run_directory.JOBS} is missing", directory) from None
    except InputError as error:
        raise UnusableRunError(str(error)) from None
    except OSError as error:
        raise UnusableRunError(describe_error(error)) from None
    if "eval_id" not in columns:
        path = os.path.join(directory, run_directory.JOBS)
        raise UnusableRunError("required column is missing", path, line=1, column="eval_id")
    return run


def describe_error(error: OSError) -> str:
    """Return the file of an error and the reason."""
    return f"{error.filename}: {error.strerror}"
