"""lm-evaluation-harness: its tasks without a model, for oe-fetch."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from oellm.frameworks.interface import Demand, NotPermittedError, TaskFacts
from oellm.frameworks.lm_eval import environment, patches
from oellm.frameworks.lm_eval.task_managers import DataSet, task_managers
from oellm.hub.data_sets import recorded


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

        patches.mend()

    def data_sets(self, task: str, include_path: str) -> list[DataSet]:
        """Return the data sets of a task, group, tag or YAML file (see TaskManagers.data_sets)."""
        # Made here, so that processes forked from this one have it.
        self._managers.manager(task, include_path)
        return self._managers.data_sets(task, include_path)

    def facts(
        self, task: str, include_path: str, demands: list[Demand]
    ) -> list[TaskFacts | BaseException]:
        """Build a task and return the facts for each demand (see check.facts)."""
        return facts(self._managers.manager(task, include_path), task, demands)


# Documents whose made-up answers are scored.
_TRIED = 2


# Where lm-eval itself starts the generator of few-shot examples.
_FEWSHOT_SEED = 1234


# Reasons for which scoring an answer that makes no sense may fail, but a real one would too.
_MISSING = (ImportError, OSError)


def facts(manager: Any, task: str, demands: list[Demand]) -> list[TaskFacts | BaseException]:
    """Build a task, group or tag; return what each demand on it takes, or what is in its way.

    Raises what keeps it from being built: what lm-eval, the task's code and the libraries raise.
    """
    with recorded() as revisions:
        members = manager.load([task])["tasks"]
    revision = " ".join(sorted(set(revisions)))
    shots = {name: member.get_config("num_fewshot") for name, member in members.items()}
    return [_fact(members, shots, demand, revision) for demand in demands]


def _fact(
    members: Mapping[str, Any], shots: Mapping[str, int | None], demand: Demand, revision: str
) -> TaskFacts | BaseException:
    requests: Counter[str] = Counter()
    n_docs = 0
    try:
        for name, member in members.items():
            _require_permission(member, demand)
            _set_shots(member, shots[name], demand.n_shot)
            _try(member)
            n_docs += _documents(member, demand.limit)
            requests += _requests(member, demand.limit)
    # A task's code is anybody's; one even raises SystemExit.
    except (Exception, SystemExit) as error:
        return error
    return TaskFacts(n_docs, dict(sorted(requests.items())), revision)


def _require_permission(task: Any, demand: Demand) -> None:
    if getattr(task, "UNSAFE_CODE", False) and not demand.runs_unsafe_code:
        raise NotPermittedError(
            f"{task.task_name} runs code that the model wrote: set confirm_run_unsafe_code to true"
        )


def _set_shots(task: Any, own: int | None, asked: int | None) -> None:
    """Set the few-shot examples as the evaluator does; a task that fixes none keeps them."""
    if asked is not None and own != 0:
        task.set_config(key="num_fewshot", value=asked)
    else:
        task.set_config(key="num_fewshot", value=own or 0)
    task.set_fewshot_seed(seed=_FEWSHOT_SEED)


def _try(task: Any) -> None:
    """Raise what would keep the first documents from being asked and scored."""
    _check_metrics(task)
    task.build_all_requests(limit=_TRIED, rank=0, world_size=1)
    try:
        _score(task)
    except Exception as error:
        if _is_about_resources(error):
            raise


def _is_about_resources(error: BaseException | None) -> bool:
    """Return whether a package, a file or the network was missing, in whatever it is wrapped."""
    while error is not None:
        # NLTK raises a plain LookupError; a KeyError is the made-up answer's fault.
        if isinstance(error, _MISSING) or type(error) is LookupError:
            return True
        error = error.__cause__ or error.__context__
    return False


def _check_metrics(task: Any) -> None:
    """Raise what keeps a metric from being loaded: lm-eval only logs it, and fails at the end."""
    config = getattr(task, "config", None)
    if getattr(config, "process_results", None) is not None:
        return
    for name, function in getattr(task, "_metric_fn_list", {}).items():
        if function is None:
            import evaluate

            evaluate.load(name)


def _score(task: Any) -> None:
    documents: dict[int, list[Any]] = {}
    for instance in task.instances:
        instance.resps = [_answer(instance)] * instance.repeats
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


def _answer(instance: Any) -> Any:
    if instance.request_type == "loglikelihood":
        return (-1.0 - instance.idx, False)
    return -10.0 if instance.request_type == "loglikelihood_rolling" else "The answer is 1."


def _documents(task: Any, limit: float | None) -> int:
    """Return how many documents the evaluator takes: all, the first ones, or a share of them."""
    count = len(task.eval_docs)
    if limit is None:
        return count
    return min(count, math.ceil(count * limit) if limit < 1 else int(limit))


def _requests(task: Any, limit: float | None) -> Counter[str]:
    """Return the number of requests of each type."""
    kinds = Counter(instance.request_type for instance in task.instances)
    wanted = _documents(task, limit)
    if getattr(task, "OUTPUT_TYPE", None) != "multiple_choice" or not hasattr(
        task, "doc_to_choice"
    ):
        tried = len({instance.doc_id for instance in task.instances})
        repeats = task.instances[0].repeats or 1
        return Counter({kind: count * repeats * wanted // tried for kind, count in kinds.items()})
    # Documents differ in how many choices they have; mutual information asks for each twice.
    twice = 2 if "acc_mutual_info" in task._metric_fn_list else 1
    choices = sum(len(task.doc_to_choice(doc)) for doc in _first(task.eval_docs, wanted))
    return Counter({"loglikelihood": choices * twice})


def _first(documents: Any, count: int) -> Iterator[Mapping[str, Any]]:
    for number, document in enumerate(documents):
        if number == count:
            return
        yield document
