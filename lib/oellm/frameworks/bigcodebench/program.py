"""bigcodebench as a program: one start generates, another one evaluates.

The subset `hard` is a part of the whole, so its programs are those of the whole: one generation
serves both, and the evaluation takes its part. Base models are asked through vLLM, chat models
also through a server of OpenAI's kind.
"""

from __future__ import annotations

import functools
import json
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oellm.frameworks import generated_programs, row_settings
from oellm.frameworks.bigcodebench import outputs
from oellm.frameworks.interface import Evaluation, count_documents
from oellm.frameworks.program import (
    Command,
    InvalidOutputError,
    Need,
    NeededDataSet,
    Place,
    RowSetting,
)
from oellm.frameworks.program_files import read_version
from oellm.frameworks.stages import EVALUATE, GENERATE, RowStage
from oellm.frameworks.two_stages import TwoStageProgram, require_usable
from oellm.manifest.rows import Row
from oellm.runs.environment import Environment

# The split of the data sets that bigcodebench 0.2.5 asks for.
_PROBLEMS = "v0.1.4"
_BACKENDS = ("vllm", "openai")
_DTYPES = ("bfloat16", "float16", "float32")
_GENERATION: Mapping[str, RowSetting] = {
    "n_samples": RowSetting(row_settings.POSITIVE, "1"),
    "temperature": RowSetting(row_settings.NUMBER, "0"),
    "greedy": RowSetting(row_settings.SWITCH),
    "max_new_tokens": RowSetting(row_settings.POSITIVE, "1280"),
    "instruction_prefix": RowSetting(row_settings.TEXT),
    "response_prefix": RowSetting(row_settings.TEXT),
    "skip_prefill": RowSetting(row_settings.SWITCH),
}
_EVALUATION: Mapping[str, RowSetting] = {
    "calibrated": RowSetting(row_settings.SWITCH, "true", EVALUATE),
    "pass_k": RowSetting("numbers of samples with commas between", "1,5,10", EVALUATE),
}
# What bigcodebench decides itself, as far as people ask for it.
_FIXED = {"top_p": "0.95 with a temperature, else 1", "do_sample": "true with a temperature"}
_MODEL: Mapping[str, RowSetting] = {
    "dtype": RowSetting("a type of weights", "bfloat16", choices=_DTYPES),
    "revision": RowSetting(row_settings.TEXT),
    "max_model_len": RowSetting(row_settings.POSITIVE, "12800"),
    "enforce_eager": RowSetting(row_settings.SWITCH),
    "gpu_memory_utilization": RowSetting(row_settings.SHARE),
    "base_url": RowSetting(row_settings.TEXT),
}
# bigcodebench does not pass them on to vLLM, so the launcher does.
_ENGINE = ("enforce_eager", "gpu_memory_utilization")
# bigcodebench sets this limit of the stack for each program, and fails it if it cannot.
_STACK_MIB = 10


