"""How large the models of rows are, also where no column says it."""

from __future__ import annotations

import re

from oellm.manifest.rows import Row

# Bytes of a model that neither the manifest, nor its name, nor its files tell anything about: one
# of 7 billion parameters in two bytes each.
UNKNOWN = 14 * 10**9
# 160m, 7B, 1.7b, 8x7B between separators: parameters. A number without a unit may be a version or a
# training step.
_PARAMETERS = re.compile(
    r"(?:^|[-_])(?:([0-9]{1,3})x)?([0-9]{1,4}(?:\.[0-9]{1,3})?)([mMbB])(?=$|[-_.])"
)
_UNITS = {"m": 10**6, "b": 10**9}
# Bytes of a parameter; checkpoints that name no type mostly have two.
_WIDTHS = {"float32": 4, "fp32": 4, "float": 4, "int8": 1, "fp8": 1}
# More than any file system has, and little enough to reckon with.
_MOST = 10**15


class ModelSizes:
    """Sizes of models in bytes; a directory is looked into once, a name once."""

    def __init__(self) -> None:
        self._named: dict[tuple[str, ...], int] = {}

    def size(self, row: Row) -> int:
        """Return the bytes of a checked row's model, at least 1.

        From the column model_bytes, else from the parameters in the model's name and the type of
        its weights, else from the files of its directory, else UNKNOWN.
        """
        if (given := row.typed.model_bytes) is not None:
            return min(max(1, given), _MOST)
        key = (row["model_path"], row["model_args"], row["dtype"])
        if key not in self._named:
            self._named[key] = min(max(1, _named(row) or _stored(row) or UNKNOWN), _MOST)
        return self._named[key]


def parameters(path: str) -> int | None:
    """Return the parameters of a model that its path names: of the last directory that does.

    Of several numbers in one name the smallest counts: the others are tokens that it was trained
    on.
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
    count = parameters(row.model.path)
    dtype = str(row.model_arguments.get("dtype") or row["dtype"])
    return None if count is None else count * _WIDTHS.get(dtype, 2)


def _stored(row: Row) -> int | None:
    # It brings in all of urllib, which a row that says its size does not need.
    from oellm.models import local_models

    try:
        return local_models.size(row) if row.model.is_local else None
    # It may be on another machine, or be written just now.
    except OSError:
        return None
