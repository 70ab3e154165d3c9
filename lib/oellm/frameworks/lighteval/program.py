"""lighteval as a program: one start loads the registry and a model, and evaluates several rows.

Its registry takes longer to load than many a row to evaluate. Each row is evaluated by itself, so
its result does not depend on the others, and it fails alone. What lighteval cannot do, or would
ignore, is refused before anything is queued.
"""

from __future__ import annotations

import functools
import json
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oellm.frameworks import row_settings
from oellm.frameworks.catalogue import Catalogue
from oellm.frameworks.interface import Evaluation
from oellm.frameworks.lighteval import families, outputs
from oellm.frameworks.program import (
    Command,
    Need,
    NeededDataSet,
    NeededNltk,
    Place,
    RowSetting,
)
from oellm.frameworks.stages import EVALUATE, RowStage
from oellm.manifest.rows import Row

_DTYPES = ("float32", "float16", "bfloat16", "auto")
_GENERATION: Mapping[str, RowSetting] = {
    "temperature": RowSetting(row_settings.NUMBER, "0", EVALUATE),
    "top_p": RowSetting(row_settings.SHARE, stage=EVALUATE),
    "top_k": RowSetting(row_settings.COUNT, stage=EVALUATE),
    "min_p": RowSetting(row_settings.SHARE, stage=EVALUATE),
    "min_new_tokens": RowSetting(row_settings.COUNT, stage=EVALUATE),
    "repetition_penalty": RowSetting(row_settings.NUMBER, stage=EVALUATE),
}
# They change nothing unless answers are drawn.
_OF_SAMPLING = ("top_p", "top_k", "min_p")
# What people ask for and lighteval would ignore, with what it does.
_FIXED = {
    "max_new_tokens": "each task has its own",
    "max_gen_toks": "each task has its own",
    "stop_tokens": "each task has its own",
    "do_sample": "it draws answers if the temperature is above 0",
    "seed": "it has none",
}
_MODEL: Mapping[str, RowSetting] = {
    "dtype": RowSetting("a type of weights", "float32", EVALUATE, choices=_DTYPES),
    "revision": RowSetting(row_settings.TEXT, stage=EVALUATE),
    "max_length": RowSetting(row_settings.POSITIVE, stage=EVALUATE),
    "add_special_tokens": RowSetting(row_settings.SWITCH, stage=EVALUATE),
    "multichoice_continuations_start_space": RowSetting(row_settings.SWITCH, stage=EVALUATE),
}
_REFUSED = {
    "seed": "has no seed that a row could set",
    "fewshot_as_multiturn": "always gives a chat's examples as turns of it",
    "include_path": "reads data sets of the hub, no files of your own",
}
# Rows of one start: if it is killed, they are evaluated again.
_MOST_ROWS = 16
# Sequences of one forward pass on a CPU, where lighteval's search for a number ends with no memory.
_CPU_BATCH = 8


