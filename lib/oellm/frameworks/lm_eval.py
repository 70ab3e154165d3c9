"""lm-evaluation-harness: loading models, evaluating rows, reading its results."""

from __future__ import annotations

import functools
import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from oellm.errors import MachineError
from oellm.frameworks import Demand, Evaluation, TaskFacts, hub_data_sets
from oellm.frameworks.lm_eval_data import DataSet, TaskManagers
from oellm.hub import COMPANIONS
from oellm.manifest import Row
from oellm.models import looks_local
from oellm.shards import ModelKey
from oellm.task_index import TaskIndices

# Set by launchers; a single process that finds them waits for others, or writes nothing.
_DISTRIBUTED = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
# The first release whose TaskManager is the one that is used here.
_OLDEST = (0, 4, 12)
_VERSIONED = ("lm_eval", "torch", "transformers", "datasets")
# How a backend is told to use several GPUs: an argument, and its value unless it is their number.
_SPLITTING: dict[str, tuple[str, Any]] = {
    "hf": ("parallelize", True),
    "vllm": ("tensor_parallel_size", None),
}
# Templates that are kept; a task has some five.
_TEMPLATES = 512
_NO_METRICS = ("alias", "name", "sample_len", "sample_count", "bypass")


class Tasks:
    """lm-eval's tasks, without a model."""

    def __init__(self) -> None:
        self._managers = _task_managers()

    def prepare(self) -> None:
        """Import what building a task needs."""
        _prepare_environment()
        # No task is to find a GPU that belongs to somebody else.
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
        # Building a task for a look at it would fill the log with bars and advice.
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("DATASETS_VERBOSITY", "error")
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        import lm_eval.tasks  # noqa: F401

        _keep_templates()
        hub_data_sets.install()

    def data_sets(self, task: str, include_path: str) -> list[DataSet]:
        """Return the data sets of a task, group, tag or YAML file (see TaskManagers.data_sets)."""
        # Made here, so that processes forked from this one have it.
        self._managers.manager(task, include_path)
        return self._managers.data_sets(task, include_path)

    def facts(
        self, task: str, include_path: str, demands: list[Demand]
    ) -> list[TaskFacts | BaseException]:
        """Build a task and return the facts for each demand (see lm_eval_check.facts)."""
        from oellm.frameworks import lm_eval_check

        return lm_eval_check.facts(self._managers.manager(task, include_path), task, demands)


