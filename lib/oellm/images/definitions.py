"""The definitions of containers/, and what an image of one is made of."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from oellm.clusters.image_digest import hash_file
from oellm.core.paths import data_file
from oellm.core.redaction import redact
from oellm.core.regular_files import read_regular
from oellm.errors import InputError, UsageError, nearest

# What the name of an image's file ends with.
SUFFIX = ".sif"
# A definition file of this name makes an image of each lock file: `NAME-KIND`.
_OF_LOCK_FILES = "framework-"
_FILE = ".def"
_LOCK_FILES = "requirements"
# What such a definition for machines without a GPU is for; the others need a torch.
_CPU = "cpu"
# The argument of such a definition that names the lock file.
_NAME = "NAME"
_REFERENCE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_LOCAL = "localimage"
_DIGITS = 16


class ImageDefinition(NamedTuple):
    """What makes an image.

    Attributes:
        name: The name of the image.
        path: The definition file.
        arguments: The arguments that the name stands for.
        root: The directory that the sources of its %files are relative to.
    """

    name: str
    path: Path
    arguments: Mapping[str, str]
    root: Path


class BuildInputs(NamedTuple):
    """What an image is made of; two images of equal inputs are equal enough.

    Attributes:
        definition: Digest of the definition file, without the comments of its head.
        files: Digest of each file that the image gets, by its path.
        arguments: The build arguments that are given, without secrets.
        base: The base image as `docker://NAME`; that of a local one has its size and time.
    """

    definition: str
    files: Mapping[str, str]
    arguments: Mapping[str, str]
    base: str

    def to_json(self) -> dict[str, Any]:
        """Return the inputs as a record has them."""
        return {
            "definition": self.definition,
            "files": dict(self.files),
            "arguments": dict(self.arguments),
            "base": self.base,
        }

    def differences(self, recorded: Mapping[str, Any]) -> list[str]:
        """Return what is different from recorded inputs, in words."""
        found = []
        if recorded.get("definition") != self.definition:
            found.append("definition changed")
        before = recorded.get("files")
        before = before if isinstance(before, dict) else {}
        for path in sorted({*before, *self.files}):
            if before.get(path) != self.files.get(path):
                kind = "lock file" if _LOCK_FILES in Path(path).parts else "file"
                found.append(f"{kind} changed: {Path(path).name}")
        if recorded.get("base") != self.base:
            found.append(f"base changed: {self.base}")
        if recorded.get("arguments") != self.arguments:
            found.append("arguments changed")
        return found


def containers_directory() -> Path:
    """Return the directory of the definitions that come with oellm."""
    return data_file("containers")


def definition_names(containers: Path) -> list[str]:
    """Return the names of all images that the definitions of a directory can make.

    A definition makes the image of its own name. framework-KIND.def makes an image LOCK-KIND of
    every lock file that has no definition of its own name; for a GPU, only of those with torch.
    """
    found = {path.stem for path in containers.glob(f"*{_FILE}")}
    kinds = [stem.removeprefix(_OF_LOCK_FILES) for stem in found if stem.startswith(_OF_LOCK_FILES)]
    for lock in (containers / _LOCK_FILES).glob("*.txt"):
        if lock.stem not in found:
            found |= {f"{lock.stem}-{kind}" for kind in kinds if _makes(lock, kind)}
    return sorted(name for name in found if not name.startswith(_OF_LOCK_FILES))


def definition_of_image(image: Path) -> str:
    """Return the definition that comes with oellm and makes an image; empty if none does."""
    known = definition_names(containers_directory()) if image.suffix == SUFFIX else []
    return image.stem if image.stem in known else ""


def _makes(lock: Path, kind: str) -> bool:
    """Return whether a lock file makes an image of a kind."""
    if kind == _CPU:
        return True
    return not lock.stem.endswith(f"-{_CPU}") and b"\ntorch==" in read_regular(lock)


def find_definition(name: str, containers: Path) -> ImageDefinition:
    """Return the definition of this name, or in a file of this path, which ends in .def.

    Raises UsageError if there is none.
    """
    if name.endswith(_FILE):
        path = Path(name).absolute()
        if not path.is_file():
            raise UsageError(f"{name}: no such file")
        # The runtime resolves %files against the working directory.
        return ImageDefinition(path.stem, path, {}, root=Path.cwd())
    known = definition_names(containers)
    if name not in known:
        hint = nearest(name, known)
        raise UsageError(f"unknown definition {name!r}{hint}; oe-build --list shows them")
    own = containers / f"{name}{_FILE}"
    if own.is_file():
        return ImageDefinition(name, own, {}, root=containers.parent)
    lock, _, kind = name.rpartition("-")
    path = containers / f"{_OF_LOCK_FILES}{kind}{_FILE}"
    return ImageDefinition(name, path, {_NAME: lock}, root=containers.parent)


class DefinitionText:
    """A definition file as far as oellm reads it.

    Attributes:
        defaults: The arguments that the file has, with their default values.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = read_regular(path)
        try:
            lines = self._content.decode().splitlines()
        except UnicodeDecodeError:
            raise InputError("expected UTF-8 text", str(path)) from None
        self._head: list[str] = []
        self._sections: dict[str, list[str]] = {}
        body = self._head
        for line in lines:
            if match := re.match(r"%(\w+)(\s+from\s)?", line):
                # `%files from STAGE` names files of another stage, not of this machine.
                body = [] if match[2] else self._sections.setdefault(match[1], [])
            else:
                body.append(line)
        pairs = (line.strip().partition("=") for line in self._sections.get("arguments", ()))
        self.defaults = {key: value for key, equals, value in pairs if equals}

    def digest(self) -> str:
        """Return a digest of the file that does not depend on comments before the first section."""
        head = [line for line in self._head if not line.lstrip().startswith("#")]
        rest = self._content.decode().partition("\n%")[2]
        return _digest(("\n".join(head) + "\n%" + rest).encode())

    def base(self, arguments: Mapping[str, str]) -> tuple[str, str]:
        """Return how the base image is got, such as `docker`, and its name."""
        values = {**self.defaults, **arguments}
        pairs = (line.partition(":") for line in self._head if not line.startswith("#"))
        fields = {key.strip().lower(): _fill(value.strip(), values) for key, _, value in pairs}
        return fields.get("bootstrap", ""), fields.get("from", "")

    def sources(self, arguments: Mapping[str, str]) -> Iterator[str]:
        """Yield the paths of the files that the image gets."""
        values = {**self.defaults, **arguments}
        for line in self._sections.get("files", ()):
            try:
                words = shlex.split(_fill(line, values), comments=True)
            except ValueError as error:
                text = f"expected paths, got {line.strip()!r}: {error}"
                raise InputError(text, str(self._path), column="%files") from None
            if words:
                yield words[0]