class LightevalProgram:
    """lighteval with the tasks of its own registry."""

    @property
    def version(self) -> str:
        """The version of the package."""
        return self.catalogue().version

    def catalogue(self) -> Catalogue:
        """Return the tasks, and the groups that lighteval makes of tasks with one name."""
        return families.read_catalogue()

    def settings(self, task: str) -> Mapping[str, RowSetting]:
        """Return the settings, which are those of all tasks."""
        del task
        columns = {
            "backend": RowSetting("a backend", "hf", EVALUATE, choices=("hf",)),
            "dtype": _MODEL["dtype"],
            "n_shot": RowSetting(row_settings.COUNT, "0", EVALUATE),
            "limit": RowSetting("a number of documents or a share", stage=EVALUATE),
            "batch_size": RowSetting("sequences of one forward pass, or auto", "1", EVALUATE),
            "apply_chat_template": RowSetting(row_settings.SWITCH, stage=EVALUATE),
            "system_instruction": RowSetting(row_settings.TEXT, stage=EVALUATE),
            "trust_remote_code": RowSetting(row_settings.SWITCH, "false", EVALUATE),
            **row_settings.shared_columns("log_samples"),
        }
        return {**columns, **_GENERATION}

    def check(self, row: Row) -> None:
        """Raise InputError, with the column, for what lighteval cannot do as the row asks."""
        task, limit = row.typed.task_path, row.typed.limit
        definitions = families.find_definitions(task)
        if why := next((each.family.obstacle for each in definitions if each.family.obstacle), ""):
            raise row.error("task_path", f"oellm does not run {task} of lighteval: {why}")
        row_settings.refuse(row, _REFUSED)
        if row.typed.backend != "hf":
            raise row.error("backend", f"lighteval is run with hf only, got {row.typed.backend!r}")
        if isinstance(row.typed.apply_chat_template, str):
            given = row["apply_chat_template"]
            raise row.error("apply_chat_template", f"expected true or false, got {given!r}")
        if limit is not None and limit < 1 and task in self.catalogue().groups:
            given = row["limit"]
            raise row.error("limit", f"expected a number of documents for a group, got {given}")
        _require_generation(row, max((each.family.answers for each in definitions), default=1))
        _model_values(row)

    def needs(self, row: Row) -> Sequence[Need]:
        """Return the data sets of a task, or of a group's tasks, and packages of NLTK."""
        needs: dict[Need, None] = {}
        for known in families.find_definitions(row.typed.task_path):
            family = known.family
            data = NeededDataSet(
                family.data, config=known.config, revision=family.revision, split=family.splits
            )
            needs.update(dict.fromkeys([data, *map(NeededNltk, family.nltk)]))
        return list(needs)

    def problem_files(self, task: str) -> Sequence[str]:
        """Return none: all documents are in data sets."""
        del task
        return ()

    def stages(self, row: Row) -> Sequence[RowStage]:
        """Return the only stage."""
        del row
        return [RowStage(EVALUATE, uses_gpu=True, cpus=2, memory_gib=16)]

    def generation_row(self, row: Row) -> Row:
        """Return the row: nothing is generated by itself."""
        return row

    def batches(self, rows: Sequence[Row], stage: RowStage) -> list[list[Row]]:
        """Return rows together whose model is set up alike, some of them at a time."""
        del stage
        alike: dict[str, list[Row]] = {}
        for row in rows:
            alike.setdefault(json.dumps(_setup(row, gpus=1), sort_keys=True), []).append(row)
        return [
            group[start : start + _MOST_ROWS]
            for group in alike.values()
            for start in range(0, len(group), _MOST_ROWS)
        ]

    def command(self, rows: Sequence[Row], stage: RowStage, place: Place) -> Command:
        """Return the start of lighteval for a batch of rows."""
        del stage
        options: dict[str, Any] = {
            **_setup(rows[0], gpus=place.gpus),
            "bootstrap": place.bootstrap_iters,
            "rows": [
                {
                    "id": row["eval_id"],
                    "task": f"{row.typed.task_path}|{row.typed.n_shot or 0}",
                    "limit": row.typed.limit,
                    "samples": row.typed.log_samples,
                    "nltk": [n.name for n in self.needs(row) if isinstance(n, NeededNltk)],
                }
                for row in rows
            ],
        }
        environment = {
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
            # lighteval looks for the commit of its own checkout, also in an image without git.
            "GIT_PYTHON_REFRESH": "quiet",
        }
        if not place.gpus:
            environment |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
        return Command(
            (place.python, *map(place.own_file, ("launcher.py", "options.json")), place.model),
            env=environment,
            files={"launcher.py": _launcher(), "options.json": json.dumps(options).encode()},
            address_space_gib=None,
        )

    def check_output(self, row: Row, stage: RowStage, output: Path) -> None:
        """Raise InvalidOutputError unless there are finite scores of the row's task."""
        del stage
        outputs.read_scores(row, output)

    def evaluation(self, row: Row, outputs_by_stage: Mapping[str, Path]) -> Evaluation:
        """Return the scores of a row; raises InvalidOutputError if its output holds none."""
        output = outputs_by_stage[EVALUATE]
        return outputs.make_evaluation(row, output, version=self.version)


@functools.cache
def create_program() -> LightevalProgram:
    """Return the adapter."""
    return LightevalProgram()


def _require_generation(row: Row, answers: int) -> None:
    """Raise InputError for settings of generation that lighteval would ignore.

    `answers` is the number of answers that the task asks for to one question.
    """
    for name in _FIXED.keys() & row.typed.gen_kwargs.keys():
        raise row.error("gen_kwargs", f"lighteval ignores {name}: {_FIXED[name]}")
    values = row_settings.read_settings(row, _GENERATION)
    if values["temperature"]:
        return
    for name in _OF_SAMPLING:
        if name in values:
            raise row.error("gen_kwargs", f"{name} changes nothing without a temperature above 0")
    if answers > 1:
        task = row.typed.task_path
        raise row.error(
            "gen_kwargs", f"{task} draws {answers} answers and needs a temperature above 0"
        )


def _model_values(row: Row) -> dict[str, Any]:
    """Return the values of the model's arguments; raises InputError for a bad one."""
    return row_settings.read_model_arguments(row, _MODEL)


def _setup(row: Row, gpus: int) -> dict[str, Any]:
    """Return how the model is set up for a row, as the launcher's options have it."""
    generation = row_settings.read_settings(row, _GENERATION)
    values = _model_values(row)
    # The model comes as a directory of the right commit.
    values.pop("revision", None)
    size = row.typed.batch_size
    automatic = None if gpus else _CPU_BATCH
    values |= {
        "batch_size": automatic if isinstance(size, str) else size,
        "trust_remote_code": row.typed.trust_remote_code,
        "generation_parameters": generation,
    }
    if row.typed.apply_chat_template is not None:
        values["override_chat_template"] = row.typed.apply_chat_template
    if row.typed.system_instruction:
        values["system_prompt"] = row.typed.system_instruction
    return {"values": values, "sampling": bool(generation["temperature"])}


@functools.cache
def _launcher() -> bytes:
    return pkgutil.get_data(__package__, "launcher.py") or b""
