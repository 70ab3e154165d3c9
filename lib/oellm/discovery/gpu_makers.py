"""Who made the GPUs that Slurm names, and what that means for containers."""

from __future__ import annotations

import re
from typing import NamedTuple


class GpuMaker(NamedTuple):
    """A maker of GPUs.

    Attributes:
        name: The maker's name.
        variant: The end of the names of its images' definitions.
        container_args: What makes its GPUs visible in a container.
    """

    name: str
    variant: str
    container_args: list[str]


NVIDIA = GpuMaker("NVIDIA", "cuda", ["--nv"])
AMD = GpuMaker("AMD", "rocm", ["--rocm"])

_AMD = re.compile(r"mi[0-9]{2,3}[a-z]*|gfx[0-9]\w*|instinct|radeon|amdgpu|rocm")
_NVIDIA = re.compile(
    r"([ahb][12378]00|g[hb][23]00|[vp]100)\w*|a(2|10g?|16|30|40|[456]000)|h20|l(4|20|40s?)|t4"
    r"|[km][4568]0|rtx\w*|gtx\w*|quadro|tesla|titan\w*|geforce|nvidia\w*|cuda\w*|volta|ampere"
    r"|hopper|blackwell|[1-7]g"
)


def find_maker(name: str) -> GpuMaker | None:
    """Return the maker that a type, feature or partition is named after; None if unknown."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    if any(_AMD.fullmatch(word) for word in words):
        return AMD
    return NVIDIA if any(_NVIDIA.fullmatch(word) for word in words) else None


def is_slice(kind: str) -> bool:
    """Return whether a type of GPU is a part of one (`a100_3g.20gb`, `1g`)."""
    return re.search(r"(^|[^a-z0-9])([1-7]g)([^a-z0-9]|$)|mig", kind.lower()) is not None
