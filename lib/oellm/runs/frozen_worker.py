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
import zipfile
from collections.abc import Mapping
from pathlib import Path

from oellm.core import json_codec
from oellm.core.regular_files import read_regular
from oellm.errors import OellmError
from oellm.tasks import suites

_COMMAND = "oe_run_task"
# What the suites say about tasks; the archive has no files that they could be read from.
_PRIMARY_METRICS = "primary_metrics.json"
# The packages that add frameworks, by the names of these.
_ADDED = "added_frameworks.json"
_GROUP = "oellm.frameworks"
_MAIN = f"import sys\nfrom {_COMMAND} import main\nsys.exit(main())\n"
_SHEBANG = b"#!/usr/bin/env python3\n"
# The earliest time that a zip file can hold; with it the same sources always give the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)


def freeze_worker() -> bytes:
    """Return the worker as the bytes of an executable Python zip archive."""
    files = {
        **_package(Path(__file__).parent.parent),
        **_package(_source("docopt").parent),
        **_added_packages(),
        f"{_COMMAND}.py": _source(_COMMAND).read_bytes(),
        "__main__.py": _MAIN.encode(),
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
    return read_regular(archive) if archive else freeze_worker()


@functools.cache
def primary_metrics() -> Mapping[str, str]:
    """Return the primary metric of each task that has one, as of when the worker was frozen."""
    try:
        frozen = pkgutil.get_data("oellm.runs", _PRIMARY_METRICS)
    except OSError:
        return _read_primary_metrics()
    named: dict[str, str] = json_codec.loads(frozen or b"{}")
    return named


def _read_primary_metrics() -> dict[str, str]:
    # Only a message needs them: the user's own suites may be damaged.
    with contextlib.suppress(OellmError, OSError):
        return suites.primary_metrics(os.environ)
    return {}


@functools.cache
def added_frameworks() -> Mapping[str, str]:
    """Return the package of each framework that others have added, by the framework's name.

    Such a package has an entry point in the group `oellm.frameworks`. A job's Python has not
    installed it, so the frozen worker has it, and a list.
    """
    try:
        frozen = pkgutil.get_data("oellm.runs", _ADDED)
    except OSError:
        # It takes about as long as the start of Python, and few commands need it.
        import importlib.metadata

        entries = importlib.metadata.entry_points(group=_GROUP)
        return {entry.name: entry.value for entry in entries}
    packages: dict[str, str] = json_codec.loads(frozen or b"{}")
    return packages


def _added_packages() -> dict[str, bytes]:
    """Return the packages that add frameworks, and the list of them."""
    files = {f"oellm/runs/{_ADDED}": json_codec.dumps(dict(added_frameworks()))}
    for package in added_frameworks().values():
        files |= _package(_source(package).parent)
    return files


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
