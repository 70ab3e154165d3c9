"""What rows would be evaluated from now: the files of their models and the states of their tasks.

Everything is looked at once, however many rows have it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.clusters.runtime import runs_here
from oellm.core.log import Log
from oellm.frameworks.interface import Tasks
from oellm.manifest.rows import Row
from oellm.models.identity import pinned_commit
from oellm.models.model_digests import KnownDirectory, ModelDigests
from oellm.runs.accepted_contents import AcceptedTask
from oellm.runs.contents import Contents

Directories = Mapping[str, KnownDirectory]

_UNKNOWN = AcceptedTask("")


class ContentsReader:
    """Reads what rows of a cluster would be evaluated from.

    The files of local models and of further tasks are the same for jobs as here. A task is known
    only if its framework is installed here, and one that comes with the framework only if jobs use
    this Python. Else the row's own columns, which oe-fetch has written in the environment of the
    jobs, are all that is known. Without a cluster, this process is the one that evaluates.
    """

    def __init__(self, cluster: Cluster | None, log: Log, directories: Directories) -> None:
        self._cluster = cluster
        self._log = log
        self.models = ModelDigests(directories, None if cluster is None else _hub_cache(cluster))
        self._tasks: dict[str, Tasks] = {}
        self._states: dict[tuple[str, ...], AcceptedTask] = {}
        self._here: dict[str, bool] = {}

    def read(self, row: Row) -> Contents:
        """Return what a row would be evaluated from."""
        task = self.task(row)
        return Contents(
            model=self.models.digest(row) or pinned_commit(row["model_revision"]),
            task=task.digest or row["task_digest"],
            task_version=task.version or row["task_version"],
            data=row["dataset_revision"],
        )

    def task(self, row: Row) -> AcceptedTask:
        """Return the state of a row's task as far as it can be seen from here."""
        source = row["eval_suite"], row["task_path"], row["include_path"]
        if source not in self._states:
            self._states[source] = self._read_task(row)
        return self._states[source]

    def task_paths(self, row: Row) -> set[str]:
        """Return the paths on this machine that a row's task reads, as far as they are known."""
        tasks = self._tasks.get(row.typed.eval_suite)
        if tasks is None or not self.task(row).digest:
            return set()
        return tasks.local_paths(row["task_path"], row["include_path"])

    def is_comparable(self, row: Row, framework_version: str) -> bool:
        """Return whether a task's digest that another version of the framework took counts.

        The framework's version is a part of the state if jobs use this Python. Elsewhere it only
        says that the digest here tells nothing about the one there.
        """
        ours = self.task(row).framework_version
        return not ours or self._is_here(row) or framework_version == ours

    def _read_task(self, row: Row) -> AcceptedTask:
        suite = row.typed.eval_suite
        # The catalogue of a program comes with oellm, so its tasks are known here as in the jobs.
        is_program = suite in frameworks.runnable_names() and not frameworks.is_resident(suite)
        is_ours = is_program or bool(row["include_path"]) or "/" in row["task_path"]
        if suite not in frameworks.runnable_names() or not (is_ours or self._is_here(row)):
            return _UNKNOWN
        # Without the framework, modules that a task's code imports from it are not in the digest.
        if not (framework_version := definition_version(suite)):
            return _UNKNOWN
        if suite not in self._tasks:
            self._tasks[suite] = frameworks.create_tasks(suite, self._log)
        names = row["task_path"], row["include_path"]
        try:
            digest = self._tasks[suite].task_digest(*names)
            version = self._tasks[suite].task_version(*names) if digest else ""
        # Anybody may have written the task. Its row will fail, and say why.
        except Exception:
            return _UNKNOWN
        return AcceptedTask(digest, version, framework_version) if digest else _UNKNOWN

    def _is_here(self, row: Row) -> bool:
        """Return whether jobs use the Python that this process is."""
        if self._cluster is None:
            return True
        suite = row["eval_suite"]
        if suite not in self._here:
            self._here[suite] = runs_here(self._cluster, row.typed.eval_suite)
        return self._here[suite]


def definition_version(suite: str) -> str:
    """Return the version of a framework that defines its tasks here; empty if none does."""
    program = frameworks.create_program_framework(suite)
    return program.catalogue().version if program else _installed_version(suite)


def _hub_cache(cluster: Cluster) -> str:
    """Return the hub's cache of a cluster's jobs; empty if it is not known."""
    variables = cluster.mapping("env")
    home = variables.get("HF_HOME") or cluster.text("hf_home")
    return variables.get("HF_HUB_CACHE") or (os.path.join(home, "hub") if home else "")


@functools.cache
def _installed_version(suite: str) -> str:
    """Return the version of a framework that is installed here; empty if it is not."""
    import importlib.metadata

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(suite)
    return ""
