"""Where files are: the project's data, the user's configuration, the user's cache."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from pathlib import Path


def data_file(*parts: str) -> Path:
    """Return the path of a data file, for example `data_file("templates", "x.j2")`."""
    package = Path(__file__).parent.parent
    packaged = package / "data"
    root = packaged if packaged.is_dir() else package.parent.parent
    return root.joinpath(*parts)


def user_name() -> str:
    """Return the name of the user, as directories of the user are named."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def user_file(name: str, environ: Mapping[str, str]) -> Path | None:
    """Return the file of this name in the user's configuration, None if there is none.

    The configuration is oellm/ below XDG_CONFIG_HOME, else below ~/.config.
    """
    home = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    path = Path(home) / "oellm" / name
    return path if path.is_file() else None


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Return where cache files are: OELLM_CACHE_DIR, else oellm/ below the user's cache."""
    if given := environ.get("OELLM_CACHE_DIR"):
        return Path(given)
    home = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "oellm"
