"""The worker as one file that travels with a run: oe-run-task.pyz.

It holds this library, the command and docopt, all pure Python, so that any Python that has the
framework can run it. A run keeps its worker whatever is installed later.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import pkgutil
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from oellm.core import json_codec
from oellm.core.display import format_size
from oellm.core.regular_files import read_regular
from oellm.errors import MachineError, OellmError
from oellm.tasks import suites

_COMMAND = "oe_run_task"
# What the suites say about tasks; the archive has no files that they could be read from.
_PRIMARY_METRICS = "primary_metrics.json"
# The packages that add frameworks, by the names of these.
_ADDED = "added_frameworks.json"
_GROUP = "oellm.frameworks"
# Names end up in names of files and settings. A package inside another one would import that.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# A package with more than an adapter would make each run's worker large. In bytes.
_MOST = 16 * 10**6
_MAIN = "import sys\nfrom {entry} import main\nsys.exit(main())\n"
_SHEBANG = b"#!/usr/bin/env python3\n"
# The earliest time that a zip file can hold; with it the same sources always give the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)


class AddedFrameworks(NamedTuple):
    """What other packages add as frameworks, by the frameworks' names.

    Attributes:
        packages: The package of each framework.
        refused: Why a framework that a package adds cannot be used.
    """

    packages: Mapping[str, str]
    refused: Mapping[str, str] = {}  # nobody changes it


def freeze_worker(eval_suites: Iterable[str], entry: str = _COMMAND) -> bytes:
    """Return the worker as the bytes of an executable Python zip archive.

    It has the packages that add those of the frameworks that other packages add. `entry` is the
    module whose main() it runs. Raises MachineError if a package cannot travel.
    """
    files = {
        **_package(Path(__file__).parent.parent),
        **_package(_source("docopt").parent),
        **_added_packages(eval_suites),
        f"{_COMMAND}.py": _source(_COMMAND).read_bytes(),
        "__main__.py": _MAIN.format(entry=entry).encode(),
        f"oellm/runs/{_PRIMARY_METRICS}": json_codec.dumps(_read_primary_metrics()),
    }
    archive = io.BytesIO(_SHEBANG)
    archive.seek(len(_SHEBANG))
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as zipped:
        for name in sorted(files):
            zipped.writestr(zipfile.ZipInfo(name, _TIME), files[name], zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def worker_bytes() -> bytes:
    """Return the frozen worker: the archive that this process runs from, else a new one."""
    archive = getattr(__spec__.loader, "archive", None)
    return read_regular(archive) if archive else freeze_worker([])


@functools.cache
def primary_metrics() -> Mapping[str, Mapping[str, str]]:
    """Return, by framework, the primary metrics of tasks, as of when the worker was frozen."""
    try:
        frozen = pkgutil.get_data("oellm.runs", _PRIMARY_METRICS)
    except OSError:
        return _read_primary_metrics()
    named: dict[str, dict[str, str]] = json_codec.loads(frozen or b"{}")
    return named


def _read_primary_metrics() -> dict[str, dict[str, str]]:
    # Only a message needs them: the user's own suites may be damaged.
    with contextlib.suppress(OellmError, OSError):
        return suites.primary_metrics(os.environ)
    return {}


@functools.cache
def added_frameworks() -> AddedFrameworks:
    """Return the frameworks that other packages add by entry points (group `oellm.frameworks`).

    A job's Python has not installed these packages, so the frozen worker has them, and a list.
    """
    try:
        frozen = pkgutil.get_data("oellm.runs", _ADDED)
    except OSError:
        return _find_added()
    packages: dict[str, str] = json_codec.loads(frozen or b"{}")
    return AddedFrameworks(packages)


def _find_added() -> AddedFrameworks:
    # It takes about as long as the start of Python, and few commands need it.
    import importlib.metadata

    packages: dict[str, str] = {}
    refused: dict[str, str] = {}
    # The same package may be found twice, in two places of the path.
    entries = {(each.name, each.value) for each in importlib.metadata.entry_points(group=_GROUP)}
    for name, package in sorted(entries):
        if not _NAME.fullmatch(name):
            refused[name] = f"package {package}: expected a name of letters, digits and _"
        elif not _NAME.fullmatch(package):
            refused[name] = f"package {package}: expected a package that is in no other one"
        elif name in packages:
            refused[name] = f"both {packages[name]} and {package} add it; uninstall one of them"
        packages[name] = package
    return AddedFrameworks({n: p for n, p in packages.items() if n not in refused}, refused)


def _added_packages(eval_suites: Iterable[str]) -> dict[str, bytes]:
    """Return the packages that add some frameworks, and the list of them."""
    known = added_frameworks().packages
    used = {name: known[name] for name in sorted(set(eval_suites)) if name in known}
    files = {f"oellm/runs/{_ADDED}": json_codec.dumps(used)}
    for name, package in used.items():
        files |= _added_package(name, package)
    return files


def _added_package(framework: str, package: str) -> dict[str, bytes]:
    """Return all files of a package but compiled ones, by their names in the archive."""
    label = f"framework {framework} (package {package})"
    try:
        source = _source(package)
    except (ImportError, ValueError) as error:
        raise MachineError(f"{label}: {error}") from error
    if source.name != "__init__.py":
        raise MachineError(f"{label}: expected a folder with __init__.py, got {source}")
    paths = sorted(
        path
        for path in source.parent.rglob("*")
        if "__pycache__" not in path.parts and path.is_file()
    )
    if (size := sum(path.stat().st_size for path in paths)) > _MOST:
        most = format_size(_MOST)
        raise MachineError(
            f"{label}: it has {format_size(size)}, and would travel with each run; at most {most}: "
            "keep the framework itself out of the adapter's package"
        )
    root = source.parent.parent
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _source(module: str) -> Path:
    """Return the source file of a module without importing it: a library imports no command."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"no source of the module {module}")
    return Path(spec.origin)


def _package(directory: Path) -> dict[str, bytes]:
    """Return a package's modules and its schema, by their names in the archive."""
    return {
        path.relative_to(directory.parent).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.suffix in (".py", ".json") and path.relative_to(directory).parts[0] != "data"
    }
