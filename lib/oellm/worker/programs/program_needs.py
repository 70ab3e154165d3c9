"""What rows of programs need of the shared cache: whether it is there, and where."""

from __future__ import annotations

import os
from pathlib import Path

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.frameworks.program import Need, NeededDataSet, NeededFile
from oellm.hub import cached_commits
from oellm.hub.needed_files import needed_path, require_file
from oellm.manifest.rows import Row
from oellm.runs.contents import Contents
from oellm.task_sources.cache import find_holder, source_directories
from oellm.task_sources.errors import SourceError
from oellm.worker.programs.stage_batch import DueStage, StageBatch


class ProgramNeeds:
    """Finds what programs need below the HF_HOME of a cluster.

    Attributes:
        hf_home: That directory.
    """

    def __init__(self, cluster: Cluster) -> None:
        home = cluster.text("hf_home") or os.environ.get("HF_HOME", "")
        self.hf_home = os.path.abspath(os.path.expanduser(home or "~/.cache/huggingface"))

    def find_files(self, batch: StageBatch) -> dict[str, Path]:
        """Return the files that the rows of a batch need, by name; raises FileNotFoundError."""
        found: dict[str, Path] = {}
        for need in list_needs(batch):
            if isinstance(need, NeededFile):
                path = needed_path({"HF_HOME": self.hf_home}, need.name, need.sha256)
                if path.is_file():
                    # Anybody of a group may have put it there.
                    require_file(path, need.sha256)
                found[need.name] = path
        for row in batch.subjects:
            found |= self._own_problem_files(row)
        for name, path in found.items():
            if not path.is_file():
                raise FileNotFoundError(f"{name} is not in the cache: {path}; run oe-fetch")
        return found

    def _own_problem_files(self, row: Row) -> dict[str, Path]:
        """Return the user's own problem files of a row's task, by name."""
        framework = frameworks.create_program_framework(row.typed.eval_suite)
        if framework is None or not row["include_path"]:
            return {}
        try:
            directories = source_directories(row["include_path"], {"HF_HOME": self.hf_home})
            return {
                name: Path(directory, name)
                for name in framework.problem_files(row.typed.task_path)
                if (directory := find_holder(directories, name))
            }
        except SourceError as error:
            raise FileNotFoundError(str(error)) from None

    def cached_data(self, due: DueStage) -> Contents:
        """Return the commits of the data sets that a row's program would load."""
        commits = {
            need.name: cached_commits.find_commit(self.hf_home, need.name, need.config)
            for need in due.program.needs(due.row)
            if isinstance(need, NeededDataSet)
        }
        known = (f"{name}@{commit}" for name, commit in commits.items() if commit)
        return Contents(data=" ".join(known))


def list_needs(batch: StageBatch) -> list[Need]:
    """Return what the rows of a batch need."""
    return [need for row in batch.subjects for need in batch.first.program.needs(row)]
