"""A row as types: what its cells mean, parsed once for everything that works with the row."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from oellm.core import schema
from oellm.manifest.argument_texts import argument_value
from oellm.manifest.cells import Cell, read_cell
from oellm.manifest.model_spec import ModelSpec

_CACHED_MODELS = 8192


class TypedRow(NamedTuple):
    """The values of a row's cells, by the names of their columns (schema.json, table `manifest`).

    None means that the cell is empty and the column has no default. `tp` and `batch_size` are 1 if
    their cells are empty; `model_args` and `gen_kwargs` are empty then. Rows share values that are
    equal, so nobody may change one.

    Attributes:
        model: The model's path and the arguments of its own cell.
        model_args: The arguments that the column of this name adds.
        n_shot: Few-shot examples; None means the task's own default.
        limit: Documents of each task, or a fraction below 1; None means all.
        batch_size: Requests per forward pass, or `auto`, `auto:N`.
        seed: Seeds of Python, NumPy, torch and few-shot sampling.
        model_bytes: Size of the files that loading the model reads.
        request_types: The requests by type, `generate_until=10,loglikelihood=400`.
    """

    model: ModelSpec
    task_path: str
    eval_suite: str
    backend: str
    n_shot: int | None = None
    dtype: str = ""
    tp: int = 1
    trust_remote_code: bool = False
    model_args: Mapping[str, Any] = {}  # nobody changes it
    model_revision: str = ""
    model_bytes: int | None = None
    limit: int | float | None = None
    batch_size: int | str = 1
    apply_chat_template: bool | str | None = None
    fewshot_as_multiturn: bool | None = None
    system_instruction: str = ""
    gen_kwargs: Mapping[str, Any] = {}
    seed: tuple[int | None, ...] | None = None
    include_path: str = ""
    confirm_run_unsafe_code: bool = False
    log_samples: bool = False
    n_docs: int | None = None
    n_requests: int | None = None
    request_types: str = ""

    @classmethod
    def of(cls, texts: Mapping[str, str], meanings: Iterable[Cell]) -> TypedRow:
        """Return the values of cells, given their texts by column and what each means."""
        values = _defaults().copy()
        for (name, text), cell in zip(texts.items(), meanings, strict=True):
            if text and name in _COLUMNS:
                values[name] = cell.value
        if "seed" in values:
            values["seed"] = tuple(values["seed"])
        model, task = texts.get("model_path", ""), texts.get("task_path", "")
        return cls(_model(model), task, **values)

    @property
    def model_arguments(self) -> dict[str, Any]:
        """All arguments of the model: those of its own cell override those of model_args.

        Lists and objects are values of JSON, everything else is its text.
        """
        own = {name: argument_value(name, text) for name, text in self.model.arguments}
        return {**self.model_args, **own}


_COLUMNS = frozenset(TypedRow._fields) - {"model", "task_path"}


@functools.cache
def _defaults() -> dict[str, Any]:
    """Return the defaults that the schema gives to columns."""
    table = schema.table("manifest")
    return {name: table[name]["default"] for name in _COLUMNS if "default" in table[name]}


@functools.lru_cache(_CACHED_MODELS)
def _model(text: str) -> ModelSpec:
    path, arguments = read_cell("model_path", text).value or ("", {})
    return ModelSpec(path, tuple(arguments.items()))
