"""What the tasks of bigcode-evaluation-harness load and need, and which of them cannot be run.

definitions.json is made from the program's own classes by scripts/make-catalogue.
"""

from __future__ import annotations

import functools
import pkgutil
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from oellm.core import json_codec
from oellm.frameworks.program import Need, NeededDataSet, NeededMetric


class TaskDefinition(NamedTuple):
    """What a task is made of.

    Attributes:
        executes: Whether scoring runs the programs that the model wrote.
        data_sets: The data sets that it loads, with the names that it uses itself.
        metrics: The metrics of the library `evaluate` that it loads.
        prompt: The style of its prompts by default; None if it has no styles.
    """

    executes: bool
    data_sets: tuple[NeededDataSet, ...] = ()
    metrics: tuple[str, ...] = ()
    prompt: str | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TaskDefinition:
        """Read a definition of definitions.json."""
        return cls(
            executes=content["executes"],
            data_sets=tuple(NeededDataSet(*each) for each in content.get("data_sets", ())),
            metrics=tuple(content.get("metrics", ())),
            prompt=content.get("prompt"),
        )

    @property
    def needs(self) -> list[Need]:
        """What must be on the node."""
        return [*self.data_sets, *(NeededMetric(name) for name in self.metrics)]


class Toolchain(NamedTuple):
    """What the image of the evaluation must have for a programming language.

    Attributes:
        programs: The executables; one that is missing would fail every problem.
        image: Where an image with them comes from.
    """

    programs: tuple[str, ...]
    image: str


_MULTIPLE = (
    "bigcode_eval-multiple-cpu (oe-build) or, for cs, d, jl and swift, one made from "
    "ghcr.io/nuprl/multipl-e-evaluation"
)
_PACK = "one with that language's compiler (bigcode's docs, HumanEvalPack)"
_PROGRAMS = {
    "cpp": ("g++",),
    "cs": ("csc", "mono"),
    "d": ("rdmd",),
    "go": ("go",),
    "java": ("javac", "java"),
    "jl": ("julia",),
    "js": ("node",),
    "lua": ("lua",),
    "php": ("php",),
    "py": ("python3",),
    "r": ("Rscript",),
    "rb": ("ruby",),
    "rkt": ("racket",),
    "rs": ("rustc",),
    "rust": ("cargo",),
    "scala": ("scalac", "scala"),
    "sh": ("bash",),
    "swift": ("swiftc",),
    "ts": ("tsc", "node"),
}
_PACK_NAME = re.compile(r"humaneval(fixtests|fixdocs|explaindescribe|synthesize)-(.+)")
# Why tasks cannot be run, by the pattern of their names.
_IMPOSSIBLE = {
    r"apps-.*": "it needs the package pyext, which cannot be built for Python 3.11 or later",
    r"codexglue_code_to_text-.*": "it needs the package mosestokenizer, which images do not have",
    r"ds1000-.*": "it downloads its program while it runs, which needs libraries of 2021",
    r"humanevalexplainsynthesize-.*": "its prompts are what another task has generated",
    r"mercury": "it measures how fast programs run, which a sandbox changes",
    r"(santacoder|starcoder)_fim": "it knows models by their hub names only, and gets their files",
    r"multiple-(cljcpp|mlpl)": "at this version it joins two languages by mistake, and has no data",
    r"multiple-go": "at this version its evaluator runs no test of Go, and all pass",
    r"multiple-(dart|elixir|hs)": "at this version it has no evaluator for the language",
    r"(parity|quixbugs|studenteval|perturbed-.*)": "its result has no score of the whole task",
}


@functools.cache
def read_definitions() -> Mapping[str, TaskDefinition]:
    """Return the definitions of all tasks by name."""
    content = json_codec.loads(pkgutil.get_data(__package__, "definitions.json") or b"")
    return {name: TaskDefinition.from_json(each) for name, each in content.items()}


def find_obstacle(task: str) -> str:
    """Return why a task cannot be run; empty if it can."""
    reasons = (why for pattern, why in _IMPOSSIBLE.items() if re.fullmatch(pattern, task))
    return next(reasons, "")


def is_of_multiple(task: str) -> bool:
    """Return whether a task is one of MultiPL-E."""
    return task.startswith("multiple-")


def find_toolchain(task: str) -> Toolchain | None:
    """Return what evaluating a task needs in its image besides Python; None for nothing."""
    if is_of_multiple(task):
        language, image = task.removeprefix("multiple-"), _MULTIPLE
    elif match := _PACK_NAME.fullmatch(task):
        language, image = match[2], _PACK
    else:
        return None
    return Toolchain(_PROGRAMS[language], image) if language in _PROGRAMS else None
