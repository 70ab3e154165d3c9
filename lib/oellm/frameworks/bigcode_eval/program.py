"""bigcode-evaluation-harness as a program: one start generates, another one evaluates.

What it cannot do is refused before anything is queued, because it would ignore most of it. The
settings of a result are those of the row: the file of the evaluation has others under `config`.
"""

from __future__ import annotations

import functools
import json
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oellm.frameworks import row_settings
from oellm.frameworks.bigcode_eval import outputs
from oellm.frameworks.bigcode_eval.definitions import (
    TaskDefinition,
    find_obstacle,
    find_toolchain,
    is_of_multiple,
    read_definitions,
)
from oellm.frameworks.bigcode_eval.results import SHOTS
from oellm.frameworks.interface import Evaluation, count_documents
from oellm.frameworks.program import Command, Need, Place, RowSetting
from oellm.frameworks.program_files import read_version
from oellm.frameworks.stages import EVALUATE, GENERATE, RowStage
from oellm.frameworks.two_stages import TwoStageProgram
from oellm.manifest.model_spec import looks_local
from oellm.manifest.rows import Row

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_GENERATION: Mapping[str, RowSetting] = {
    "n_samples": RowSetting(row_settings.POSITIVE, "1"),
    "do_sample": RowSetting(row_settings.SWITCH, "true"),
    "temperature": RowSetting(row_settings.NUMBER, "0.2"),
    "top_p": RowSetting(row_settings.SHARE, "0.95"),
    "top_k": RowSetting(row_settings.COUNT, "0"),
    "max_length_generation": RowSetting(row_settings.POSITIVE, "512"),
    "seed": RowSetting(row_settings.COUNT, "0"),
    "prefix": RowSetting(row_settings.TEXT),
}
_MODEL: Mapping[str, RowSetting] = {
    "dtype": RowSetting("a type of weights", "float32", choices=tuple(_PRECISIONS)),
    "revision": RowSetting(row_settings.TEXT),
    "peft": RowSetting(row_settings.TEXT),
    "modeltype": RowSetting("a class of models", "causal", choices=("causal", "seq2seq")),
    "load_in_8bit": RowSetting(row_settings.SWITCH),
    "load_in_4bit": RowSetting(row_settings.SWITCH),
    "left_padding": RowSetting(row_settings.SWITCH),
}
_REFUSED = {
    "apply_chat_template": "applies no chat template",
    "fewshot_as_multiturn": "applies no chat template",
    "system_instruction": "has no system prompt",
    "include_path": "reads data sets of the hub, no files of your own",
}
# Sequences of one forward pass if the row leaves their number to us.
_AUTO_BATCH = 8
_ADDRESS_SPACE_GIB = 4


