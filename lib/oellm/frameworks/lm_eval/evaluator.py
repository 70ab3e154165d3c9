"""lm-evaluation-harness: one row, from its task to its metrics, with the model elsewhere."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from oellm.frameworks.interface import Evaluation, ModelClient
from oellm.frameworks.lm_eval import environment, metrics, patches
from oellm.frameworks.lm_eval.arguments import typed
from oellm.frameworks.lm_eval.task_managers import task_managers
from oellm.hub import data_sets
from oellm.manifest.rows import Row

if TYPE_CHECKING:
    from oellm.frameworks.lm_eval.messages import Seeds
    from oellm.frameworks.lm_eval.remote_model import RemoteModel


class Evaluator:
    """One process's use of lm-eval's tasks; keeps their indices."""

    def __init__(self) -> None:
        self._managers = task_managers()

    def prepare(self, rows: Sequence[Row]) -> None:
        """Import lm-eval with the environment that it needs."""
        environment.prepare()
        import lm_eval.evaluator

        if any(row.value("backend") == "hf" for row in rows):
            # Its tokenising happens here.
            import lm_eval.models.huggingface  # noqa: F401

        patches.mend()

    def evaluate(self, row: Row, model: ModelClient, bootstrap_iters: int) -> Evaluation:
        """Evaluate one row by its task's name; raises whatever lm-eval raises.

        Raises InputError for a task that lm-eval does not have.
        """
        from oellm.frameworks.lm_eval.remote_model import RemoteModel

        started = time.perf_counter()
        manager = _Loading(self._managers.manager(row["task_path"], row["include_path"]))
        index_s = time.perf_counter() - started
        batch_size = row.value("batch_size") or 1
        remote = RemoteModel(model, batch_size, _generator_seeds(row), manager.tasks)
        with data_sets.recorded() as revisions:
            native = _evaluated(row, remote, manager, bootstrap_iters)
        timing = {"task_index_s": index_s, **_timing(manager, remote, time.perf_counter())}
        samples = native.pop("samples")
        native["config"] |= {"model": remote.handle.backend, "model_args": remote.handle.arguments}
        native |= remote.handle.tokenizer_info
        native["task_hashes"] = metrics.task_hashes(samples)
        metrics.require_complete(native, samples, row)
        staged_s = remote.handle.staged_s
        return Evaluation(
            native,
            metrics.metrics(native, row["task_path"]),
            samples,
            metrics.remarks(native, row),
            timing,
            _usage(remote, native),
            {
                "versions": environment.versions(),
                "model": remote.handle.identity,
                "accelerator": remote.handle.accelerator,
                "datasets": _data_sets(manager.tasks, revisions),
                "chat_template_sha256": _digest_of_template(remote, row),
                **({} if staged_s is None else {"staged_s": round(staged_s, 6)}),
            },
        )


class _Loading:
    """A TaskManager that notes what it loads, and how long that takes."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self.tasks: dict[str, Any] = {}
        # Of time.perf_counter.
        self.started = self.ended = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def load(self, *arguments: Any, **options: Any) -> Any:
        """Build tasks."""
        self.started = time.perf_counter()
        loaded = self._manager.load(*arguments, **options)
        self.tasks.update(loaded["tasks"])
        self.ended = time.perf_counter()
        return loaded


