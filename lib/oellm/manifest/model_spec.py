"""Model cells (`path,key=value`), and lists of them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from oellm.manifest.argument_texts import argument_text, shown_text, split_pieces, value_text

# org/name, or one of the first models, which have no org.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Arguments that are secret. Everybody can read manifests and run directories.
_SECRET = ("token", "use_auth_token", "hf_token", "api_key")
# Commas in a directory's name for which the file system is asked.
_MOST_COMMAS = 15


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model as a manifest names it: a local directory or hub id, and its model arguments.

    The text of each argument is the one that stands for all spellings of its value: `true` for
    `True`, JSON for lists and objects. A path that a cell could not show plainly is quoted as JSON:
    `"/runs/lr=1,bs=8",dtype=float16`.
    """

    path: str
    arguments: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Parse `path,key=value,…`; raises ValueError for anything else."""
        first, *rest = split_pieces(text)
        path = plain_path(first)
        pairs = []
        for piece in rest:
            key, equals, value = piece.partition("=")
            if not equals or not key.strip():
                raise ValueError(
                    f"expected key=value after the model's path, got {piece!r}{_json_hint(text)}"
                )
            pairs.append((key.strip(), argument_text(key.strip(), value.strip())))
        require_no_secret(dict(pairs))
        if not path.strip():
            raise ValueError(f"expected a model path or hub id, got {text!r}")
        if len(dict(pairs)) < len(pairs):
            raise ValueError(f"expected each model argument once, got {text!r}")
        return cls(path, tuple(pairs))

    @classmethod
    def of(cls, path: str, arguments: Mapping[str, Any]) -> ModelSpec:
        """Return a model with arguments of any JSON type; their texts are as `parse` makes them."""
        return cls(path, tuple((name, value_text(name, each)) for name, each in arguments.items()))

    def __str__(self) -> str:
        return ",".join([_shown_path(self.path), *_pairs(self.arguments)])

    @property
    def is_local(self) -> bool:
        """Whether the path names a directory rather than a hub id."""
        return looks_local(self.path)

    def at(self, path: str) -> ModelSpec:
        """Return the same arguments with another path."""
        return dataclasses.replace(self, path=path)


def require_no_secret(arguments: Iterable[str]) -> None:
    """Raise ValueError if one of these arguments of a model is a secret."""
    for name in arguments:
        if name.lower() in _SECRET:
            raise ValueError(
                f"expected no argument {name!r}: files would show it; "
                "set the environment variable HF_TOKEN instead"
            )


def looks_local(path: str) -> bool:
    """Return whether `path` is a path on this machine: written as one, or an existing directory."""
    return path.startswith(("/", "./", "../", "~")) or path in (".", "..") or is_directory(path)


def is_directory(path: str) -> bool:
    """Return whether a path names an existing directory."""
    # Paths from a file may hold anything, NUL included.
    return "\0" not in path and os.path.isdir(os.path.expanduser(path))


def split_models(text: str) -> list[ModelSpec]:
    """Split a comma-separated list of models; `key=value` belongs to the model before it.

    An existing directory is a model, also if its name has commas or looks like `key=value`.
    """
    cells: list[str] = []
    pieces = [piece.strip() for piece in split_pieces(text)]
    while pieces:
        if not pieces[0]:
            del pieces[0]
            continue
        count = _count_pieces_of_directory(pieces)
        if count:
            cells.append(_shown_path(",".join(pieces[:count])))
        elif cells and re.match(r"[A-Za-z_]\w*=", pieces[0]):
            cells[-1] += f",{pieces[0]}"
        else:
            cells.append(pieces[0])
        del pieces[: max(count, 1)]
    return [ModelSpec.parse(cell) for cell in cells]


def _json_hint(text: str) -> str:
    """Return where to put arguments with lists and objects, if a cell seems to have some."""
    if not re.search(r"=\s*[\[{]", text):
        return ""
    return "; a list or object must be JSON, here or in model_args (--model_args)"


def parse_listed(text: str, added: tuple[tuple[str, str], ...] = ()) -> ModelSpec:
    """Parse a cell in which an existing directory may have commas; add arguments to its own.

    Raises ValueError for a text that is no model.
    """
    pieces = split_pieces(text)
    if count := _count_pieces_of_directory(pieces):
        pieces[:count] = [_shown_path(",".join(pieces[:count]).strip())]
    return ModelSpec.parse(",".join([*pieces, *_pairs(added)]))


def _count_pieces_of_directory(pieces: Sequence[str]) -> int:
    """Return how many of the first pieces are the path of an existing directory; the most count."""
    if pieces[0].startswith('"'):
        return 0
    most = min(len(pieces), _MOST_COMMAS + 1)
    counts = range(most, 0, -1)
    return next((n for n in counts if is_directory(",".join(pieces[:n]).strip())), 0)


def _pairs(arguments: Iterable[tuple[str, str]]) -> Iterator[str]:
    return (f"{name}={shown_text(name, text)}" for name, text in arguments)


def _shown_path(path: str) -> str:
    """Return a path as a cell shows it: in quotes if it could be read as something else."""
    is_plain = "," not in path and path == path.strip() and path[:1] != '"' and path.isprintable()
    return path if is_plain else json.dumps(path, ensure_ascii=False)


def plain_path(text: str) -> str:
    """Return the path that the first piece of a cell shows."""
    path = text.strip()
    if not path.startswith('"'):
        return path
    try:
        return str(json.loads(path))
    except ValueError:
        return path
