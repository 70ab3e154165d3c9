"""The guard as files for PYTHONPATH in a container, whose Python lacks this library."""

from __future__ import annotations

import pkgutil

from oellm.errors import MachineError

# How the guard names the modules that it uses here, and in the container.
_HERE = b"from oellm.sandbox import namespaces, stand_ins\n"
_THERE = b"import oellm_namespaces as namespaces\nimport oellm_stand_ins as stand_ins\n"


def guard_files() -> dict[str, str]:
    """Return the guard's files by name; Python loads one of them at its start.

    Their names collide with no module of an evaluator, which may be this library itself.
    """
    guard = _source("guard.py")
    if guard.count(_HERE) != 1:
        raise MachineError("guard.py does not import its modules as guard_files expects")
    return {
        "sitecustomize.py": guard.replace(_HERE, _THERE).decode(),
        "oellm_namespaces.py": _source("namespaces.py").decode(),
        "oellm_stand_ins.py": _source("stand_ins.py").decode(),
    }


def _source(name: str) -> bytes:
    # The worker is a zip archive, which has no file that could be opened by its path.
    source = pkgutil.get_data("oellm.sandbox", name)
    if source is None:
        raise MachineError(f"oellm.sandbox: its file {name} is missing")
    return source
