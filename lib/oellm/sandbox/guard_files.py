"""The guard as files for PYTHONPATH in a container, whose Python lacks this library."""

from __future__ import annotations

import pkgutil

from oellm.errors import MachineError

# How the guard names the module of system calls here, and in the container.
_HERE = b"from oellm.sandbox import namespaces\n"
_THERE = b"import oellm_namespaces as namespaces\n"


def guard_files() -> dict[str, str]:
    """Return the guard's files by name; Python loads one of them at its start.

    Their names collide with no module of an evaluator, which may be this library itself.
    """
    guard, calls = (_source(name) for name in ("guard.py", "namespaces.py"))
    if guard.count(_HERE) != 1:
        raise MachineError("guard.py does not import the module namespaces as guard_files expects")
    return {
        "sitecustomize.py": guard.replace(_HERE, _THERE).decode(),
        "oellm_namespaces.py": calls.decode(),
    }


def _source(name: str) -> bytes:
    # The worker is a zip archive, which has no file that could be opened by its path.
    source = pkgutil.get_data("oellm.sandbox", name)
    if source is None:
        raise MachineError(f"oellm.sandbox: its file {name} is missing")
    return source
