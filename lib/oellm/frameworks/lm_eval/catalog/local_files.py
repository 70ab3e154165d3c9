"""Digests of the files that a task's definition names: its Python code, and its local data.

Nothing is imported or run. What Python code names is found in its syntax tree, on the side of too
much: any text in it that is the name of a file beside it counts.
"""

from __future__ import annotations

import ast
import glob
import hashlib
import os
import stat
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from oellm.core.regular_files import open_regular
from oellm.frameworks.lm_eval.catalog import composed_names

# Bytes that are read of all files of a data set together. A file that is longer than its share is
# known by its size and by evenly spread blocks, at least four.
_READ = 2**26
_BLOCK = 2**14
_FEWEST_BLOCKS = 4
# A longer text in Python code is not the name of a file.
_LONGEST_NAME = 255
_LARGEST_CODE = 2**22
_MOST_CODE_FILES = 500
_MOST_DATA_FILES = 2_000


class UnknownContentError(Exception):
    """The content that a task depends on cannot be told: too much, or not readable."""


class _FileState(NamedTuple):
    """What tells a file from what it was before."""

    path: str
    inode: int
    size: int
    mtime_ns: int


_digests: dict[tuple[_FileState, int], str] = {}
_named: dict[_FileState, frozenset[str]] = {}


