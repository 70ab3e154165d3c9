"""Model cells (`path,key=value`), lists of them, their order and their training steps."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TextIO

from oellm.errors import InputError

if TYPE_CHECKING:
    from oellm.models.checkpoints import Holding

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# A letter after the digits is a unit where it ends the name; step1000-tokens4B is step 1000.
_STEP = re.compile(
    r"(?:^|[_.-])(?:iter|(?:global_?)?step|checkpoint)[_-]?([0-9]+)(?:([kKMB])\Z|(?![0-9]))"
)
_NUMBER = re.compile(r"([0-9]+)")
_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
# Arguments that are secret: manifests and runs keep what they hold, for all to read.
_SECRET = ("token", "use_auth_token", "hf_token", "api_key")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model as a manifest names it: a local directory or hub id, and its model arguments."""

    path: str
    arguments: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Parse `path,key=value,…`; raises ValueError for anything else."""
        path, *rest = text.split(",")
        pairs = []
        for piece in rest:
            key, equals, value = piece.partition("=")
            if not equals or not key.strip():
                raise ValueError(f"expected key=value after the model's path, got {piece!r}")
            pairs.append((key.strip(), value.strip()))
        require_no_secret(dict(pairs))
        if not path.strip():
            raise ValueError(f"expected a model path or hub id, got {text!r}")
        if len(dict(pairs)) < len(pairs):
            raise ValueError(f"expected each model argument once, got {text!r}")
        return cls(path.strip(), tuple(pairs))

    def __str__(self) -> str:
        return ",".join([self.path, *(f"{key}={value}" for key, value in self.arguments)])

    @property
    def is_local(self) -> bool:
        """Whether the path names a directory rather than a hub id."""
        return looks_local(self.path)

    def at(self, path: str) -> ModelSpec:
        """Return the same arguments with another path."""
        return dataclasses.replace(self, path=path)


class ListedModel(NamedTuple):
    """A model that was asked for, and the list and line that name it, if one does."""

    spec: ModelSpec
    source: str = ""
    line: int | None = None

    def error(self, text: str) -> InputError:
        """Return an error about this model."""
        return InputError(text, self.source, self.line)


class Expansion(NamedTuple):
    """The models to evaluate, and of those left out the path and why, as `path: why`."""

    models: list[ModelSpec]
    broken: list[str]


def require_no_secret(arguments: Iterable[str]) -> None:
    """Raise ValueError where one of these arguments of a model is a secret."""
    for name in arguments:
        if name.lower() in _SECRET:
            raise ValueError(
                f"expected no argument {name!r}, which files would show: "
                "set the environment variable HF_TOKEN instead"
            )


def looks_local(path: str) -> bool:
    """Return whether `path` is a path on this machine: written as one, or an existing directory."""
    return path.startswith(("/", "./", "../", "~")) or path in (".", "..") or os.path.isdir(path)


def split_models(text: str) -> list[ModelSpec]:
    """Split a comma-separated list of models; `key=value` belongs to the model before it."""
    cells: list[str] = []
    for piece in (piece.strip() for piece in text.split(",")):
        if not piece:
            continue
        if cells and re.match(r"[A-Za-z_]\w*=", piece):
            cells[-1] += f",{piece}"
        else:
            cells.append(piece)
    return [ModelSpec.parse(cell) for cell in cells]


def read_list(
    stream: TextIO, source: str, added: tuple[tuple[str, str], ...] = ()
) -> Iterator[ListedModel]:
    """Yield the models of a list, one cell a line, each with the `added` arguments too.

    Blank lines and those that start with # do not count. Raises InputError with the line of what is
    no model, and for a list without any.
    """
    number = 0
    empty = True
    try:
        for line in stream:
            number += 1
            cell = line.strip()
            if not cell or cell.startswith("#"):
                continue
            empty = False
            try:
                spec = ModelSpec.parse(str(ModelSpec(cell, added)))
            except ValueError as error:
                raise InputError(str(error), source, number) from None
            yield ListedModel(spec, source, number)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        # Text is decoded in blocks: the byte may be lines after the last one that was read.
        number += 1 + error.object.count(b"\n", 0, error.start)
        raise InputError(f"expected UTF-8 text, got byte 0x{byte:02x}", source, number) from None
    if empty:
        raise InputError("expected a model on each line, got none", source)


def expand(
    listed: Sequence[ListedModel],
    which: Sequence[str] = (),
    further: Mapping[str, str] = MappingProxyType({}),
) -> Expansion:
    """Return the models, with the checkpoints below a directory in place of the directory.

    `which` selects among the checkpoints (see checkpoints.Selection). `further` are arguments that
    each model will be loaded with besides its own, which prevail. Local paths become absolute.
    Raises InputError for a path that holds no model, UsageError for a selection that fits nothing.
    """
    for model in listed:
        if not model.spec.is_local and not _HUB_ID.fullmatch(model.spec.path):
            raise model.error(f"{model.spec.path!r} is neither a directory nor a hub id (org/name)")
    if not which and not any(model.spec.is_local for model in listed):
        return Expansion([model.spec for model in listed], [])
    from oellm.models import checkpoints

    selection = checkpoints.Selection.parse(which)
    arguments = [{**further, **dict(model.spec.arguments)} for model in listed]
    holdings = [
        _holding(model, given.get("subfolder", "")) if model.spec.is_local else None
        for model, given in zip(listed, arguments, strict=True)
    ]
    selection.require_fit([run for holding in holdings if holding for run in holding.runs])
    expansion = Expansion([], [])
    for model, holding, given in zip(listed, holdings, arguments, strict=True):
        if holding is None:
            expansion.models.append(model.spec)
            continue
        expansion.broken.extend(holding.unreadable)
        for path, problem in checkpoints.examined(holding, selection, given):
            if problem:
                expansion.broken.append(f"{path}: {problem}")
            elif "," in path or path != path.strip():
                raise model.error(
                    f"{path!r}: a model's path cannot have a comma, or blanks at its ends"
                )
            else:
                expansion.models.append(model.spec.at(path))
    return expansion


def natural_key(path: str) -> list[tuple[list[str | int], str]]:
    """Return a sort key that orders numbers by value, directory by directory.

    iter_2000 comes before iter_10000, and iter_01 before iter_1: distinct paths have distinct keys.
    """
    # Texts and numbers take turns, so that only like is compared with like.
    return [
        ([int(part) if place % 2 else part for place, part in enumerate(_NUMBER.split(name))], name)
        for name in path.split("/")
    ]


def training_step(path: str, revision: str = "") -> int | None:
    """Return the training step that a checkpoint's name or revision gives, if it gives one.

    Reads `iter_0001000`, `step100000`, `global_step500`, `checkpoint-500`, `step-100k`; the last
    directory of the path that gives one counts, and the revision before the path.
    """
    for name in [revision, *reversed(path.split("/"))]:
        match = _STEP.search(name)
        if match:
            return int(match.group(1)) * _UNITS[match.group(2) or ""]
    return None


def training_run(model: str) -> str:
    """Return a model cell without what gives its training step: all checkpoints of a run share it.

    `runs/a/iter_0001000` becomes `runs/a`, and `org/a,revision=step1000` becomes `org/a`.
    """
    path, *arguments = model.split(",")
    for place, argument in enumerate(arguments):
        name, _, revision = argument.partition("=")
        if name.strip() == "revision" and training_step("", revision.strip()) is not None:
            return ",".join([path, *arguments[:place], *arguments[place + 1 :]])
    names = path.split("/")
    for place in reversed(range(len(names))):
        if match := _STEP.search(names[place]):
            # What follows a step in its name (`step1000-tokens4B`) changes with it.
            kept = names[place][: match.start()]
            names[place : place + 1] = [kept] if kept else []
            break
    return ",".join(["/".join(names).rstrip("/") or path, *arguments])


def _holding(model: ListedModel, subfolder: str) -> Holding:
    """Return what a local model's directory holds."""
    from oellm.models import checkpoints

    root = os.path.abspath(os.path.expanduser(model.spec.path))
    if os.path.isfile(root):
        raise model.error(f"{root}: a file; a model is named by its directory")
    if not os.path.isdir(root):
        raise model.error(f"{root}: no such directory")
    holding = checkpoints.search(root, subfolder)
    if not any(holding):
        raise model.error(
            f"{root}: no model here: no config.json and no weights in it or in directories below it"
        )
    return holding
