"""Where the project's data files are: packaged beside this module, or in the checkout."""

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


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Return where cache files are: OELLM_CACHE_DIR, else oellm/ below the user's cache."""
    if given := environ.get("OELLM_CACHE_DIR"):
        return Path(given)
    home = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "oellm"
