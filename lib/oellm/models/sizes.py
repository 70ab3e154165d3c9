"""How large the models of rows are, even if no column says so."""

from __future__ import annotations

import re

from oellm.manifest.rows import Row
from oellm.models import local_models

# Bytes of a model whose size neither the manifest nor its name nor its files tell: 7 billion
# parameters of two bytes each.
UNKNOWN = 14 * 10**9
# Parameters: 160m, 7B, 1.7b or 8x7B between separators. A number without a unit may be a version or
# a training step.
_PARAMETERS = re.compile(
    r"(?:^|[-_])(?:([0-9]{1,3})x)?([0-9]{1,4}(?:\.[0-9]{1,3})?)([mMbB])(?=$|[-_.])"
)
_UNITS = {"m": 10**6, "b": 10**9}
# Bytes of a parameter; two in most checkpoints whose name gives no type.
_WIDTHS = {"float32": 4, "fp32": 4, "float": 4, "int8": 1, "fp8": 1}
# Upper bound in bytes: more than any file system has, yet safe to calculate with.
_MOST = 10**15
# Models whose sizes differ by at most this share of the larger one count as equal in size.
_SAME_SIZE = 0.2


class ModelSizes:
    """Sizes of models in bytes; looks into each directory once, and at each name once."""

    def __init__(self) -> None:
        self._named: dict[tuple[str | None, ...], int] = {}

    def size(self, row: Row) -> int:
        """Return the bytes of a checked row's model, at least 1.

        The size comes from the column model_bytes, else from the parameters in the model's name and
        the type of its weights, else from the files of its directory, else it is UNKNOWN.
        """
        if row.cells.get("model_bytes"):
            return min(max(1, row.typed.model_bytes or 0), _MOST)
        key = tuple(map(row.cells.get, ("model_path", "model_args", "dtype")))
        if key not in self._named:
            self._named[key] = min(max(1, _named(row) or _stored(row) or UNKNOWN), _MOST)
        return self._named[key]


def is_same_size(one: int, other: int) -> bool:
    """Return whether models of two sizes count as equal in size."""
    return abs(one - other) <= _SAME_SIZE * max(one, other)


def count_parameters(path: str) -> int | None:
    """Return the number of parameters that a model's path gives; its last directory counts first.

    The smallest of several numbers in one name counts; the others are tokens of its training.
    """
    for name in reversed(path.split("/")):
        if found := _PARAMETERS.findall(name):
            counts = (
                int(many or 1) * float(number) * _UNITS[unit.lower()]
                for many, number, unit in found
            )
            return round(min(counts))
    return None


def _named(row: Row) -> int | None:
    count = count_parameters(row.model.path)
    dtype = str(row.model_arguments.get("dtype") or row["dtype"])
    return None if count is None else count * _WIDTHS.get(dtype, 2)


def _stored(row: Row) -> int | None:
    try:
        return local_models.count_bytes(row) if row.model.is_local else None
    # The directory may be on another machine, or change while we look.
    except OSError:
        return None