class BigcodeProgram(TwoStageProgram):
    """bigcode-evaluation-harness at the commit that the images have."""

    _PACKAGE = __package__

    def settings(self, task: str) -> Mapping[str, RowSetting]:
        """Return the settings of a task, by column or by gen_kwargs' key."""
        columns = {
            "backend": RowSetting("a backend", "hf", choices=("hf",)),
            "dtype": _MODEL["dtype"],
            "limit": RowSetting("a number of problems"),
            **row_settings.shared_columns("batch_size"),
            "tp": RowSetting("GPUs over which the model is spread", "1"),
            **row_settings.shared_columns("trust_remote_code", "log_samples"),
        }
        return {**columns, **_generation_settings(task)}

    def check(self, row: Row) -> None:
        """Raise InputError, with the column, for what the program cannot do as the row asks."""
        task = row.typed.task_path
        if task in self.catalogue().tasks and (why := find_obstacle(task)):
            raise row.error("task_path", f"bigcode_eval cannot run {task}: {why}")
        row_settings.refuse(row, _REFUSED)
        _require_shots(row)
        if row.typed.backend != "hf":
            raise row.error("backend", f"bigcode_eval has only hf, got {row.typed.backend!r}")
        _require_sampling(row, _generation_values(row))
        _model_values(row)
        self._limit(row)

    def needs(self, row: Row) -> Sequence[Need]:
        """Return the data sets, by the names that the program uses, and the metrics of a task."""
        return _definition(row.typed.task_path).needs

    def problem_files(self, task: str) -> Sequence[str]:
        """Return none: all problems are in data sets."""
        del task
        return ()

    def _runs_model_code(self, row: Row) -> bool:
        return _definition(row.typed.task_path).executes

    def command(self, rows: Sequence[Row], stage: RowStage, place: Place) -> Command:
        """Return the start of the program for the one row of a batch."""
        (row,) = rows
        is_generation = stage.name == GENERATE
        arguments = ["--tasks", row.typed.task_path, *self._shared_arguments(row)]
        if is_generation:
            arguments += [*_generation_arguments(row), *_model_arguments(row, place)]
            arguments += ["--generation_only", "--save_generations"]
            arguments += ["--save_generations_path", f"{place.output}/{outputs.GENERATIONS}"]
        else:
            (generated,) = place.inputs.values()
            name = outputs.generations_name(row.typed.task_path)
            arguments += ["--model", row.model.path, "--load_generations_path"]
            arguments += [f"{generated}/{name}", "--allow_code_execution"]
            arguments += ["--metric_output_path", f"{place.output}/{outputs.METRICS}"]
        options = _options(row, is_generation=is_generation)
        return Command(
            (place.python, *map(place.own_file, ("launcher.py", "options.json")), *arguments),
            env=_environment(row, place),
            files={"launcher.py": _launcher(), "options.json": json.dumps(options).encode()},
            reads=_adapter_paths(row) if is_generation else (),
            # Node.js, Java and their like reserve what they never use.
            address_space_gib=None if options["programs"] else _ADDRESS_SPACE_GIB,
        )

    def check_output(self, row: Row, stage: RowStage, output: Path) -> None:
        """Raise InvalidOutputError unless all answers or finite scores are there."""
        task = row.typed.task_path
        if stage.name == GENERATE:
            found = outputs.read_generations(output, task)
            outputs.require_complete(found, self._expected(row), _generation_values(row))
        else:
            outputs.read_metrics(output, task)

    def evaluation(self, row: Row, outputs_by_stage: Mapping[str, Path]) -> Evaluation:
        """Return the scores of a row; raises InvalidOutputError if its outputs hold none."""
        task = row.typed.task_path
        generations = outputs.read_generations(outputs_by_stage[GENERATE], task)
        outputs.require_complete(generations, self._expected(row), _generation_values(row))
        native = outputs.read_metrics(outputs_by_stage[EVALUATE], task)
        return outputs.make_evaluation(
            row,
            native,
            generations,
            version=read_version(outputs_by_stage[EVALUATE], self.version),
            task_version=self.version,
            dtype=_model_values(row)["dtype"],
        )

    def _shared_arguments(self, row: Row) -> list[str]:
        """Return the arguments that both stages must have alike."""
        values = _generation_values(row)
        arguments = ["--n_samples", str(values["n_samples"])]
        if (limit := self._limit(row)) is not None:
            arguments += ["--limit", str(limit)]
        if "prompt" in values:
            arguments.append(f"--prompt={values['prompt']}")
        return arguments

    def _limit(self, row: Row) -> int | None:
        """Return how many problems a row asks for; None for all.

        Raises InputError for a share of a number that nobody knows.
        """
        limit, task = row.typed.limit, row.typed.task_path
        if limit is None or limit >= 1:
            return None if limit is None else int(limit)
        known = self.catalogue().tasks.get(task)
        if known is None or known.n_docs is None:
            number = "expected a number of problems: oellm does not know how many"
            raise row.error("limit", f"{number} {task} has, got {row['limit']}")
        return count_documents(known.n_docs, limit)

    def _expected(self, row: Row) -> outputs.ExpectedCount:
        """Return how many problems a row's output should have, as far as it is known."""
        known = self.catalogue().tasks.get(row.typed.task_path)
        limit = self._limit(row)
        if known is not None and known.n_docs is not None:
            return outputs.ExpectedCount(count_documents(known.n_docs, limit), is_exact=True)
        if row.typed.n_docs:
            return outputs.ExpectedCount(row.typed.n_docs, is_exact=True)
        return outputs.ExpectedCount(limit, is_exact=False)


@functools.cache
def create_program() -> BigcodeProgram:
    """Return the adapter."""
    return BigcodeProgram()


def _definition(task: str) -> TaskDefinition:
    return read_definitions().get(task) or TaskDefinition(executes=True)


