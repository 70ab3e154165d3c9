"""Starts lighteval inside its own environment, for many rows; nothing else of oellm is there.

usage: launcher.py OPTIONS.json MODEL

lighteval's registry of tasks takes long to load, and so does a model. This loads both once, and
evaluates each row by itself, as `lighteval accelerate` does. MODEL is the directory of the model.
It starts in the directory of the output. The options:

    values     fields of lighteval's TransformersModelConfig
    sampling   whether answers are drawn: lighteval sets a temperature but leaves this to the model
    bootstrap  draws for bootstrapped standard errors
    rows       objects with `id`, `task` (`name|shots`), `limit` (documents, a share below 1 or
               null), `samples` (whether to keep these) and `nltk` (tokenizers that it needs)

The output has a directory ID for each row, with results.json, documents.json (the number of each
task's) and perhaps samples.json; or with error.txt if the row failed. A row that it has not come to
has neither: after SIGTERM, and if the model cannot compute anything more. Exits with 0 if it has
come to a row, and with another status if not, if the model cannot be loaded, or if a disk is full.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import math
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

# The seed that lighteval gives the generators of random numbers that it does seed.
_SEED = 1234
# Errors after which a GPU computes nothing more in this process.
_BROKEN = ("CUDA error", "HIP error", "device-side assert", "NCCL")
# Errors of the machine, not of a row.
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class _ModelError(Exception):
    """The model cannot be loaded."""


def main() -> int:
    """Evaluate the rows that the options name."""
    options = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    output, work = Path.cwd(), Path(tempfile.mkdtemp())
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0 if _has_ended_rows(output) else 143))
    os.chdir(work)
    # A path that is not relative would lead lighteval's cache of answers into the model.
    os.symlink(os.path.abspath(sys.argv[2]), "model")
    _forbid_downloads()
    version = importlib.metadata.version("lighteval")
    (output / "version.txt").write_text(version, encoding="utf-8")
    evaluate = _prepare(options, work)
    for row in options["rows"]:
        directory = output / row["id"]
        directory.mkdir()
        try:
            evaluate(row, directory)
            sys.stdout.write(f"oellm: {row['task']} is evaluated\n")
        except Exception as error:
            traceback.print_exc()
            if isinstance(error, _ModelError) or getattr(error, "errno", 0) in _FULL_DISK:
                return 1
            _write(directory / "error.txt", _describe(error))
            if any(text in str(error) for text in _BROKEN):
                break
    return 0


def _describe(error: Exception) -> str:
    """Return what is wrong on one line; the traceback is in the log."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    is_missing = "Couldn't find cache" in text or "Couldn't reach" in text
    return f"{text}; run oe-fetch" if is_missing else text


def _has_ended_rows(output: Path) -> bool:
    return any(each for name in ("results.json", "error.txt") for each in output.glob(f"*/{name}"))


def _forbid_downloads() -> None:
    """Leave out lighteval's attempts to download data of NLTK, one for each answer."""
    import nltk

    nltk.download = lambda *_, **__: True


def _require_nltk(names: list[str]) -> None:
    """Raise LookupError if a tokenizer is missing: lighteval does after all answers are there."""
    if missing := [name for name in names if not _has_tokenizer(name)]:
        are = " and ".join(missing)
        raise LookupError(f"{are} of NLTK not in the cache (NLTK_DATA); run oe-fetch")


def _has_tokenizer(name: str) -> bool:
    import nltk

    try:
        nltk.data.find(f"tokenizers/{name}")
    except LookupError:
        return False
    return True


