"""Which images a run of Global Benchmarks uses, and which definitions make them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from oellm.clusters.cluster import Cluster
from oellm.errors import UsageError, nearest
from oellm.global_benchmark.benchmark_tasks import image_candidates, image_definitions

CUDA, ROCM, CPU = "cuda", "rocm", "cpu"
# What a container needs for the GPUs of its kind.
ARGUMENTS = {CUDA: ["--nv"], ROCM: ["--rocm"], CPU: []}


def find_kind(cluster: Cluster) -> str:
    """Return the kind of images that fits the nodes: cuda, rocm or cpu."""
    if "--rocm" in cluster.items("container_args"):
        return ROCM
    if cluster.number("gpus_per_node") == 0:
        return CPU
    if cluster.text("executor") == "slurm" or "--nv" in cluster.items("container_args"):
        return CUDA
    if os.path.exists("/dev/kfd"):
        return ROCM
    return CUDA if shutil.which("nvidia-smi") or os.path.exists("/dev/nvidiactl") else CPU


def find_images(directory: Path, kind: str) -> dict[str, Path]:
    """Return the images of a directory for the keys of the setting images, of one kind if any is.

    Images of other kinds serve if there is none of this one.
    """
    kinds = sorted(ARGUMENTS, key=lambda each: each != kind)
    found = {}
    for key, by_kind in image_candidates().items():
        names = [name for each in kinds for name in by_kind.get(each, ())]
        paths = (directory / f"{name}.sif" for name in names)
        if path := next((path for path in paths if path.is_file()), None):
            found[key] = path
    return found


def kind_of_image(path: Path) -> str:
    """Return the kind that the name of an image tells."""
    kind = path.stem.rpartition("-")[2]
    return kind if kind in ARGUMENTS else CPU


def expand_definitions(names: Sequence[str], known: Sequence[str], kind: str) -> list[str]:
    """Return the definitions of images for names of Global Benchmarks, or of definitions.

    `known` are the definitions that there are. Raises UsageError for a name that is neither, and
    if no definition makes an image of this kind.
    """
    found: dict[str, None] = {}
    for name in names:
        if name in image_definitions():
            found |= dict.fromkeys(_of_framework(name, known, kind))
        elif name in known:
            found[name] = None
        else:
            hint = nearest(name, [*image_definitions(), *known])
            raise UsageError(f"--definitions: unknown definition {name!r}{hint}")
    return list(found)


def _of_framework(name: str, known: Sequence[str], kind: str) -> Iterator[str]:
    for key in image_definitions()[name]:
        by_kind = image_candidates()[key]
        names = [each for each in by_kind.get(kind, by_kind[CPU]) if each in known]
        if not names:
            raise UsageError(f"--definitions: {name}: no definition makes {key} for {kind}")
        yield names[0]
