"""The digests of the local models of rows, each computed once.

A digest that is known from before costs one stat per file, as long as no file has changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from oellm.core.processes import daemon_threads
from oellm.hub import cache
from oellm.manifest.argument_texts import ADAPTERS, COMPANIONS
from oellm.manifest.model_spec import looks_local
from oellm.manifest.rows import Row
from oellm.models.identity import (
    MODEL_DIGITS,
    UNKNOWN_DIGITS,
    FileState,
    identify_directory,
    identify_file,
    pinned_commit,
    stat_files,
)

# Models that are looked at at the same time.
_AT_ONCE = 8
# The states of a directory's files, by name.
Files = Mapping[str, FileState]
_UNKNOWN = UNKNOWN_DIGITS, UNKNOWN_DIGITS


class KnownDirectory(NamedTuple):
    """A directory whose content was read.

    Attributes:
        weights: The digest of its weights.
        others: The digest of its other files.
        files: The states of these files when they were read.
    """

    weights: str
    others: str
    files: Files

    @classmethod
    def from_json(cls, content: Any) -> KnownDirectory | None:
        """Read an entry of `directories` in contents.json; None if it is damaged."""
        try:
            states = {name: FileState(*map(int, file)) for name, file in content["files"].items()}
            return cls(str(content["weights"]), str(content["others"]), states)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            return None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `directories` in contents.json."""
        files = {name: list(state) for name, state in self.files.items()}
        return {"weights": self.weights, "others": self.others, "files": files}


class ModelDigests:
    """Computes the column model_digest of rows.

    A model of the hub has a digest only if its arguments name a tokenizer or an adapter besides:
    its commit, if the row names one, `+`, and the digest of these.

    `hub` is the hub's cache of the jobs, empty if it is not known, and None for that of this
    process; it tells the commits of tokenizers and adapters on the hub.

    Attributes:
        directories: What is known of directories, by path; grows as digests are asked for.
    """

    def __init__(
        self, known: Mapping[str, KnownDirectory] | None = None, hub: str | None = None
    ) -> None:
        self.directories = dict(known or {})
        self._hub = hub
        self._looked_at: set[str] = set()
        # By the cells model_path, model_args and model_revision.
        self._digests: dict[tuple[str, ...], str] = {}

    def digest(self, row: Row) -> str:
        """Return the digest of a row's model; empty for most hub models, or if it is unreadable.

        It covers tokenizer and adapter that the row names, too; a half that one of them leaves
        unknown is UNKNOWN_DIGITS. Each directory is looked at once, unless `forget` is called.
        """
        # Parsing the cells of each row would take longer than the rest.
        cells = _cells(row)
        if cells not in self._digests:
            self._digests[cells] = self._compute(row)
        return self._digests[cells]

    def look_at(self, rows: Iterable[Row]) -> None:
        """Take the digests of many rows at once: a parallel file system answers in its own time."""
        models = {_cells(row): row for row in rows}
        new = [row for cells, row in models.items() if cells not in self._digests]
        daemon_threads.map_in_threads(self.digest, new, _AT_ONCE)

    def forget(self) -> None:
        """Look at all directories again when they are next asked for."""
        self._looked_at.clear()
        self._digests.clear()

    def _compute(self, row: Row) -> str:
        arguments = row.model_arguments
        subfolder = str(arguments.get("subfolder", ""))
        parts = []
        if row.model.is_local:
            directory = os.path.join(row.model.path, subfolder)
            gguf_file = str(arguments.get("gguf_file") or "")
            try:
                parts.append(self._look(directory.rstrip("/") or "/", gguf_file)[:2])
            except OSError:
                return ""
        for name in (*COMPANIONS, *ADAPTERS):
            if path := str(arguments.get(name) or ""):
                found = self._look_at_companion(name, path, subfolder)
                parts.append(found if name != "tokenizer" else ("", found[1]))
        if not parts:
            return ""
        # Without companions this is the digest of the model's identity in a result.
        weights, others = (_join(list(digests)) for digests in zip(*parts, strict=True))
        if (weights or UNKNOWN_DIGITS, others) == _UNKNOWN:
            return ""
        commit = "" if row.model.is_local else f"{pinned_commit(row['model_revision'])}+"
        return commit + (weights or UNKNOWN_DIGITS) + others

    def _look_at_companion(self, name: str, path: str, subfolder: str) -> tuple[str, str]:
        """Return the digests of a companion's weights and other files."""
        if not looks_local(path):
            snapshot = cache.find_snapshot(path, "main", self._hub) if self._hub != "" else None
            commit = _hexadecimal(os.path.basename(snapshot or ""))
            return (commit, commit) if snapshot else _UNKNOWN
        inner = os.path.join(path, subfolder).rstrip("/")
        # A tokenizer is looked for in the subfolder, too.
        is_within = name == "tokenizer" and subfolder and os.path.isdir(inner)
        try:
            return self._look(inner if is_within else path)[:2]
        except OSError:
            # What is known of the model still counts.
            return _UNKNOWN

    def _look(self, directory: str, gguf_file: str = "") -> KnownDirectory:
        """Return what is in a directory, or a file, reading only what may have changed."""
        place = os.path.join(directory, gguf_file) if gguf_file else directory
        known = self.directories.get(place)
        if known is not None and place in self._looked_at:
            return known
        files = stat_files(directory)
        if known is None or known.files != files:
            if "" in files:
                identity = identify_file(directory)
            else:
                identity = identify_directory(directory, gguf_file=gguf_file)
            known = KnownDirectory(identity.weights_digest, identity.files_digest, files)
        self.directories[place] = known
        self._looked_at.add(place)
        return known


def _cells(row: Row) -> tuple[str, ...]:
    return row["model_path"], row["model_args"], row["model_revision"]


def _join(digests: list[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    if UNKNOWN_DIGITS in digests:
        return UNKNOWN_DIGITS
    return _hexadecimal(" ".join(digests))


def _hexadecimal(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:MODEL_DIGITS]