class Session:
    """One process's use of lm-eval; keeps the loaded model and the task indices."""

    def __init__(self) -> None:
        self._model: Any = None
        self._key: ModelKey | None = None
        # The arguments of the loaded model, as lm-eval's command line writes them into results.
        self._arguments = ""
        self._managers = _task_managers()

    def prepare(self) -> None:
        """Import lm-eval with the environment that it needs."""
        _prepare_environment()
        import lm_eval.evaluator
        import lm_eval.models  # noqa: F401

        _keep_templates()
        hub_data_sets.install()

    def load(self, key: ModelKey, row: Row) -> float:
        """Load the row's model unless it is loaded; return the seconds that took."""
        if key == self._key:
            return 0.0
        from lm_eval.api.registry import get_model

        self._unload()
        started = time.perf_counter()
        arguments: dict[str, Any] = {"pretrained": row.model.path, **_typed(row.model_arguments)}
        if row["model_revision"]:
            arguments |= {"revision": row["model_revision"], **_companions(arguments)}
        if row["dtype"]:
            arguments.setdefault("dtype", row["dtype"])
        if row.value("trust_remote_code"):
            arguments.setdefault("trust_remote_code", True)
        arguments |= _split(key.backend, row.value("tp") or 1)
        batch_size = row.value("batch_size") or 1
        self._model = get_model(key.backend).create_from_arg_obj(
            # cuda:0 is what lm-eval's command line asks for; without a GPU it means the CPU.
            {"device": "cuda:0", **arguments},
            {"batch_size": batch_size},
        )
        self._key = key
        self._arguments = ",".join(f"{name}={value}" for name, value in arguments.items())
        return time.perf_counter() - started

    def index_tasks(self, row: Row) -> float:
        """Index the tasks that the row can name, once; return the seconds that took.

        Raises InputError for a task that lm-eval does not have.
        """
        started = time.perf_counter()
        self._managers.manager(row["task_path"], row["include_path"])
        return time.perf_counter() - started

    def evaluate(self, row: Row) -> Evaluation:
        """Evaluate one row on the loaded model, by task name; raises whatever lm-eval raises."""
        import lm_eval.evaluator

        task = row["task_path"]
        batch_size = row.value("batch_size") or 1
        _set_batch_size(self._model, batch_size)
        chat_template = row.value("apply_chat_template") or False
        multiturn = row.value("fewshot_as_multiturn")
        runs_code = row.value("confirm_run_unsafe_code")
        # What the metric that runs code asks for, and no other row may find.
        os.environ["HF_ALLOW_CODE_EVAL"] = "1" if runs_code else "0"
        native = lm_eval.evaluator.simple_evaluate(
            model=self._model,
            tasks=[task],
            num_fewshot=row.value("n_shot"),
            batch_size=batch_size,
            limit=row.value("limit"),
            system_instruction=row["system_instruction"] or None,
            apply_chat_template=chat_template,
            # As the command line of lm-eval has it, not its Python interface.
            fewshot_as_multiturn=bool(chat_template) if multiturn is None else multiturn,
            gen_kwargs=_typed(row.value("gen_kwargs") or {}) or None,
            confirm_run_unsafe_code=runs_code,
            task_manager=self._managers.manager(task, row["include_path"]),
            **_seeds(row),
        )
        samples = native.pop("samples")
        native["config"] |= {
            "model": self._key.backend if self._key else "",
            "model_args": self._arguments,
        }
        native["task_hashes"] = _task_hashes(samples)
        return Evaluation(native, metrics(native, task), samples, _remarks(native, row))

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that a score depends on."""
        found = {name: sys.modules.get(name) for name in _VERSIONED}
        versions = {name: getattr(module, "__version__", None) for name, module in found.items()}
        if versions["lm_eval"] is None:
            import importlib.metadata

            versions["lm_eval"] = importlib.metadata.version("lm_eval")
        return {name: str(version) for name, version in versions.items() if version}

    def _unload(self) -> None:
        import gc

        import torch

        self._model = self._key = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _task_managers() -> TaskManagers:
    return TaskManagers(TaskIndices(os.environ, logging.getLogger("oellm").warning))


def _prepare_environment() -> None:
    _require_version()
    for variable in _DISTRIBUTED:
        os.environ.pop(variable, None)
    # Bootstrapping in worker processes would fork after CUDA is up and ignore the job's cores.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _require_version() -> None:
    """Raise MachineError for a release that lacks what is called here, before it is imported."""
    import importlib.metadata

    version = importlib.metadata.version("lm_eval")
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise MachineError(
            f"lm-eval {version} is too old, {oldest} is the first that oellm works with: "
            "use another image or environment"
        )


def _keep_templates() -> None:
    """Compile each prompt template once: lm-eval does it anew for each document, 1 ms each time."""
    import lm_eval.utils

    compiling = lm_eval.utils.env.from_string
    if not hasattr(compiling, "cache_info"):
        lm_eval.utils.env.from_string = functools.lru_cache(_TEMPLATES)(compiling)


def metrics(native: dict[str, Any], requested: str) -> list[dict[str, Any]]:
    """Return the normalised metrics of a result of lm-eval 0.4.3 or later.

    Each has task, group, n_shot, metric, filter, value, stderr, higher_is_better and n_samples
    (schema.json, table `metric`). `requested` is the task, group or tag that was asked for.
    """
    found = []
    for task, values in native["results"].items():
        leaves = list(_leaves(native, task))
        shots = {native["n-shot"][leaf] for leaf in leaves if leaf in native["n-shot"]}
        n_shot = shots.pop() if len(shots) == 1 else None
        counted = [native["n-samples"][leaf] for leaf in leaves if leaf in native["n-samples"]]
        for key, value in values.items():
            name, _, filter_name = key.partition(",")
            if name in _NO_METRICS or name.endswith("_stderr") or not _is_number(value):
                continue
            stderr = values.get(f"{name}_stderr,{filter_name}")
            direction = native["higher_is_better"].get(task, {}).get(name)
            found.append(
                {
                    "task": task,
                    "group": "" if len(native["results"]) == 1 or task == requested else requested,
                    "n_shot": n_shot,
                    "metric": name,
                    "filter": filter_name,
                    "value": value,
                    "stderr": stderr if _is_number(stderr) and math.isfinite(stderr) else None,
                    "higher_is_better": direction,
                    "n_samples": sum(int(count["effective"]) for count in counted) or None,
                }
            )
    return found


def _leaves(native: dict[str, Any], task: str) -> Iterator[str]:
    """Yield the tasks of a group, through its subgroups; the task itself where it is no group."""
    members = native.get("group_subtasks", {}).get(task)
    if not members:
        yield task
    for member in members or []:
        yield from _leaves(native, member)


def _companions(arguments: dict[str, Any]) -> dict[str, str]:
    """Return where the cache has the repositories that model arguments name besides the model.

    By their names, lm-eval would ask for the model's commit in them too.
    """
    from huggingface_hub import snapshot_download

    return {
        name: snapshot_download(arguments[name], local_files_only=True)
        for name in COMPANIONS
        if name in arguments and not looks_local(arguments[name])
    }


def _typed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as lm-eval's command line takes them: text becomes what it says."""
    from lm_eval.utils import handle_arg_string

    return {
        name: handle_arg_string(value) if isinstance(value, str) else value
        for name, value in arguments.items()
    }


