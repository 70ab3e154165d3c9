"""lm-eval's tasks without a model: what they need, and how much work they are."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import Any

from oellm.core.log import Log
from oellm.frameworks.interface import (
    LOGLIKELIHOOD,
    LOGLIKELIHOOD_ROLLING,
    Demand,
    TaskFacts,
    count_documents,
)
from oellm.frameworks.lm_eval import environment, patches
from oellm.frameworks.lm_eval.catalog.data_sets import LmEvalDataSet
from oellm.frameworks.lm_eval.catalog.task_index import TaskIndices
from oellm.frameworks.lm_eval.catalog.task_managers import TaskManagers
from oellm.hub import data_sets

# Documents that are tried with made-up answers.
_TRIED = 2
# The seed that lm-eval itself uses for few-shot examples.
_FEWSHOT_SEED = 1234
# Errors that a real answer would meet just like a made-up one.
_MISSING = (ImportError, OSError)


class LmEvalTasks:
    """lm-eval's tasks, without a model."""

    def __init__(self, log: Log) -> None:
        self._managers = TaskManagers(TaskIndices(os.environ, log))

    def require(self, task: str, include_path: str) -> None:
        """Raise InputError, with the column, if the task, file or directory does not exist."""
        self._managers.require(task, include_path)

    def find_unknown(self, task: str, include_path: str) -> str:
        """Return that there is no such task, or an empty text (TaskManagers.find_unknown)."""
        return self._managers.find_unknown(task, include_path)

    def prepare(self) -> None:
        """Import what building a task needs."""
        environment.prepare()
        # No task may find a GPU, which could belong to somebody else.
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
        # Otherwise progress bars and advice of each task would fill the log.
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("DATASETS_VERBOSITY", "error")
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        import lm_eval.tasks  # noqa: F401

        patches.patch_libraries()

    def data_sets(self, task: str, include_path: str) -> list[LmEvalDataSet]:
        """Return the data sets of a task, group, tag or YAML file (TaskManagers.data_sets)."""
        # Builds the manager here, so that the processes forked from this one have it.
        self._managers.manager(task, include_path)
        return self._managers.data_sets(task, include_path)

    def describe_task(
        self, task: str, include_path: str, demands: list[Demand]
    ) -> list[TaskFacts | BaseException]:
        """Build a task, group or tag; return the facts for each demand, or the error.

        Raises whatever prevents building it: errors of lm-eval, of the task's code, of libraries.
        """
        manager = self._managers.manager(task, include_path)
        # Before the files are read for building: if they change in between, this is out of date.
        digest = self.task_digest(task, include_path)
        version = self.task_version(task, include_path)
        # Its code may try out its metric on a program of its own when it is imported. Answers are
        # not scored.
        runs_code = self._managers.unsafe_tasks(task, include_path)
        os.environ["HF_ALLOW_CODE_EVAL"] = "1" if runs_code else "0"
        with patches.idle_code_metric():
            found = collect_facts(manager, task, demands)
        return [
            facts._replace(task_digest=digest, task_version=version)
            if isinstance(facts, TaskFacts)
            else facts
            for facts in found
        ]

    def task_digest(self, task: str, include_path: str) -> str:
        """Return the digest of a task (TaskManagers.digest)."""
        return self._managers.digest(task, include_path)

    def local_paths(self, task: str, include_path: str) -> set[str]:
        """Return the files of a user's task (TaskManagers.local_paths)."""
        return self._managers.local_paths(task, include_path)

    def task_version(self, task: str, include_path: str) -> str:
        """Return the version of a task (TaskManagers.version)."""
        return self._managers.version(task, include_path)


def list_names(log: Log) -> list[str]:
    """Return the names of the tasks, groups and tags that come with lm-eval.

    Raises MachineError if lm-eval is not installed. A first call may scan its files.
    """
    return sorted(TaskIndices(os.environ, log).shipped().entries)


def list_known_names() -> list[str]:
    """Return the same names if they are in the cache, else none."""
    index = TaskIndices(os.environ, lambda _: None).known_shipped()
    return sorted(index.entries) if index else []


def create_tasks(log: Log) -> LmEvalTasks:
    """Return lm-eval's tasks."""
    return LmEvalTasks(log)