def _generation_settings(task: str) -> Mapping[str, RowSetting]:
    settings = dict(_GENERATION)
    if (prompt := _definition(task).prompt) is not None:
        settings["prompt"] = RowSetting(row_settings.TEXT, prompt)
    if task.startswith("instruct-humaneval"):
        settings["instruction_tokens"] = RowSetting(row_settings.TEXT)
    return settings


def _generation_values(row: Row) -> dict[str, Any]:
    """Return the values of the settings of generation; raises InputError for a bad one."""
    values = row_settings.read_settings(row, _generation_settings(row.typed.task_path))
    if (seed := row_settings.read_seed(row)) is not None:
        if values["seed"] != seed and "seed" in row.typed.gen_kwargs:
            raise row.error("seed", f"gen_kwargs has another seed, {values['seed']}")
        values["seed"] = seed
    return values


def _model_values(row: Row) -> dict[str, Any]:
    """Return the values of the model's arguments; raises InputError for a bad one."""
    return row_settings.read_model_arguments(row, _MODEL)


def _require_shots(row: Row) -> None:
    """Raise InputError for a number of examples other than the one that the task always has."""
    shots, fixed = row.typed.n_shot, SHOTS.get(row.typed.task_path)
    if shots not in (None, fixed):
        always = "" if fixed is None else f": {row.typed.task_path} always has {fixed}"
        raise row.error("n_shot", f"bigcode_eval has no setting for it{always}; leave it empty")


def _require_sampling(row: Row, values: Mapping[str, Any]) -> None:
    """Raise InputError for settings of sampling that contradict each other."""
    if not values["do_sample"] and values["n_samples"] > 1:
        raise row.error("gen_kwargs", "n_samples above 1 are all alike with do_sample=false")
    if values["do_sample"] and not values["temperature"]:
        raise row.error("gen_kwargs", "a temperature of 0 needs do_sample=false")


def _generation_arguments(row: Row) -> list[str]:
    values = _generation_values(row)
    # The evaluation has the others, too.
    names = values.keys() - {"n_samples", "prompt"}
    arguments = [f"--{name}={values[name]}" for name in values if name in names]
    size = row.typed.batch_size
    most = _AUTO_BATCH if isinstance(size, str) else size
    return [*arguments, "--batch_size", str(min(values["n_samples"], most))]


def _model_arguments(row: Row, place: Place) -> list[str]:
    values = _model_values(row)
    arguments = ["--model", place.model, "--precision", _PRECISIONS[values["dtype"]]]
    arguments += ["--modeltype", values["modeltype"]]
    if peft := values.get("peft"):
        arguments += ["--peft_model", peft]
    arguments += [
        f"--{name}" for name in ("load_in_8bit", "load_in_4bit", "left_padding") if values.get(name)
    ]
    if row.typed.trust_remote_code:
        arguments.append("--trust_remote_code")
    if place.gpus > 1:
        # One process that spreads one model over all GPUs.
        arguments += ["--max_memory_per_gpu", "auto"]
    return arguments


def _adapter_paths(row: Row) -> tuple[str, ...]:
    """Return the directory of the row's adapter, if it is one of this machine."""
    path = _model_values(row).get("peft", "")
    return (path,) if looks_local(path) else ()


def _options(row: Row, *, is_generation: bool) -> dict[str, Any]:
    """Return the options of the launcher."""
    definition = _definition(row.typed.task_path)
    toolchain = None if is_generation else find_toolchain(row.typed.task_path)
    return {
        "data_sets": sorted({each.name for each in definition.data_sets}),
        "programs": list(toolchain.programs) if toolchain else [],
        "image": toolchain.image if toolchain else "",
        "isolates": is_of_multiple(row.typed.task_path) and not is_generation,
        "runs_code": definition.executes and not is_generation,
    }


def _environment(row: Row, place: Place) -> dict[str, str]:
    environment = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    if not place.gpus:
        environment["ACCELERATE_USE_CPU"] = "true"
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if row.typed.trust_remote_code:
        environment["HF_DATASETS_TRUST_REMOTE_CODE"] = "1"
    return environment


@functools.cache
def _launcher() -> bytes:
    return pkgutil.get_data(__package__, "launcher.py") or b""
