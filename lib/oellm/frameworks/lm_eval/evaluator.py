"""lm-eval's evaluation of one row, from the task to its metrics; the model is elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oellm.core.log import Log
from oellm.frameworks.interface import (
    ChangedDataError,
    Evaluation,
    Generation,
    ModelClient,
    NotPermittedError,
)
from oellm.frameworks.lm_eval import environment, metrics, patches
from oellm.frameworks.lm_eval.arguments import with_types
from oellm.frameworks.lm_eval.catalog.task_index import TaskIndices
from oellm.frameworks.lm_eval.catalog.task_managers import TaskManagers
from oellm.frameworks.lm_eval.code_tasks.recorded_answers import AllAnsweredError, RecordingClient
from oellm.hub import data_sets
from oellm.manifest.rows import Row
from oellm.runs.contents import Contents, find_changes
from oellm.runs.environment import TaskState
from oellm.runs.result_record import Facts, RowTiming, RowUsage

if TYPE_CHECKING:
    from oellm.frameworks.lm_eval.messages import Seeds
    from oellm.frameworks.lm_eval.remote_model import RemoteModel


class LmEvalEvaluator:
    """One process's use of lm-eval's tasks; keeps their indices.

    With `runs_model_code`, tasks may run code that a model wrote, as they may in a sandbox.
    """

    def __init__(self, log: Log, *, runs_model_code: bool = False) -> None:
        self._log = log
        self._runs_model_code = runs_model_code
        self._managers = TaskManagers(TaskIndices(os.environ, log))

    def prepare(self, rows: Sequence[Row]) -> None:
        """Import lm-eval in the environment that it needs, and read the indices of its tasks."""
        environment.prepare()
        import lm_eval.evaluator

        if any(row.value("backend") == "hf" for row in rows):
            # For tokenising in this process.
            import lm_eval.models.huggingface  # noqa: F401

        patches.patch_libraries()
        for task, include_path in dict.fromkeys((r["task_path"], r["include_path"]) for r in rows):
            self._managers.preload(task, include_path)

    def evaluate(self, row: Row, model: ModelClient, bootstrap_iters: int) -> Evaluation:
        """Evaluate one row by the name of its task; raises whatever lm-eval raises.

        Raises InputError if lm-eval does not have the task, and NotPermittedError if it runs code
        that a model wrote and this process may not.
        """
        self._require_permission(row)
        asked = _Asked(row, model, self._managers)
        # The metric that runs code reads this.
        os.environ["HF_ALLOW_CODE_EVAL"] = "1" if self._runs_model_code else "0"
        with data_sets.record_commits(asked.revisions):
            native = _run_lm_eval(asked, bootstrap_iters)
        remote = asked.remote
        samples = native.pop("samples")
        native["config"] |= {"model": remote.handle.backend, "model_args": remote.handle.arguments}
        native |= remote.handle.tokenizer_info
        native["task_hashes"] = metrics.compute_task_hashes(samples)
        metrics.require_complete(native, samples, row)
        found = metrics.read_task_scores(native, row)
        n_documents = sum(int(count["effective"]) for count in native["n-samples"].values())
        state = found.states.get(row["task_path"], TaskState())
        return Evaluation(
            native=native,
            scores=found.scores,
            samples=samples,
            remarks=found.remarks,
            timing=asked.timing(time.perf_counter()),
            usage=_usage(remote, n_documents),
            provenance=asked.provenance(),
            contents=asked.contents(state.version),
            environment=environment.describe_environment(remote.handle),
            tasks=found.states,
        )

    def _require_permission(self, row: Row) -> None:
        unsafe = self._managers.unsafe_tasks(row["task_path"], row["include_path"])
        if unsafe and not self._runs_model_code:
            raise NotPermittedError(
                f"{unsafe[0]} runs code that the model wrote, which needs a second stage: run "
                "oe-render again where lm-eval knows the task"
            )

    def generate(self, row: Row, model: ModelClient, output: Path) -> Generation:
        """Have the model answer one row, and record the answers in a directory.

        Raises what `evaluate` raises until the model has answered.
        """
        recording = RecordingClient(model, output, self._log)
        asked = _Asked(row, recording, self._managers)
        # For a task that tries out its metric when it is loaded; no answer is scored here.
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"
        with (
            data_sets.record_commits(asked.revisions),
            patches.idle_code_metric(),
            contextlib.suppress(AllAnsweredError),
        ):
            _run_lm_eval(asked, bootstrap_iters=0)
            raise ValueError("lm-eval asked the model less than its tasks said")
        asked.remote.replies[:] = recording.replies
        asked.remote.answered_at = answered = time.perf_counter()
        return Generation(
            timing=asked.timing(answered),
            usage=_usage(asked.remote, asked.count_documents()),
            provenance=asked.provenance(),
            contents=asked.contents(self._managers.version(row["task_path"], row["include_path"])),
            environment=environment.describe_environment(asked.remote.handle),
        )


def create_evaluator(log: Log) -> LmEvalEvaluator:
    """Return what evaluates rows with lm-eval."""
    return LmEvalEvaluator(log)


class _Asked:
    """A row that lm-eval is about to evaluate: its tasks, its model, and what there was to see.

    Attributes:
        row: The row.
        remote: The model as lm-eval sees it.
        manager: The TaskManager that builds the tasks.
        revisions: The commits of the data sets, as they are loaded.
    """

    def __init__(self, row: Row, model: ModelClient, managers: TaskManagers) -> None:
        from oellm.frameworks.lm_eval.remote_model import RemoteModel

        started = time.perf_counter()
        self.row = row
        self.revisions: list[str] = []
        self.manager = _ObservedManager(
            managers.manager(row["task_path"], row["include_path"]),
            check=lambda: _require_same_data(row, self.revisions),
        )
        # Before lm-eval reads the files, too: if they change in between, the digest is the older.
        self._digest = managers.digest(row["task_path"], row["include_path"])
        self._index_s = time.perf_counter() - started
        batch_size = row.value("batch_size") or 1
        self.remote = RemoteModel(
            model, batch_size, seeds=_generator_seeds(row), tasks=self.manager.tasks
        )

    def count_documents(self) -> int:
        """Return how many documents the requests are about."""
        return sum(
            len({instance.doc_id for instance in task.instances})
            for task in self.manager.tasks.values()
        )

    def timing(self, ended: float) -> RowTiming:
        """Return the seconds of the steps; `ended` is a reading of time.perf_counter."""
        remote, manager = self.remote, self.manager
        scoring_s = sum(reply.usage.seconds for reply in remote.replies)
        asking_s = remote.answered_at - remote.asked_at
        return RowTiming(
            task_index_s=self._index_s,
            task_build_s=manager.ended - manager.started,
            requests_s=remote.asked_at - manager.ended - remote.early_wait_s,
            tokenize_s=remote.tokenize_s,
            wait_s=max(0.0, asking_s - scoring_s - remote.tokenize_s) + remote.early_wait_s,
            scoring_s=scoring_s,
            metrics_s=ended - remote.answered_at,
        )

    def contents(self, task_version: str) -> Contents:
        """Return what the answers were computed from."""
        return Contents(
            task=self._digest,
            task_version=task_version,
            data=" ".join(sorted(set(self.revisions))),
            chat_template=_chat_template_sha256(self.remote, self.row)[:16],
        )

    def provenance(self) -> Facts:
        """Return where the answers come from."""
        handle = self.remote.handle
        facts: dict[str, Any] = {
            "versions": environment.package_versions(),
            "model": handle.identity.to_json(),
            "accelerator": handle.accelerator,
            "datasets": _data_set_records(self.manager.tasks, self.revisions),
            "chat_template_sha256": _chat_template_sha256(self.remote, self.row),
        }
        if handle.staged_s is not None:
            facts["staged_s"] = round(handle.staged_s, 6)
        return facts


class _ObservedManager:
    """A TaskManager that notes which tasks it builds, and when; then it calls `check`."""

    def __init__(self, manager: Any, check: Callable[[], None]) -> None:
        self._manager = manager
        self._check = check
        self.tasks: dict[str, Any] = {}
        # Readings of time.perf_counter.
        self.started = self.ended = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def load(self, *arguments: Any, **options: Any) -> Any:
        """Build tasks."""
        self.started = time.perf_counter()
        loaded = self._manager.load(*arguments, **options)
        self.tasks.update(loaded["tasks"])
        self.ended = time.perf_counter()
        self._check()
        return loaded


def _require_same_data(row: Row, revisions: Sequence[str]) -> None:
    """Raise ChangedDataError if a data set is not that with which oe-fetch prepared the row."""
    prepared = Contents(data=row["dataset_revision"])
    changes = find_changes(prepared, Contents(data=" ".join(sorted(set(revisions)))))
    if changes:
        raise ChangedDataError(
            f"{'; '.join(changes)}: the cache has other data than those with which oe-fetch "
            "prepared this row; to evaluate it on these, run oe-fetch again"
        )


def _run_lm_eval(asked: _Asked, bootstrap_iters: int) -> dict[str, Any]:
    """Return lm-eval's result, including the samples."""
    import lm_eval.evaluator

    row, remote, manager = asked.row, asked.remote, asked.manager
    patches.set_environment_text(lambda: remote.replies[0].environment)
    chat_template = row.value("apply_chat_template") or False
    multiturn = row.value("fewshot_as_multiturn")
    native: dict[str, Any] | None = lm_eval.evaluator.simple_evaluate(
        model=remote,
        tasks=[row["task_path"]],
        num_fewshot=row.value("n_shot"),
        batch_size=row.value("batch_size") or 1,
        limit=row.value("limit"),
        system_instruction=row["system_instruction"] or None,
        apply_chat_template=chat_template,
        # The default of lm-eval's command line, which differs from that of its Python interface.
        fewshot_as_multiturn=bool(chat_template) if multiturn is None else multiturn,
        gen_kwargs=with_types(row.value("gen_kwargs") or {}) or None,
        # A row with such a task comes here to have its answers recorded, or in a sandbox.
        confirm_run_unsafe_code=True,
        bootstrap_iters=bootstrap_iters,
        task_manager=manager,
        **_seeds(row),
    )
    if native is None or not remote.replies:
        raise ValueError("lm-eval sent no requests to the model")
    return native


