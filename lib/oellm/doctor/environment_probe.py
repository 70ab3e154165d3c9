"""What an environment has: its Python, and the versions of packages, as one line of JSON.

The program runs by itself, within an image whose Python may be older than the rest of oellm needs.
Its arguments are names of packages.
"""

import importlib.util
import json
import platform
import sys


def describe_packages(names: "list[str]") -> "dict[str, str | None]":
    """Return the version of each package: empty if it has none, None if it is not there."""
    return {name: _version(name) for name in names}


def _version(name: str) -> "str | None":
    try:
        from importlib.metadata import version

        return version(name)
    except Exception:
        return "" if importlib.util.find_spec(name) else None


if __name__ == "__main__":
    found = {"python": platform.python_version(), "packages": describe_packages(sys.argv[1:])}
    sys.stdout.write(json.dumps(found) + "\n")
