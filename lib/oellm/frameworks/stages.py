"""The stages of a row: what one framework computes in one or two steps, each on its own resources.

Most rows have one stage, which asks the model and scores its answers. A row whose answers are
programs has two: the first generates them on a GPU, the second runs them in a sandbox without one.
"""

from __future__ import annotations

from typing import NamedTuple

# The names of stages. A row with one stage has only the second.
GENERATE = "generate"
EVALUATE = "evaluate"


class RowStage(NamedTuple):
    """A step of a row that is computed by itself.

    Attributes:
        name: GENERATE or EVALUATE.
        uses_gpu: Whether it asks the model, and so needs the GPUs of the row.
        runs_model_code: Whether it runs code that a model wrote, which only a sandbox may.
        is_resident: Whether the worker itself computes it, with one model load for many rows.
            Otherwise it is a program that the worker starts for each batch of rows.
        cpus: The CPU cores that it can use; 1 if it has no use for more.
        memory_gib: The least memory that it needs, in GiB.
    """

    name: str
    uses_gpu: bool
    runs_model_code: bool = False
    is_resident: bool = False
    cpus: int = 1
    memory_gib: int = 4


def environment_key(eval_suite: str, stage: RowStage, *, is_first: bool) -> str:
    """Return the key of the settings `images` and `venvs` for a stage of a framework.

    It is the framework's name, and for a later stage `FRAMEWORK-STAGE`.
    """
    return eval_suite if is_first else f"{eval_suite}-{stage.name}"
