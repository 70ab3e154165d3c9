"""Whether the disks have room for images that are to be built. All needs are rough."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from oellm.core.display import format_size
from oellm.errors import MachineError

# Bytes of base images in a registry, by the beginning of their names; another one is small.
_BASES = (
    ("docker://nvcr.io/nvidia/", 10 * 10**9),
    ("docker://rocm/", 18 * 10**9),
    ("docker://vllm/", 8 * 10**9),
)
_SMALL_BASE = 50 * 10**6
# What the packages of an image add to it, and to what is unpacked while it is built.
_PACKAGES = 200 * 10**6
_UNPACKED_PACKAGES = 600 * 10**6
# How much larger an image is when it is unpacked.
_UNPACKED = 2.5


class Need(NamedTuple):
    """Room for something.

    Attributes:
        directory: Where; it need not exist yet.
        size: In bytes.
        purpose: What it is for, with the variable or setting that moves it.
    """

    directory: Path
    size: float
    purpose: str


def temporary_directory(environ: Mapping[str, str]) -> Path:
    """Return where builds put what they unpack."""
    names = ("APPTAINER_TMPDIR", "SINGULARITY_TMPDIR", "TMPDIR")
    place = next((environ[name] for name in names if environ.get(name)), "/tmp")  # noqa: S108
    # Builds do not run in the working directory.
    return Path(place).absolute()


def needs_of_build(
    base: str, images: Path, environ: Mapping[str, str], known_size: int | None
) -> list[Need]:
    """Return what building an image needs; `known_size` is that of its last build in bytes."""
    size = _size_of_base(base)
    image = max(known_size or 0, size + _PACKAGES)
    needs = [
        Need(images, image, "images (--dir)"),
        Need(
            temporary_directory(environ),
            image + size * _UNPACKED + _UNPACKED_PACKAGES,
            "unpacked images (APPTAINER_TMPDIR)",
        ),
    ]
    if not base.startswith("localimage"):
        names = ("APPTAINER_CACHEDIR", "SINGULARITY_CACHEDIR")
        cache = next((environ[name] for name in names if environ.get(name)), "~/.apptainer/cache")
        needs.append(Need(Path(cache).expanduser(), size, "base images (APPTAINER_CACHEDIR)"))
    return needs


def require_room(needs: Iterable[Need]) -> None:
    """Raise MachineError if a disk has less room than all that is needed on it."""
    by_disk: dict[int, list[Need]] = {}
    for need in needs:
        by_disk.setdefault(_existing(need.directory).stat().st_dev, []).append(need)
    for together in by_disk.values():
        directory = _existing(together[0].directory)
        free = shutil.disk_usage(directory).free
        wanted = sum(need.size for need in together)
        if wanted > free:
            purposes = ", ".join(dict.fromkeys(need.purpose for need in together))
            raise MachineError(
                f"{together[0].directory}: about {format_size(wanted)} are needed for {purposes}, "
                f"and {format_size(free)} are free"
            )


def _size_of_base(base: str) -> int:
    if base.startswith("localimage://"):
        path = Path(base.removeprefix("localimage://").rpartition(" (")[0])
        return _size_on_disk(path)
    return next((size for start, size in _BASES if base.startswith(start)), _SMALL_BASE)


def _size_on_disk(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    files = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sum(os.lstat(file).st_size for file in files)


def _existing(directory: Path) -> Path:
    """Return a directory, or the nearest one above it that exists."""
    directory = directory.absolute()
    return directory if directory.exists() else _existing(directory.parent)
