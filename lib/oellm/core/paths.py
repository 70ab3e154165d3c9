"""Where the project's data files are: packaged beside this module, or in the checkout."""

from __future__ import annotations

from pathlib import Path


def data_file(*parts: str) -> Path:
    """Return the path of a data file, for example `data_file("templates", "x.j2")`."""
    package = Path(__file__).parent.parent
    packaged = package / "data"
    root = packaged if packaged.is_dir() else package.parent.parent
    return root.joinpath(*parts)