def read_inputs(definition: ImageDefinition, arguments: Mapping[str, str]) -> BuildInputs:
    """Return what an image of a definition is made of.

    Raises InputError if the file is no definition or names a file that is missing, and OSError if
    one cannot be read.
    """
    try:
        return _read_inputs(definition, arguments)
    except FileNotFoundError as error:
        place = str(definition.path)
        raise InputError(f"it needs {error.filename}, which is not there", place) from None


def _read_inputs(definition: ImageDefinition, arguments: Mapping[str, str]) -> BuildInputs:
    root = definition.root
    text = DefinitionText(definition.path)
    given = {**definition.arguments, **arguments}
    bootstrap, name = text.base(given)
    return BuildInputs(
        definition=text.digest(),
        files={
            path: _digest_of_source(root / path)
            for source in text.sources(given)
            for path in _matches(source, root)
        },
        arguments={key: redact(value) for key, value in given.items()},
        base=redact(_describe_base(bootstrap, name, root)),
    )


def select_arguments(
    definitions: Iterable[ImageDefinition], arguments: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Return, by the name of each definition, the arguments that it has.

    Raises UsageError for an argument that none of them has.
    """
    selected: dict[str, dict[str, str]] = {}
    known: set[str] = set()
    for definition in definitions:
        own = DefinitionText(definition.path).defaults.keys() - definition.arguments.keys()
        known |= own
        selected[definition.name] = {key: value for key, value in arguments.items() if key in own}
    for key in arguments:
        if selected and key not in known:
            hint = nearest(key, sorted(known))
            raise UsageError(f"--arg: no definition has the argument {key!r}{hint}")
    return selected


def _fill(text: str, values: Mapping[str, str]) -> str:
    return _REFERENCE.sub(lambda match: values.get(match.group(1), match.group(0)), text)


def _describe_base(bootstrap: str, name: str, root: Path) -> str:
    if bootstrap != _LOCAL:
        return f"{bootstrap}://{name}"
    status = os.stat(root / name)
    return f"{bootstrap}://{name} ({status.st_size} bytes, {status.st_mtime_ns})"


def _matches(source: str, root: Path) -> list[str]:
    """Return the files that a source of %files matches as a pattern, or else itself."""
    found = [] if (root / source).exists() else sorted(glob.glob(source, root_dir=root))
    return found or [source]


def _digest_of_source(path: Path) -> str:
    if not path.is_dir():
        return hash_file(path)[:_DIGITS]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    parts = (f"{file.relative_to(path)} {hash_file(file)[:_DIGITS]}\n" for file in files)
    return _digest("".join(parts).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