def file_digest(path: str, files: int = 1) -> str:
    """Return a digest of the content of a regular file, one of `files`.

    Raises UnknownContentError if it cannot be read.
    """
    try:
        with open_regular(path, buffering=0) as stream:
            status = os.fstat(stream.fileno())
            known = _state(path, status), files
            if known not in _digests:
                blocks = max(_FEWEST_BLOCKS, _READ // _BLOCK // files)
                _digests[known] = _digest(stream.fileno(), status.st_size, blocks)
            return _digests[known]
    except OSError as error:
        raise UnknownContentError(f"{path}: {error.strerror or error}") from None


def directory_digest(root: str) -> str:
    """Return a digest of all regular files below a directory; raises UnknownContentError."""
    found: list[str] = []
    seen = 0
    for directory, folders, names in os.walk(root):
        folders.sort()
        seen += len(folders) + len(names)
        if seen > _MOST_DATA_FILES:
            raise UnknownContentError(f"{root}: more than {_MOST_DATA_FILES} files")
        found += filter(is_regular, (os.path.join(directory, name) for name in sorted(names)))
    content = hashlib.sha256()
    for path in found:
        name = os.fsencode(os.path.relpath(path, root))
        content.update(name + f"\0{file_digest(path, len(found))}\n".encode())
    return content.hexdigest()


def matching_files(pattern: str) -> list[str]:
    """Return the regular files that a path or a pattern means; raises UnknownContentError."""
    if is_regular(pattern):
        return [pattern]
    if "**" in pattern:
        raise UnknownContentError(f"{pattern}: it may mean any number of files")
    found = list(islice(filter(is_regular, glob.iglob(pattern)), _MOST_DATA_FILES + 1))
    if len(found) > _MOST_DATA_FILES:
        raise UnknownContentError(f"{pattern}: more than {_MOST_DATA_FILES} files")
    return sorted(found)


def is_regular(path: str) -> bool:
    """Return whether there is a regular file, or a link to one."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    # A text with a NUL is no path either.
    except (OSError, ValueError):
        return False


def code_files(path: str, packages: str) -> dict[str, str]:
    """Return the digests of a Python file and of what it names, by a name of each.

    Those are modules and other files beside it, and modules of the package lm_eval.tasks, which
    lies in the directory `packages` (empty: nowhere); and what these modules name. The names do
    not depend on where the files lie. Raises UnknownContentError.
    """
    start = os.path.dirname(path)
    found: dict[str, str] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        name = _name(file, start=start, packages=packages)
        if name in found:
            continue
        if len(found) >= _MOST_CODE_FILES:
            raise UnknownContentError(f"{path}: it leads to more than {_MOST_CODE_FILES} files")
        if not file.endswith(".py") and _is_empty(file):
            # It may tell the code something by being there, but no answer depends on its content.
            continue
        found[name] = file_digest(file)
        if file.endswith(".py"):
            waiting += _named_files(file, start=start, packages=packages)
    return found


def _is_empty(path: str) -> bool:
    try:
        return os.stat(path).st_size == 0
    except OSError:
        return False


def _digest(descriptor: int, size: int, blocks: int) -> str:
    content = hashlib.sha256(f"{size}\n".encode())
    if size <= blocks * _BLOCK:
        while part := os.read(descriptor, 2**20):
            content.update(part)
    else:
        for number in range(blocks):
            place = (size - _BLOCK) * number // (blocks - 1)
            content.update(os.pread(descriptor, _BLOCK, place))
    return content.hexdigest()


def _state(path: str, status: os.stat_result) -> _FileState:
    return _FileState(path, inode=status.st_ino, size=status.st_size, mtime_ns=status.st_mtime_ns)


def _name(file: str, start: str, packages: str) -> str:
    if packages and file.startswith(os.path.join(packages, "")):
        return os.path.relpath(file, packages)
    relative = os.path.relpath(file, start)
    return file if relative.startswith("..") else relative


def _named_files(file: str, start: str, packages: str) -> Iterator[str]:
    """Yield the files that the code in a file names."""
    beside = dict.fromkeys((os.path.dirname(file), start))
    # On a parallel file system, asking for each name would take long.
    present = {directory: _entries(directory) for directory in (*beside, packages) if directory}
    for text in sorted(_texts(file)):
        of_modules = f"{text.replace('.', '/')}.py", f"{text.replace('.', '/')}/__init__.py"
        is_task_module = packages and text.startswith("lm_eval.tasks.")
        for directory in (packages,) if is_task_module else beside:
            for name in (text,) if os.path.isabs(text) else (text, *of_modules):
                if os.path.isabs(name) or name.split("/")[0] in present[directory]:
                    path = os.path.normpath(os.path.join(directory, name))
                    if is_regular(path):
                        yield path
    yield from filter(is_regular, composed_names.find_files(_texts(file), beside))


def _entries(directory: str) -> frozenset[str]:
    try:
        return frozenset([*os.listdir(directory), ".", ".."])
    except OSError:
        return frozenset()


def _texts(file: str) -> frozenset[str]:
    """Return the names of modules, and all short texts, in a Python file."""
    try:
        with open_regular(file) as stream:
            state = _state(file, os.fstat(stream.fileno()))
            if state not in _named:
                tree = ast.parse(stream.read(_LARGEST_CODE))
                _named[state] = frozenset(_tree_texts(tree, os.path.dirname(file)))
            return _named[state]
    except OSError as error:
        raise UnknownContentError(f"{file}: {error.strerror or error}") from None
    # Of this Python; the one of the jobs may read it.
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnknownContentError(f"{file}: {error}") from None


def _tree_texts(tree: ast.Module, directory: str) -> Iterator[str]:
    endings: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            for parts in (module, *([*module, alias.name] for alias in node.names)):
                if node.level:
                    # A dot is the directory itself; each further one is the directory above.
                    above = os.path.join(directory, *[".."] * (node.level - 1), *parts)
                    yield from (f"{above}.py", os.path.join(above, "__init__.py"))
                else:
                    yield ".".join(parts)
        elif isinstance(node, ast.JoinedStr):
            parts = [
                str(each.value) if isinstance(each, ast.Constant) else "*" for each in node.values
            ]
            # An ending alone would mean more files than the whole text does.
            endings.update(id(each) for each in node.values)
            yield from filter(_may_be_name, ("".join(parts),))
        elif isinstance(node, ast.Constant) and _may_be_name(node.value):
            text = str(node.value)
            if id(node) not in endings or not text.startswith("."):
                yield text


def _may_be_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and "\n" not in value