def _prepare(options: dict[str, Any], work: Path) -> Any:
    """Load the registry; return what evaluates a row, which loads the model when it needs it."""
    from lighteval.logging.evaluation_tracker import EvaluationTracker
    from lighteval.models.transformers.transformers_model import TransformersModelConfig
    from lighteval.pipeline import ParallelismManager, PipelineParameters
    from lighteval.tasks.registry import Registry

    loaded = Registry.load_all_task_configs(load_multilingual=True)
    Registry.load_all_task_configs = staticmethod(lambda **_: loaded)
    config = TransformersModelConfig(
        model_name="model", cache_dir=str(work / "cache"), **_model_values(options)
    )
    pipeline_of_row = _share_model(options)

    def evaluate(row: dict[str, Any], directory: Path) -> None:
        _require_nltk(row["nltk"])
        _seed()
        tracker = EvaluationTracker(output_dir=str(work / "lighteval"), save_details=False)
        parameters = PipelineParameters(
            launcher_type=ParallelismManager.ACCELERATE,
            load_tasks_multilingual=True,
            max_samples=_count(row, Registry),
            bootstrap_iters=options["bootstrap"],
        )
        pipeline = pipeline_of_row(
            tasks=row["task"],
            pipeline_parameters=parameters,
            evaluation_tracker=tracker,
            model_config=config,
        )
        pipeline.evaluate()
        _write_results(tracker, row, directory)

    return evaluate


def _share_model(options: dict[str, Any]) -> Any:
    """Return a class of lighteval's pipelines, all of which have one model."""
    from lighteval.pipeline import Pipeline

    models: list[Any] = []

    class _OneRow(Pipeline):  # type: ignore[misc]
        def _init_model(self, model_config: Any, model: Any) -> Any:
            if not models:
                try:
                    models.append(super()._init_model(model_config, model))
                except Exception as error:
                    raise _ModelError(str(error)) from error
                # lighteval takes the model apart after each evaluation.
                models[0].cleanup = lambda: None
                if options["sampling"]:
                    models[0].model.generation_config.do_sample = True
            models[0]._cache = _NoCache()
            return models[0]

        def _run_model(self) -> Any:
            # Answers are neither kept nor looked up.
            self.model._cache = None
            answers = super()._run_model()
            _require_all_choices(answers)
            return answers

    return _OneRow


class _NoCache:
    """Stands for lighteval's cache of answers while an evaluation is set up."""

    def _init_registry(self, registry: Any) -> None:
        """Do nothing."""


def _model_values(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the model's configuration."""
    values = dict(options["values"])
    if values.get("dtype") == "auto":
        # lighteval takes it for float32.
        from transformers import AutoConfig

        found = AutoConfig.from_pretrained("model", trust_remote_code=values["trust_remote_code"])
        values["dtype"] = str(found.torch_dtype or "float32").removeprefix("torch.")
    return values


def _seed() -> None:
    """Make a row independent of those before it."""
    import torch

    torch.manual_seed(_SEED)


def _count(row: dict[str, Any], registry: Any) -> int | None:
    """Return how many documents of each task a row evaluates; None for all."""
    limit: float | None = row["limit"]
    if limit is None or limit >= 1:
        return None if limit is None else int(limit)
    from lighteval.tasks.lighteval_task import LightevalTask

    tasks = registry(tasks=row["task"], load_multilingual=True).load_tasks()
    LightevalTask.load_datasets(tasks)
    (task,) = tasks.values()
    documents: int = len(task.eval_docs())
    return math.ceil(documents * limit)


def _require_all_choices(answers: Any) -> None:
    """Raise ValueError if lighteval has lost choices of a question."""
    for each in (answer for some in answers.values() for answer in some):
        found, expected = len(each.output_tokens), len(each.logprobs)
        if expected > 1 and found < expected:
            raise ValueError(
                f"lighteval lost {expected - found} of the {expected} choices of a question: it "
                "does if all choices have fewer tokens than there are choices, and has no score "
                "for the task then"
            )


def _write_results(tracker: Any, row: dict[str, Any], directory: Path) -> None:
    from lighteval.logging.evaluation_tracker import EnhancedJSONEncoder

    if row["samples"]:
        details = {task.rpartition("|")[0]: found for task, found in tracker.details.items()}
        _write(directory / "samples.json", json.dumps(details, default=_plain))
    counts = {task.rpartition("|")[0]: len(found) for task, found in tracker.details.items()}
    _write(directory / "documents.json", json.dumps(counts))
    _write(directory / "results.json", json.dumps(tracker.results, cls=EnhancedJSONEncoder))


def _plain(value: Any) -> Any:
    """Return a value of NumPy or PyTorch as a plain one, and anything else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _write(path: Path, text: str) -> None:
    """Write a file so that it is there as a whole or not at all."""
    part = path.with_name(f".{path.name}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal would end Python's own way out, with rows that have ended.
    os._exit(status)
