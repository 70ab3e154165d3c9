"""The Python files of lib/ and commands/, what they import, and what they name.

The files are parsed, not imported, so a test can check a tree that it wrote itself.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Import(NamedTuple):
    """One imported module.

    Attributes:
        target: Dotted name of the module, for example `oellm.core.atomic` or `torch.utils`.
        line: Line number of the import statement.
        at_start: Whether the statement runs when its module is imported. Those in functions and
            below `if TYPE_CHECKING:` do not.
        may_fail: Whether the statement stands in a `try` that catches ImportError.
    """

    target: str
    line: int
    at_start: bool
    may_fail: bool


class Module(NamedTuple):
    """One parsed file.

    Attributes:
        name: Dotted name, for example `oellm.core.atomic`, or `oe_submit` for a command.
        file: Path below the root of the tree, for messages.
        lines: Number of lines.
        tree: The syntax tree.
        imports: The imports, in the order of their lines.
    """

    name: str
    file: str
    lines: int
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def is_command(self) -> bool:
        return self.file.startswith("commands/")

    @property
    def room(self) -> str:
        """The first folder below oellm, or the name of a file that lies beside the folders."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else self.name


Modules = Mapping[str, Module]


def parse_tree(root: Path) -> Modules:
    """Parse all files of lib/ and commands/ below a root; return them by their dotted names."""
    parsed = {}
    for folder in ("lib", "commands"):
        for path in sorted((root / folder).rglob("*.py")):
            name = ".".join(path.relative_to(root / folder).with_suffix("").parts)
            parsed[name.removesuffix(".__init__")] = path
    return {name: _parse(name, path, root, set(parsed)) for name, path in parsed.items()}


def is_third_party(target: str, *allowed: str) -> bool:
    """Return whether a module is neither Python's own, nor this project's, nor allowed."""
    top = target.partition(".")[0]
    known = {*sys.stdlib_module_names, "oellm", *allowed}
    return top not in known and not top.startswith("oe_")


def loaded_modules(modules: Modules, *starts: str, only_at_start: bool) -> list[Module]:
    """Return the modules that `starts` import, directly or not, and `starts` themselves.

    With `only_at_start`, imports within functions are not followed.
    """
    found: dict[str, Module] = {}
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name in found or name not in modules:
            continue
        found[name] = modules[name]
        # Python also runs the __init__.py of every package above a module.
        waiting += [name.rpartition(".")[0]]
        waiting += [
            imported.target
            for imported in modules[name].imports
            if imported.at_start or not only_at_start
        ]
    return list(found.values())


def find_circles(modules: Modules) -> list[list[Import | str]]:
    """Return circles of imports: the import that closes each one, and the names of its modules."""
    done: set[str] = set()
    path: list[str] = []
    circles: list[list[Import | str]] = []

    def visit(name: str) -> None:
        path.append(name)
        for imported in modules[name].imports:
            if imported.target in path:
                circles.append([imported, *path[path.index(imported.target) :], imported.target])
            elif imported.target in modules and imported.target not in done:
                visit(imported.target)
        done.add(path.pop())

    for name in modules:
        if name not in done:
            visit(name)
    return circles


def functions(module: Module) -> Iterator[tuple[str, int, int]]:
    """Yield name, first line and number of lines of each function."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1


def positional_arguments(module: Module) -> Iterator[tuple[str, int, int]]:
    """Yield what is called, the line, and the number of positional arguments, of each call."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            named = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
            yield ast.unparse(node.func), node.lineno, len(named)


def classes(module: Module) -> Iterator[tuple[str, int]]:
    """Yield name and first line of each class."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            yield node.name, node.lineno


def words(module: Module) -> Iterator[tuple[str, int]]:
    """Yield the identifiers and the strings of the code, except docstrings, with their lines."""
    docstrings = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.add(node.value)
    for node in ast.walk(module.tree):
        for _, value in ast.iter_fields(node):
            if isinstance(value, str) and node not in docstrings:
                yield value, getattr(node, "lineno", 0)


def _parse(name: str, path: Path, root: Path, names: set[str]) -> Module:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    imports = sorted(_imports(tree.body, names), key=lambda imported: imported.line)
    file = path.relative_to(root).as_posix()
    return Module(name, file, lines=text.count("\n"), tree=tree, imports=tuple(imports))


def _imports(
    nodes: list[ast.AST] | list[ast.stmt],
    names: set[str],
    at_start: bool = True,
    may_fail: bool = False,
) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in _targets(node, names):
                yield Import(target, node.lineno, at_start, may_fail)
            continue
        is_later = isinstance(node, _FUNCTIONS) or _is_for_type_checkers(node)
        is_tried = isinstance(node, ast.Try) and any(map(_catches_import_error, node.handlers))
        yield from _imports(
            list(ast.iter_child_nodes(node)),
            names,
            at_start=at_start and not is_later,
            may_fail=may_fail or is_tried,
        )


def _targets(node: ast.Import | ast.ImportFrom, names: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert not node.level, f"line {node.lineno}: a relative import"
    for alias in node.names:
        # `from oellm.core import atomic` imports a module; `from oellm.errors import X` does not.
        full = f"{node.module}.{alias.name}"
        yield full if full in names else str(node.module)


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    return handler.type is not None and "ImportError" in ast.unparse(handler.type)
