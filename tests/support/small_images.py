"""Image files of a few megabytes, made once by a real apptainer."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

from support import registry, shared_cache


def small_image(number: int = 0) -> Path:
    """Return an image with a shell; images of other numbers have another content."""

    def make(directory: Path) -> None:
        tree = directory / "tree"
        registry.make_tree(tree)
        (tree / "filling").write_bytes(random.Random(number).randbytes(2_000_000))
        command = ["apptainer", "build", "small.sif", "tree/"]
        scratch = {"APPTAINER_TMPDIR": str(directory), "APPTAINER_CACHEDIR": str(directory)}
        subprocess.run(
            command, cwd=directory, env=os.environ | scratch, check=True, capture_output=True
        )

    made_of = [Path(source).read_bytes() for source in (__file__, registry.__file__)]
    name = f"small-image-{number}-{shared_cache.digest(made_of)}"
    return shared_cache.cached_directory(name, make) / "small.sif"


def small_tree() -> Path:
    """Return the directory that a small image is made of."""
    return small_image().parent / "tree"
