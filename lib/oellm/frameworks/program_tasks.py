"""The tasks of a framework that is a program: its catalogue, and what its rows need.

On a login node the catalogue says what exists. `describe_task` runs in the environment of the
jobs: it loads what the program will load, which fills the cache or shows what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from oellm.core.regular_files import read_regular
from oellm.errors import InputError
from oellm.frameworks.interface import (
    GENERATE_UNTIL,
    DataSet,
    Demand,
    TaskFacts,
    count_documents,
)
from oellm.frameworks.program import (
    Need,
    NeededDataSet,
    NeededFile,
    NeededMetric,
    NeededNltk,
    ProgramFramework,
)
from oellm.hub import data_sets, needed_files
from oellm.manifest.rows import Row
from oellm.task_sources.cache import find_holder, source_directories

# The name of a model in rows that have none: what a task needs does not depend on the model.
_ANY_MODEL = "any/model"
_DIGITS = 16


class NeededResource(NamedTuple):
    """Something that a task needs; loading it fills the cache, or shows that it is there."""

    need: Need

    def __str__(self) -> str:
        return self.need.name

    def load(self) -> Any:
        """Load it and return it; raises whatever prevents that."""
        need = self.need
        if isinstance(need, NeededDataSet):
            return _load_data_set(need)
        if isinstance(need, NeededFile):
            _load_file(need)
        elif isinstance(need, NeededMetric):
            import evaluate

            evaluate.load(need.name)
        else:
            _load_nltk(need)
        return None


class ProgramTasks:
    """The tasks of a program framework."""

    def __init__(self, eval_suite: str, program: ProgramFramework) -> None:
        self._suite = eval_suite
        self._program = program

    def require(self, task: str, include_path: str) -> None:
        """Raise InputError, with the column, if there is no such task."""
        if unknown := self.find_unknown(task, include_path):
            raise InputError(unknown, column="task_path")

    def find_unknown(self, task: str, include_path: str) -> str:
        """Return that there is no such task, with the nearest name; empty if there is.

        Raises InputError for an include_path without a file that the task reads.
        """
        if unknown := self._program.catalogue().find_unknown(task):
            return f"{self._suite} has {unknown}"
        names = self._program.problem_files(task)
        if include_path and not self._own_files(task, include_path):
            known = f"one of {', '.join(names)}" if names else "none: the task reads no files"
            raise InputError(
                f"expected a directory with {known}, got {include_path}", column="include_path"
            )
        return ""

    def prepare(self) -> None:
        """Import what loading the needs needs."""
        data_sets.install()

    def data_sets(self, task: str, include_path: str) -> Sequence[DataSet]:
        """Return what a task needs."""
        self.require(task, include_path)
        return [NeededResource(need) for need in self._program.needs(self._row(task, include_path))]

    def describe_task(
        self, task: str, include_path: str, demands: list[Demand]
    ) -> list[TaskFacts | BaseException]:
        """Load what a task needs; return for each demand the facts, or what is in its way."""
        self.require(task, include_path)
        revisions: list[str] = []
        counts: list[int] = []
        with data_sets.record_commits(revisions):
            for need in self._program.needs(self._row(task, include_path)):
                loaded = NeededResource(need).load()
                if hasattr(loaded, "num_rows") and isinstance(loaded.num_rows, int):
                    counts.append(loaded.num_rows)
        known = self._program.catalogue().tasks.get(task)
        n_docs = counts[0] if len(counts) == 1 else (known and known.n_docs) or 0
        if own := self._own_files(task, include_path):
            n_docs = max(map(_count_lines, own.values()))
        digest, version = self.task_digest(task, include_path), self.task_version(task, "")
        revision = " ".join(sorted(set(revisions)))
        counted = [count_documents(n_docs, demand.limit) for demand in demands]
        return [
            TaskFacts(
                count,
                {GENERATE_UNTIL: count},
                dataset_revision=revision,
                task_digest=digest,
                task_version=version,
            )
            for count in counted
        ]

    def task_digest(self, task: str, include_path: str) -> str:
        """Return 16 hex digits over the task of this version, its needs and the user's own files.

        Raises InputError if there is no such task.
        """
        self.require(task, include_path)
        catalogue = self._program.catalogue()
        own = self._own_files(task, include_path)
        content = {
            "framework": self._suite,
            "version": catalogue.version,
            "task": task,
            "definition": catalogue.tasks[task].digest if task in catalogue.tasks else "",
            "needs": [list(need) for need in self._program.needs(self._row(task, include_path))],
            "files": {name: hashlib.sha256(text).hexdigest() for name, text in own.items()},
        }
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=True).encode()
        return hashlib.sha256(canonical).hexdigest()[:_DIGITS]

    def task_version(self, task: str, include_path: str) -> str:
        """Return the version of the framework, which is that of its tasks.

        Raises InputError if there is no such task.
        """
        self.require(task, include_path)
        return self._program.catalogue().version

    def local_paths(self, task: str, include_path: str) -> set[str]:
        """Return none: the user's own files lie in the directory that the row names.

        Raises InputError if there is no such task.
        """
        self.require(task, include_path)
        return set()

    def _row(self, task: str, include_path: str) -> Row:
        cells = {"model_path": _ANY_MODEL, "task_path": task, "eval_suite": self._suite}
        return Row({**cells, "n_shot": "", "include_path": include_path})

    def _own_files(self, task: str, include_path: str) -> dict[str, bytes]:
        """Return the contents of the user's own files of a task, by name."""
        names = self._program.problem_files(task) if include_path else ()
        directories = source_directories(include_path, os.environ)
        contents = {
            name: _read_own_file(directory, name)
            for name in names
            if (directory := find_holder(directories, name))
        }
        return {name: content for name, content in contents.items() if content is not None}


def _read_own_file(directory: str, name: str) -> bytes | None:
    """Return the content of a user's file; None if it is not there."""
    try:
        return read_regular(os.path.join(directory, name))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{name}: {error}", column="include_path") from None


def _load_data_set(need: NeededDataSet) -> Any:
    import datasets

    return datasets.load_dataset(
        need.name, need.config or None, split=need.split or None, revision=need.revision or None
    )


def _load_file(need: NeededFile) -> None:
    path = needed_files.needed_path(os.environ, need.name, need.sha256)
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        needed_files.require_file(path, need.sha256)
    else:
        needed_files.download_file(need.url, path, need.sha256)


def _load_nltk(need: NeededNltk) -> None:
    import nltk

    kinds = ("tokenizers", "corpora", "taggers")
    for kind in kinds:
        try:
            nltk.data.find(f"{kind}/{need.name}")
        except LookupError:
            continue
        return
    if os.environ.get("HF_HUB_OFFLINE") == "1" or not nltk.download(need.name, quiet=True):
        raise LookupError(f"{need.name} of NLTK is not in the cache (NLTK_DATA)")


def _count_lines(content: bytes) -> int:
    return sum(1 for line in content.splitlines() if line.strip())
