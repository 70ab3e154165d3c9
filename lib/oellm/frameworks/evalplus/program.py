"""evalplus as a program: one start generates, another one evaluates.

Its problems are files that it would download; it gets them by the variables that override their
paths, as they are, or cut to the row's limit. Base and plus tests are two metrics of one result.
"""

from __future__ import annotations

import functools
import json
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oellm.frameworks import generated_programs, row_settings
from oellm.frameworks.evalplus import outputs
from oellm.frameworks.interface import Evaluation, count_documents
from oellm.frameworks.program import (
    Command,
    InvalidOutputError,
    Need,
    NeededFile,
    Place,
    RowSetting,
)
from oellm.frameworks.program_files import read_version
from oellm.frameworks.stages import EVALUATE, GENERATE, RowStage
from oellm.frameworks.two_stages import TwoStageProgram, require_usable
from oellm.manifest.rows import Row

_RELEASES = "https://github.com/evalplus"
# The files of the versions that evalplus 0.3.1 asks for, with the digests that they have.
_FILES = {
    "humaneval": NeededFile(
        "HumanEvalPlus.jsonl.gz",
        f"{_RELEASES}/humanevalplus_release/releases/download/v0.1.10/HumanEvalPlus.jsonl.gz",
        "272720b90ac375502c8ed23cd791c2a93dfb22a911641a494da74a426c09f101",
    ),
    "mbpp": NeededFile(
        "MbppPlus.jsonl.gz",
        f"{_RELEASES}/mbppplus_release/releases/download/v0.2.0/MbppPlus.jsonl.gz",
        "af43697e8791c4c149bdfd6b489d8b5412507551ac20e28a439f650b8225db63",
    ),
}
_BACKENDS = ("hf", "vllm", "openai")
_DTYPES = ("bfloat16", "float16", "float32")
_GENERATION: Mapping[str, RowSetting] = {
    "n_samples": RowSetting(row_settings.POSITIVE, "1"),
    "temperature": RowSetting(row_settings.NUMBER, "0"),
}
# What evalplus decides itself, as far as people ask for it.
_FIXED = {"top_p": "0.95", "max_new_tokens": "768"}
_MODEL: Mapping[str, RowSetting] = {
    "dtype": RowSetting("a type of weights", "bfloat16", choices=_DTYPES),
    "revision": RowSetting(row_settings.TEXT),
    "attn_implementation": RowSetting(
        "an implementation", "eager", choices=("eager", "sdpa", "flash_attention_2")
    ),
    "base_url": RowSetting(row_settings.TEXT),
}
# Sequences of one forward pass if the row leaves their number to evalplus: its own choice.
_AUTO_BATCH = 32
# evalplus gives this much memory and stack to each program, and fails it if it cannot.
_MEMORY_GIB = 4


