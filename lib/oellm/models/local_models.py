"""Models in directories of this machine: whether they can be loaded, and how large they are."""

from __future__ import annotations

import os
from collections.abc import Iterable

from oellm.hub.repositories import HubModel
from oellm.manifest.rows import Row
from oellm.models import file_selection, model_directory


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


def count_bytes(row: Row) -> int:
    """Return the bytes of the files that loading a row's local model reads."""
    directory = row.model.path
    paths = (os.path.join(directory, name) for name in list_read_files(row, directory))
    return sum(os.path.getsize(path) for path in paths if os.path.isfile(path))


def list_read_files(row: Row, directory: str) -> Iterable[str]:
    """Return the names of the files in a directory that loading a row's model reads, sorted."""
    given = text_arguments(row)
    model = HubModel(
        row.model.path,
        revision="",
        gguf_file=given.get("gguf_file", ""),
        subfolder=given.get("subfolder", ""),
        variant=given.get("variant", ""),
    )
    names = (
        os.path.relpath(os.path.join(folder, name), directory)
        for folder, _, files in os.walk(directory)
        for name in files
    )
    return file_selection.select_files(sorted(names), model)