def _seeds(row: Row) -> dict[str, int | None]:
    names = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    seeds = row.value("seed")
    return dict(zip(names, seeds, strict=True)) if seeds else {}


def _generator_seeds(row: Row) -> Seeds:
    """Return the seeds of the generators in the model's process, with lm-eval's defaults."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    seeds = row.value("seed") or (DEFAULT_RANDOM_SEED, DEFAULT_OTHER_SEED, DEFAULT_OTHER_SEED)
    return seeds[0], seeds[1], seeds[2]


def _usage(remote: RemoteModel, documents: int) -> RowUsage:
    parts = [reply.usage for reply in remote.replies]
    seconds = sum(part.seconds for part in parts)
    requests, kept = sum(part.requests for part in parts), sum(part.kept for part in parts)
    tokens = sum(part.tokens for part in parts)
    # If an earlier attempt answered part of the requests, there is no rate of documents.
    answered = documents if seconds and not kept else None
    return RowUsage(
        documents=documents,
        documents_per_s=round(answered / seconds, 3) if answered else None,
        requests=requests,
        requests_kept=kept,
        requests_per_s=round((requests - kept) / seconds, 3) if seconds else None,
        tokens=tokens or None,
        tokens_per_s=round(tokens / seconds, 3) if tokens and seconds else None,
        batch_size=parts[-1].batch_size,
        peak_gpu_bytes=max(part.peak_bytes for part in parts) or None,
    )


def _data_set_records(tasks: dict[str, Any], revisions: list[str]) -> list[dict[str, Any]]:
    """Return the data sets of tasks, each once: commit, and fingerprint of each split."""
    commits = dict(revision.split("@", 1) for revision in revisions)
    records: dict[str, dict[str, Any]] = {}
    for task in tasks.values():
        path = str(getattr(task.config, "dataset_path", "") or "")
        record = {
            "path": path,
            "name": getattr(task.config, "dataset_name", None),
            "revision": commits.get(path, ""),
            "fingerprints": data_sets.fingerprints(getattr(task, "dataset", None)),
        }
        records.setdefault(repr(record), record)
    return list(records.values())


def _chat_template_sha256(remote: RemoteModel, row: Row) -> str:
    asked = row.value("apply_chat_template")
    if not asked:
        return ""
    return hashlib.sha256((remote.chat_template(asked) or "").encode()).hexdigest()
