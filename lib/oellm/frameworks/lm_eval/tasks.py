"""lm-evaluation-harness: its tasks without a model, for oe-fetch."""

from __future__ import annotations

import logging
import os

from oellm.frameworks import Demand, TaskFacts
from oellm.frameworks.lm_eval import environment
from oellm.frameworks.lm_eval.task_managers import DataSet, task_managers


class Tasks:
    """lm-eval's tasks, without a model."""

    def __init__(self) -> None:
        self._managers = task_managers()

    def prepare(self) -> None:
        """Import what building a task needs."""
        environment.prepare()
        # No task is to find a GPU that belongs to somebody else.
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
        # Building a task for a look at it would fill the log with bars and advice.
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("DATASETS_VERBOSITY", "error")
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        import lm_eval.tasks  # noqa: F401

        environment.mend()

    def data_sets(self, task: str, include_path: str) -> list[DataSet]:
        """Return the data sets of a task, group, tag or YAML file (see TaskManagers.data_sets)."""
        # Made here, so that processes forked from this one have it.
        self._managers.manager(task, include_path)
        return self._managers.data_sets(task, include_path)

    def facts(
        self, task: str, include_path: str, demands: list[Demand]
    ) -> list[TaskFacts | BaseException]:
        """Build a task and return the facts for each demand (see check.facts)."""
        from oellm.frameworks.lm_eval import check

        return check.facts(self._managers.manager(task, include_path), task, demands)