class EvalplusProgram(TwoStageProgram):
    """evalplus with its two data sets."""

    _PACKAGE = __package__

    def settings(self, task: str) -> Mapping[str, RowSetting]:
        """Return the settings, which are those of both tasks."""
        del task
        columns = {
            "backend": RowSetting("a backend", "hf", choices=_BACKENDS),
            "dtype": _MODEL["dtype"],
            **row_settings.shared_columns("apply_chat_template", "limit", "batch_size"),
            "tp": RowSetting("GPUs over which vllm splits the model", "1"),
            **row_settings.shared_columns("trust_remote_code", "include_path", "log_samples"),
        }
        return {**columns, **_GENERATION}

    def check(self, row: Row) -> None:
        """Raise InputError, with the column, for what evalplus cannot do as the row asks."""
        require_usable(row, _FIXED)
        if (backend := row.typed.backend) not in _BACKENDS:
            known = ", ".join(_BACKENDS)
            raise row.error("backend", f"evalplus has {known}, got {backend!r}")
        values = row_settings.read_settings(row, _GENERATION)
        if not values["temperature"] and values["n_samples"] > 1:
            raise row.error("gen_kwargs", "n_samples above 1 are all alike with temperature 0")
        _require_chat_template(row)
        if (_model_values(row).get("base_url") is None) == (backend == "openai"):
            raise row.error("backend", "openai needs base_url in model_args, and no other takes it")
        self._limit(row)

    def needs(self, row: Row) -> Sequence[Need]:
        """Return the file of a task's problems, unless the row has its own."""
        need = _FILES.get(row.typed.task_path)
        return [need] if need and not row.typed.include_path else []

    def problem_files(self, task: str) -> Sequence[str]:
        """Return the name of the file with a task's problems."""
        return (_own_name(task),) if task in _FILES else ()

    def command(self, rows: Sequence[Row], stage: RowStage, place: Place) -> Command:
        """Return the start of evalplus for the one row of a batch."""
        (row,) = rows
        options: dict[str, Any] = {
            "stage": stage.name,
            "dataset": row.typed.task_path,
            "limit": self._limit(row),
        }
        paths = {"problems": _problems(row, place)}
        if stage.name == GENERATE:
            options["values"] = _generation_arguments(row, place)
            # A server knows the name of a model, not where its files are.
            paths["model"] = row.model.path if row.typed.backend == "openai" else place.model
        else:
            options["values"] = {"parallel": place.cpus}
            (generated,) = place.inputs.values()
            paths["samples"] = f"{generated}/{generated_programs.SAMPLES}"
        environment = {
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
            "EVALPLUS_MAX_MEMORY_BYTES": str(_MEMORY_GIB * 2**30),
        }
        if not place.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        return Command(
            (
                *(place.python, *map(place.own_file, ("launcher.py", "options.json"))),
                *(word for pair in paths.items() for word in pair),
            ),
            env=environment,
            files={"launcher.py": _launcher(), "options.json": json.dumps(options).encode()},
            address_space_gib=None,
            stack_mib=_MEMORY_GIB * 1024,
        )

    def check_output(self, row: Row, stage: RowStage, output: Path) -> None:
        """Raise InvalidOutputError unless all answers or their outcomes are there."""
        values = row_settings.read_settings(row, _GENERATION)
        if stage.name == GENERATE:
            generated = generated_programs.read_generated(output)
            generated_programs.require_complete(generated, values["n_samples"])
            if (expected := self._expected(row)) not in (None, len(generated.problems)):
                found = len(generated.problems)
                raise InvalidOutputError(f"expected {expected} problems, got {found}")
        else:
            outputs.read_outcomes(output)

    def evaluation(self, row: Row, outputs_by_stage: Mapping[str, Path]) -> Evaluation:
        """Return the scores of a row; raises InvalidOutputError if its outputs hold none."""
        generated = generated_programs.read_generated(outputs_by_stage[GENERATE])
        values = row_settings.read_settings(row, _GENERATION)
        generated_programs.require_complete(generated, values["n_samples"])
        outcomes = outputs.read_outcomes(outputs_by_stage[EVALUATE])
        outputs.require_same(generated, outcomes)
        return outputs.make_evaluation(
            row,
            generated,
            outcomes,
            version=read_version(outputs_by_stage[EVALUATE], self.version),
            dtype=_model_values(row)["dtype"],
        )

    def _limit(self, row: Row) -> int | None:
        """Return how many problems a row asks for; None for all."""
        limit = row.typed.limit
        if limit is None or limit >= 1:
            return None if limit is None else int(limit)
        known = self.catalogue().tasks.get(row.typed.task_path)
        if row.typed.include_path or known is None or known.n_docs is None:
            number = "expected a number of problems: oellm does not know how many"
            raise row.error("limit", f"{number} the file in include_path has, got {row['limit']}")
        return count_documents(known.n_docs, limit)

    def _expected(self, row: Row) -> int | None:
        """Return how many problems a row's output must have; None if nobody knows."""
        known = self.catalogue().tasks.get(row.typed.task_path)
        if not row.typed.include_path and known is not None and known.n_docs is not None:
            return count_documents(known.n_docs, self._limit(row))
        return row.typed.n_docs


@functools.cache
def create_program() -> EvalplusProgram:
    """Return the adapter."""
    return EvalplusProgram()


def _own_name(task: str) -> str:
    """Return the name that the file of a task's problems has in include_path."""
    return _FILES[task].name.removesuffix(".gz")


def _problems(row: Row, place: Place) -> str:
    task = row.typed.task_path
    name = _own_name(task) if row.typed.include_path else _FILES[task].name
    if name not in place.files:
        raise row.error(
            "include_path", f"expected a directory with {name}, got {row['include_path']}"
        )
    return place.files[name]


def _model_values(row: Row) -> dict[str, Any]:
    """Return the values of the model's arguments; raises InputError for a bad one."""
    return row_settings.read_model_arguments(row, _MODEL)


def _require_chat_template(row: Row) -> None:
    """Raise InputError for a template that evalplus cannot apply, or cannot leave out."""
    applies = row.typed.apply_chat_template
    if isinstance(applies, str):
        raise row.error("apply_chat_template", f"expected true or false, got {applies!r}")
    if applies is False and row.typed.backend == "openai":
        raise row.error("apply_chat_template", "the server of openai always applies one")


def _generation_arguments(row: Row, place: Place) -> dict[str, Any]:
    values, model = row_settings.read_settings(row, _GENERATION), _model_values(row)
    size = row.typed.batch_size
    arguments = {
        "backend": row.typed.backend,
        "greedy": not values["temperature"],
        "temperature": values["temperature"],
        "n_samples": values["n_samples"],
        "bs": min(values["n_samples"], _AUTO_BATCH if isinstance(size, str) else size),
        # Otherwise evalplus applies the template of a tokenizer that has one.
        "force_base_prompt": row.typed.apply_chat_template is False,
        "dtype": model["dtype"],
        "trust_remote_code": row.typed.trust_remote_code,
        "tp": max(place.gpus, 1),
        "attn_implementation": model["attn_implementation"],
    }
    return {**arguments, "base_url": model["base_url"]} if "base_url" in model else arguments


@functools.cache
def _launcher() -> bytes:
    return pkgutil.get_data(__package__, "launcher.py") or b""