class BigcodebenchProgram(TwoStageProgram):
    """bigcodebench with its two splits and two subsets."""

    _PACKAGE = __package__

    def settings(self, task: str) -> Mapping[str, RowSetting]:
        """Return the settings, which are those of all tasks."""
        del task
        columns = {
            "backend": RowSetting("a backend", choices=_BACKENDS),
            "dtype": _MODEL["dtype"],
            **row_settings.shared_columns("apply_chat_template", "limit"),
            "tp": RowSetting("GPUs over which vllm splits the model", "1"),
            **row_settings.shared_columns("trust_remote_code", "include_path", "log_samples"),
        }
        return {**columns, **_GENERATION, **_EVALUATION}

    def check(self, row: Row) -> None:
        """Raise InputError, with the column, for what bigcodebench cannot do as the row asks."""
        require_usable(row, _FIXED)
        if (backend := row.typed.backend) not in _BACKENDS:
            given = f"got {backend!r}" if row["backend"] else "and an empty cell means hf"
            raise row.error("backend", f"bigcodebench {self.version} needs vllm or openai, {given}")
        _require_sampling(row, _values(row))
        _read_ks(row)
        _require_chat_template(row)
        _require_server(row)
        self._limit(row)

    def needs(self, row: Row) -> Sequence[Need]:
        """Return the data sets of a task, unless the row has its own problems.

        The hard subset needs both: the programs are those of the whole.
        """
        if row.typed.include_path:
            return []
        names = [_data_set(is_hard) for is_hard in ([False, True] if _is_hard(row) else [False])]
        return [NeededDataSet(name, split=_PROBLEMS) for name in names]

    def problem_files(self, task: str) -> Sequence[str]:
        """Return the names of the files with a task's problems, as the data sets are called."""
        return ("bigcodebench.jsonl", *(("bigcodebench-hard.jsonl",) if "-hard-" in task else ()))

    def generation_row(self, row: Row) -> Row:
        """Return the row of the whole, without what only the evaluation reads.

        With a limit, the first problems of the hard subset are others than those of the whole.
        """
        cells = {"n_shot": "", "task_path": _task(row, is_hard=_generates_hard(row))}
        kept = {k: v for k, v in row.typed.gen_kwargs.items() if k not in _EVALUATION}
        if kept != row.typed.gen_kwargs:
            cells["gen_kwargs"] = json.dumps(kept, sort_keys=True) if kept else ""
        return row.with_cells(**cells)

    def command(self, rows: Sequence[Row], stage: RowStage, place: Place) -> Command:
        """Return the start of bigcodebench for the one row of a batch."""
        (row,) = rows
        values, model = _values(row), _model_values(row)
        is_generation = stage.name == GENERATE
        is_hard = _generates_hard(row) if is_generation else _is_hard(row)
        own = f"bigcodebench{'-hard' if is_hard else ''}.jsonl"
        paths = {"problems": place.files[own]} if row.typed.include_path else {}
        options: dict[str, Any] = {
            "stage": stage.name,
            "data_set": _data_set(is_hard),
            "version": _PROBLEMS,
            "limit": self._limit(row),
        }
        shared = {"split": _split(row), "subset": "hard" if is_hard else "full"}
        if is_generation:
            options |= {
                "dtype": model["dtype"],
                "engine": {name: model[name] for name in _ENGINE if name in model},
                "template": row.typed.apply_chat_template is True,
                "server": model.get("base_url", ""),
                "values": {**shared, **_generation_arguments(row, values, model, gpus=place.gpus)},
            }
            # A server knows the name of a model, not where its files are.
            paths["model"] = row.model.path if options["server"] else place.model
        else:
            (generated,) = place.inputs.values()
            paths["samples"] = f"{generated}/{generated_programs.SAMPLES}"
            ks = ",".join(map(str, _read_ks(row)))
            evaluation = {"calibrated": values["calibrated"], "pass_k": ks}
            options["values"] = {**shared, **evaluation, "parallel": place.cpus}
        return Command(
            (
                *(place.python, *map(place.own_file, ("launcher.py", "options.json"))),
                *(word for pair in paths.items() for word in pair),
            ),
            env=_environment(place),
            files={"launcher.py": _launcher(), "options.json": json.dumps(options).encode()},
            address_space_gib=None,
            stack_mib=_STACK_MIB,
        )

    def check_output(self, row: Row, stage: RowStage, output: Path) -> None:
        """Raise InvalidOutputError unless all programs or their outcomes are there."""
        if stage.name == GENERATE:
            generated = generated_programs.read_generated(output)
            generated_programs.require_complete(generated, _values(row)["n_samples"])
            self._require_count(row, generated.problems, is_hard=_generates_hard(row))
        else:
            outputs.read_outcomes(output)
            problems = generated_programs.read_problems(output)
            self._require_count(row, problems.names, is_hard=_is_hard(row))

    def evaluation(self, row: Row, outputs_by_stage: Mapping[str, Path]) -> Evaluation:
        """Return the scores of a row; raises InvalidOutputError if its outputs hold none."""
        generated = generated_programs.read_generated(outputs_by_stage[GENERATE])
        generated_programs.require_complete(generated, _values(row)["n_samples"])
        problems = generated_programs.read_problems(outputs_by_stage[EVALUATE])
        outcomes = outputs.read_outcomes(outputs_by_stage[EVALUATE])
        outputs.require_same(generated, problems.names, outcomes)
        environment = Environment(
            framework_version=read_version(outputs_by_stage[EVALUATE], self.version),
            backend=row.typed.backend,
            dtype=_model_values(row)["dtype"] if row.typed.backend == "vllm" else "",
        )
        return outputs.make_evaluation(
            row, outcomes, _read_ks(row), environment=environment, digest=problems.hash[:16]
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

    def _require_count(self, row: Row, problems: Sequence[str], *, is_hard: bool) -> None:
        """Raise InvalidOutputError unless there are as many problems as a row asks for."""
        known = self.catalogue().tasks.get(_task(row, is_hard=is_hard))
        limit = self._limit(row)
        if row.typed.include_path or known is None or known.n_docs is None:
            is_right = 0 < len(problems) <= (limit or len(problems))
        else:
            is_right = len(problems) == count_documents(known.n_docs, limit)
        if not is_right:
            raise InvalidOutputError(f"it has {len(problems)} problems, not as many as asked for")


@functools.cache
def create_program() -> BigcodebenchProgram:
    """Return the adapter."""
    return BigcodebenchProgram()


def _split(row: Row) -> str:
    return row.typed.task_path.rpartition("-")[2]


def _is_hard(row: Row) -> bool:
    return row.typed.task_path.startswith("bigcodebench-hard-")


def _generates_hard(row: Row) -> bool:
    """Return whether the programs of a row are only those of the hard subset."""
    return _is_hard(row) and row.typed.limit is not None


def _task(row: Row, *, is_hard: bool) -> str:
    """Return the task of a subset with the split of a row."""
    return f"bigcodebench{'-hard' if is_hard else ''}-{_split(row)}"


def _data_set(is_hard: bool) -> str:
    return "bigcode/bigcodebench-hard" if is_hard else "bigcode/bigcodebench"


def _values(row: Row) -> dict[str, Any]:
    """Return the values of gen_kwargs; raises InputError for a bad one."""
    return row_settings.read_settings(row, {**_GENERATION, **_EVALUATION})


def _model_values(row: Row) -> dict[str, Any]:
    """Return the values of the model's arguments; raises InputError for a bad one."""
    return row_settings.read_model_arguments(row, _MODEL)


def _read_ks(row: Row) -> list[int]:
    """Return the k of each pass@k: those of the row, or those of 1, 5 and 10 that it allows."""
    values = _values(row)
    texts, most = values["pass_k"].split(","), values["n_samples"]
    if not all(text.strip().isascii() and text.strip().isdecimal() for text in texts):
        raise row.error(
            "gen_kwargs", f"pass_k: expected 1,5,10 or the like, got {values['pass_k']!r}"
        )
    ks = sorted(set(map(int, texts)))
    if "pass_k" not in row.typed.gen_kwargs:
        return [k for k in ks if k <= most]
    if not 1 <= ks[0] <= ks[-1] <= most:
        raise row.error("gen_kwargs", f"pass_k: expected numbers from 1 to n_samples, {most}")
    return ks


def _require_sampling(row: Row, values: Mapping[str, Any]) -> None:
    """Raise InputError for settings of sampling that contradict each other."""
    is_greedy = not values["temperature"]
    if is_greedy and values["n_samples"] > 1:
        raise row.error("gen_kwargs", "n_samples above 1 are all alike with temperature 0")
    if values.get("greedy", is_greedy) != is_greedy:
        raise row.error("gen_kwargs", "greedy=true means temperature 0, and false another one")


def _require_server(row: Row) -> None:
    """Raise InputError unless a row of openai, and no other, has the address of a server."""
    address = _model_values(row).get("base_url")
    if (address is None) == (row.typed.backend == "openai"):
        raise row.error("backend", "openai needs base_url in model_args, and no other takes it")
    if address is not None and not address.startswith(("http://", "https://")):
        raise row.error("model_args", f"base_url: expected an address of HTTP, got {address!r}")


def _require_chat_template(row: Row) -> None:
    """Raise InputError for a template that bigcodebench cannot apply, or cannot leave out."""
    applies = row.typed.apply_chat_template
    if isinstance(applies, str):
        raise row.error("apply_chat_template", f"expected true or false, got {applies!r}")
    if applies is False and row.typed.backend == "openai":
        raise row.error("apply_chat_template", "the server of openai always applies one")
    if applies is False and _split(row) == "instruct":
        raise row.error("apply_chat_template", "the split instruct is for chat models")


def _generation_arguments(
    row: Row, values: Mapping[str, Any], model: Mapping[str, Any], *, gpus: int
) -> dict[str, Any]:
    named = ("temperature", "n_samples", "max_new_tokens", "instruction_prefix", "response_prefix")
    arguments = {name: values[name] for name in named if name in values}
    return {
        **arguments,
        "backend": row.typed.backend,
        "greedy": not values["temperature"],
        "skip_prefill": values.get("skip_prefill", False),
        # Otherwise bigcodebench applies the template of a tokenizer that has one.
        "direct_completion": row.typed.apply_chat_template is False,
        "trust_remote_code": row.typed.trust_remote_code,
        "max_model_len": model["max_model_len"],
        "base_url": model.get("base_url"),
        "tp": max(gpus, 1),
    }


def _environment(place: Place) -> dict[str, str]:
    environment = {
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "VLLM_NO_USAGE_STATS": "1",
        # bigcodebench takes the number of GPUs from it, if it is there.
        "VLLM_N_GPUS": str(max(place.gpus, 1)),
    }
    if not place.gpus:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "VLLM_CPU_KVCACHE_SPACE": "1"}
    return environment


@functools.cache
def _launcher() -> bytes:
    return pkgutil.get_data(__package__, "launcher.py") or b""
