"""Models in directories of this machine: whether they can be loaded, and how large they are."""

from __future__ import annotations

import os
from collections.abc import Iterable

from oellm.hub.repositories import HubModel
from oellm.manifest.model_spec import HUB_ID
from oellm.manifest.rows import Row
from oellm.models import file_selection, model_directory

# Files and directories; a model has hundreds at most, its training state may have thousands.
_MOST_FILES = 5000


def text_arguments(row: Row) -> dict[str, str]:
    """Return the arguments of a row's model as text."""
    return {name: str(value) for name, value in row.model_arguments.items()}


def find_local_problem(row: Row) -> str | None:
    """Return why a row's local model cannot be loaded, or None if it can."""
    path = row.model.path
    if not os.path.isdir(path):
        return f"{path}: no such directory"
    text = model_directory.find_directory_problem(path, text_arguments(row))
    return f"{path}: {text}" if text else None


def find_missing_directory(row: Row, hf_home: str) -> str | None:
    """Return why a row's model is not there, or None if it is, or may be on the hub.

    A name such as `runs/iter_1` is a model of the hub, too; if `runs` is a directory and the cache
    in `hf_home` has no such model, it is a mistake.
    """
    path = row.model.path
    if os.path.isdir(path):
        return None
    if os.path.exists(path):
        return f"{path}: this is a file; name a model by its directory"
    if not HUB_ID.fullmatch(path):
        return f"{path}: no such directory"
    cached = os.path.join(hf_home, "hub", f"models--{path.replace('/', '--')}")
    above = os.path.dirname(path)
    if not above or row["model_revision"] or not os.path.isdir(above) or os.path.isdir(cached):
        return None
    return f"{path}: no such directory in {above}; if it is a model of the hub, run oe-fetch before"


def count_bytes(row: Row) -> int:
    """Return the bytes of the files that loading a row's local model reads."""
    directory = row.model.path
    paths = (os.path.join(directory, name) for name in list_read_files(row, directory))
    return sum(os.path.getsize(path) for path in paths if os.path.isfile(path))


def list_read_files(row: Row, directory: str) -> Iterable[str]:
    """Return the names of the files in a directory that loading a row's model reads, sorted.

    Raises InputError if there are so many files that it cannot be the directory of a model.
    """
    given = text_arguments(row)
    model = HubModel(
        row.model.path,
        revision="",
        gguf_file=given.get("gguf_file", ""),
        subfolder=given.get("subfolder", ""),
        variant=given.get("variant", ""),
    )
    names = []
    for folder, folders, files in os.walk(directory):
        names += [os.path.relpath(os.path.join(folder, name), directory) for name in files]
        # A directory of everything, such as /, would take hours.
        if len(names) + len(folders) > _MOST_FILES:
            text = f"{directory}: there are more than {_MOST_FILES} files in it; is this a model?"
            raise row.error("model_path", text)
    return file_selection.select_files(sorted(names), model)
