"""The GPUs among Slurm's generic resources, as sinfo and scontrol write them."""

from __future__ import annotations

import re
from typing import NamedTuple

from oellm.slurm.notation import parse_count

# `gpu:4`, `gpu:a100:4(S:0-3)`, `gres/gpu:a100=4`; a comma within parentheses separates nothing.
_RESOURCE = re.compile(r"(?:gres/)?(gpu)(?::([^:=]*[^:=0-9][^:=]*))?(?:[:=]([0-9]+))?")
_NOTE = re.compile(r"\([^()]*\)")


class GpuCount(NamedTuple):
    """GPUs of one type; the type is empty if Slurm was not told."""

    kind: str
    number: int

    def gres(self) -> str:
        """Return the name by which a job asks for them, without a number."""
        return f"gpu:{self.kind}" if self.kind else "gpu"

    def __str__(self) -> str:
        if self.kind:
            return f"{self.number}×{self.kind}"
        return "1 GPU" if self.number == 1 else f"{self.number} GPUs"


def parse_gpus(text: str) -> list[GpuCount]:
    """Return the GPUs in a list of resources, those of a larger number first.

    Other resources (`shard`, `mps`, `craynetwork`) do not count.
    """
    counts: dict[str, int] = {}
    for part in _NOTE.sub("", text).split(","):
        if match := _RESOURCE.fullmatch(part.strip()):
            kind, number = match[2] or "", match[3]
            counts[kind] = counts.get(kind, 0) + parse_count(number or "1")
    found = [GpuCount(kind, count) for kind, count in counts.items() if count]
    return sorted(found, key=lambda gpus: -gpus.number)


def parse_tres_gpus(text: str) -> int:
    """Return the GPUs in trackable resources: `cpu=64,gres/gpu=16,gres/gpu:a100=16` has 16."""
    gpus = {one.kind: one.number for one in parse_gpus(text)}
    return gpus.get("") or sum(gpus.values())