def collect_facts(
    manager: Any, task: str, demands: list[Demand]
) -> list[TaskFacts | BaseException]:
    """Build a task with a TaskManager; return the facts for each demand, or the error."""
    revisions: list[str] = []
    with data_sets.record_commits(revisions):
        members = manager.load([task])["tasks"]
    revision = " ".join(sorted(set(revisions)))
    shots = {name: member.get_config("num_fewshot") for name, member in members.items()}
    return [_try_demand(members, shots, demand=demand, revision=revision) for demand in demands]


def _try_demand(
    members: Mapping[str, Any], shots: Mapping[str, int | None], demand: Demand, revision: str
) -> TaskFacts | BaseException:
    requests: Counter[str] = Counter()
    n_docs = 0
    try:
        for name, member in members.items():
            _set_shots(member, shots[name], demand.n_shot)
            _try_task(member)
            n_docs += _count_documents(member, demand.limit)
            requests += _count_requests(member, demand.limit)
    # Anybody may have written a task's code; one task raises SystemExit.
    except (Exception, SystemExit) as error:
        return error
    return TaskFacts(n_docs, dict(sorted(requests.items())), revision)


def _set_shots(task: Any, own: int | None, asked: int | None) -> None:
    """Set the few-shot examples as lm-eval's evaluator does; a task that fixes 0 keeps 0."""
    if asked is not None and own != 0:
        task.set_config(key="num_fewshot", value=asked)
    else:
        task.set_config(key="num_fewshot", value=own or 0)
    task.set_fewshot_seed(seed=_FEWSHOT_SEED)


def _try_task(task: Any) -> None:
    """Raise whatever would prevent asking and scoring the first documents."""
    _require_metrics(task)
    task.build_all_requests(limit=_TRIED, rank=0, world_size=1)
    if getattr(task, "UNSAFE_CODE", False):
        # Its metric runs answers, and only a sandbox may.
        return
    try:
        _score_made_up_answers(task)
    except Exception as error:
        if _is_about_resources(error):
            raise


def _is_about_resources(error: BaseException | None) -> bool:
    """Return whether the cause is a missing package or file, or the network."""
    while error is not None:
        # NLTK raises a plain LookupError; a KeyError is the fault of the made-up answer.
        if isinstance(error, _MISSING) or type(error) is LookupError:
            return True
        error = error.__cause__ or error.__context__
    return False


def _require_metrics(task: Any) -> None:
    """Raise whatever prevents loading a metric, which lm-eval only logs."""
    config = getattr(task, "config", None)
    if getattr(config, "process_results", None) is not None:
        return
    for name, function in patches.metric_functions(task).items():
        if function is None:
            import evaluate

            evaluate.load(name)


def _score_made_up_answers(task: Any) -> None:
    documents: dict[int, list[Any]] = {}
    for instance in task.instances:
        instance.resps = [_made_up_answer(instance)] * instance.repeats
        documents.setdefault(instance.doc_id, []).append(instance)
    task.apply_filters()
    scores: dict[str, list[Any]] = {}
    for name in next(iter(task.instances)).filtered_resps:
        for instances in documents.values():
            answers = [instance.filtered_resps[name] for instance in instances]
            for metric, score in task.process_results(instances[0].doc, answers).items():
                scores.setdefault(metric, []).append(score)
    aggregations = task.aggregation()
    for metric, values in scores.items():
        if metric in aggregations:
            aggregations[metric](values)


def _made_up_answer(instance: Any) -> Any:
    if instance.request_type == LOGLIKELIHOOD:
        return (-1.0 - instance.idx, False)
    return -10.0 if instance.request_type == LOGLIKELIHOOD_ROLLING else "The answer is 1."


def _count_documents(task: Any, limit: float | None) -> int:
    return count_documents(len(task.eval_docs), limit)


def _count_requests(task: Any, limit: float | None) -> Counter[str]:
    """Return the number of requests of each type."""
    kinds = Counter(instance.request_type for instance in task.instances)
    wanted = _count_documents(task, limit)
    if getattr(task, "OUTPUT_TYPE", None) != "multiple_choice" or not hasattr(
        task, "doc_to_choice"
    ):
        tried = len({instance.doc_id for instance in task.instances})
        repeats = task.instances[0].repeats or 1
        return Counter({kind: count * repeats * wanted // tried for kind, count in kinds.items()})
    # Documents differ in their number of choices; mutual information asks for each choice twice.
    per_choice = 2 if "acc_mutual_info" in patches.metric_functions(task) else 1
    choices = sum(len(task.doc_to_choice(doc)) for doc in islice(task.eval_docs, wanted))
    return Counter({LOGLIKELIHOOD: choices * per_choice})