def _split(backend: str, gpus: int) -> dict[str, Any]:
    """Return the arguments that split a model over GPUs; raises ValueError where that cannot be."""
    if gpus == 1:
        return {}
    import torch

    if gpus > torch.cuda.device_count():
        raise ValueError(f"tp: {gpus} GPUs are asked for, {torch.cuda.device_count()} are here")
    if backend not in _SPLITTING:
        raise ValueError(f"tp: the backend {backend} cannot split a model over GPUs")
    name, value = _SPLITTING[backend]
    return {name: gpus if value is None else value}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _seeds(row: Row) -> dict[str, int | None]:
    names = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    seeds = row.value("seed")
    return dict(zip(names, seeds, strict=True)) if seeds else {}


def _set_batch_size(model: Any, batch_size: int | str) -> None:
    """Give a loaded model another batch size; lm-eval only records the one passed to a call."""
    name, _, schedule = str(batch_size).partition(":")
    value: int | str = int(name) if name.isdecimal() else name
    if hasattr(model, "batch_size_per_gpu"):
        model.batch_size_per_gpu = value
        model.batch_schedule = float(schedule or 1)
        model.batch_sizes = {}
    else:
        model.batch_size = value


def _task_hashes(samples: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Return the digest over documents, prompts and targets that lm-eval writes for each task."""
    from lm_eval.utils import hash_string

    return {
        task: hash_string(
            "".join(doc["doc_hash"] + doc["prompt_hash"] + doc["target_hash"] for doc in documents)
        )
        for task, documents in samples.items()
    }


def _remarks(native: dict[str, Any], row: Row) -> list[str]:
    asked = row.value("n_shot")
    return [
        f"{task} fixes its shots: {used} were used, {asked} were asked for"
        for task, used in native["n-shot"].items()
        if asked is not None and used != asked
    ]