def _evaluated(
    row: Row, remote: RemoteModel, manager: _Loading, bootstrap_iters: int
) -> dict[str, Any]:
    """Return lm-eval's result, with the samples."""
    import lm_eval.evaluator
    import torch.utils.collect_env

    # lm-eval asks pip for the packages of this machine in every call: here the model's process has
    # asked, once.
    torch.utils.collect_env.get_pretty_env_info = lambda: remote.replies[0].environment
    chat_template = row.value("apply_chat_template") or False
    multiturn = row.value("fewshot_as_multiturn")
    runs_code = row.value("confirm_run_unsafe_code")
    # What the metric that runs code asks for, and no other row may find.
    os.environ["HF_ALLOW_CODE_EVAL"] = "1" if runs_code else "0"
    native: dict[str, Any] | None = lm_eval.evaluator.simple_evaluate(
        model=remote,
        tasks=[row["task_path"]],
        num_fewshot=row.value("n_shot"),
        batch_size=row.value("batch_size") or 1,
        limit=row.value("limit"),
        system_instruction=row["system_instruction"] or None,
        apply_chat_template=chat_template,
        # As the command line of lm-eval has it, not its Python interface.
        fewshot_as_multiturn=bool(chat_template) if multiturn is None else multiturn,
        gen_kwargs=typed(row.value("gen_kwargs") or {}) or None,
        confirm_run_unsafe_code=runs_code,
        bootstrap_iters=bootstrap_iters,
        task_manager=manager,
        **_seeds(row),
    )
    if native is None or not remote.replies:
        raise ValueError("lm-eval asked the model nothing")
    return native


def _seeds(row: Row) -> dict[str, int | None]:
    names = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    seeds = row.value("seed")
    return dict(zip(names, seeds, strict=True)) if seeds else {}


def _generator_seeds(row: Row) -> Seeds:
    """Return where the generators begin in the model's process, as lm-eval sets them."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    seeds = row.value("seed") or (DEFAULT_RANDOM_SEED, DEFAULT_OTHER_SEED, DEFAULT_OTHER_SEED)
    return seeds[0], seeds[1], seeds[2]


def _timing(manager: _Loading, remote: RemoteModel, ended: float) -> dict[str, float]:
    scoring_s = sum(reply.usage.seconds for reply in remote.replies)
    asking_s = remote.answered_at - remote.asked_at
    return {
        "task_build_s": manager.ended - manager.started,
        "requests_s": remote.asked_at - manager.ended - remote.early_wait_s,
        "tokenize_s": remote.tokenize_s,
        "wait_s": max(0.0, asking_s - scoring_s - remote.tokenize_s) + remote.early_wait_s,
        "scoring_s": scoring_s,
        "metrics_s": ended - remote.answered_at,
    }


def _usage(remote: RemoteModel, native: dict[str, Any]) -> dict[str, Any]:
    parts = [reply.usage for reply in remote.replies]
    seconds = sum(part.seconds for part in parts)
    requests, kept = sum(part.requests for part in parts), sum(part.kept for part in parts)
    tokens = sum(part.tokens for part in parts)
    documents = sum(int(count["effective"]) for count in native["n-samples"].values())
    # Of documents that an earlier attempt had answered in part no rate can be told.
    answered = documents if seconds and not kept else None
    return {
        "documents": documents,
        "documents_per_s": round(answered / seconds, 3) if answered else None,
        "requests": requests,
        "requests_kept": kept,
        "requests_per_s": round((requests - kept) / seconds, 3) if seconds else None,
        "tokens": tokens or None,
        "tokens_per_s": round(tokens / seconds, 3) if tokens and seconds else None,
        "batch_size": parts[-1].batch_size,
        "peak_gpu_bytes": max(part.peak_bytes for part in parts) or None,
    }


def _data_sets(tasks: dict[str, Any], revisions: list[str]) -> list[dict[str, Any]]:
    """Return the data sets of tasks, each once: their commits, and fingerprints of their splits."""
    commits = dict(revision.split("@", 1) for revision in revisions)
    found: dict[str, dict[str, Any]] = {}
    for task in tasks.values():
        path = str(getattr(task.config, "dataset_path", "") or "")
        splits: Any = getattr(task, "dataset", None)
        fingerprints = {
            str(split): str(getattr(data, "_fingerprint", ""))
            for split, data in (splits.items() if hasattr(splits, "items") else ())
        }
        entry = {
            "path": path,
            "name": getattr(task.config, "dataset_name", None),
            "revision": commits.get(path, ""),
            "fingerprints": fingerprints,
        }
        found.setdefault(repr(entry), entry)
    return list(found.values())


def _digest_of_template(remote: RemoteModel, row: Row) -> str:
    asked = row.value("apply_chat_template")
    if not asked:
        return ""
    return hashlib.sha256((remote.chat_template(asked) or "").encode()).hexdigest()
