"""config.json: the settings of Global Benchmarks, which are settings of the cluster object.

Its sections are `run` and, for runs with --slurm, `slurm`. Beside the settings that the file always
had, a section may have any other setting of a cluster (schema.json, table `cluster`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from oellm.clusters import settings
from oellm.core import json_codec, schema
from oellm.core.atomic import write_file
from oellm.core.json_config import Node, read_json_file
from oellm.errors import InputError, UsageError, nearest

FILE = "config.json"
RUN, SLURM = "run", "slurm"
DTYPES = ("float16", "bfloat16", "float32")
# What `config` writes, in its order.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    RUN: {
        "dtype": "bfloat16",
        "tensor_parallel_size": 1,
        "binds": [],
        "images_directory": "images",
    },
    SLURM: {
        "cpu_partition": "cpu",
        "cpus_per_task": 16,
        "gpu_partition": "gpu",
        "gpu_gres": "gpu:1",
        "mem": "64G",
        "cpus_per_gpu": 16,
        "concurrency": None,
        "account": None,
        "gpu_constraint": None,
        "exclude": None,
    },
}
# The command decides these.
_OF_THE_COMMAND = ("name", "hostnames", "executor")
_BIND = '"/a", "/a:/b" or {"source": "/a", "target": "/b"}'
# Characters with a meaning in the options of containers, or in our file of binds.
_NO_BIND = re.compile(r'[:,"\\\x00-\x1f\x7f]')
# The number at the end of gpu_gres.
_GPUS = re.compile(r"(?:^|:)([0-9]+)$")


class Bind(NamedTuple):
    """A directory of this machine that containers see, and under which path."""

    source: str
    target: str


class BenchmarkConfig(NamedTuple):
    """A configuration that is right as far as this machine can tell.

    Attributes:
        run: Settings of the section `run`, by the names of the cluster object.
        slurm: Settings of the section `slurm`; empty if it does not count.
        binds: What containers see besides models and results.
    """

    run: Mapping[str, Any]
    slurm: Mapping[str, Any]
    binds: tuple[Bind, ...]

    def find_on_host(self, path: str) -> str:
        """Return where a path of a container is on this machine, by the binds; else the path."""
        if os.path.exists(path):
            return path
        for bind in self.binds:
            below = os.path.relpath(path, bind.target) if path.startswith("/") else ".."
            if below.split("/")[0] != "..":
                return os.path.normpath(os.path.join(bind.source, below))
        return path


def write_defaults(path: Path) -> None:
    """Write a configuration with the defaults, atomically."""
    write_file(path, json_codec.dumps(DEFAULTS, indent=True) + b"\n")


def default_config() -> BenchmarkConfig:
    """Return what a configuration with the defaults says of runs without Slurm."""
    found = {settings.setting_name(name): value for name, value in DEFAULTS[RUN].items()}
    return BenchmarkConfig(run=found, slurm={}, binds=())


def read_config(path: Path, *, slurm: bool) -> BenchmarkConfig:
    """Return the configuration of a file; without `slurm` its section of this name is only checked.

    Raises UsageError if there is no file, InputError for what is wrong: file, key and what is
    allowed.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file; `global-benchmark config` writes one")
    sections = read_json_file(path).members((RUN, SLURM), required=(RUN,))
    run = dict(_read_section(sections[RUN]))
    cluster = dict(_read_section(sections[SLURM])) if SLURM in sections else {}
    for key, node in cluster.items():
        if key in run:
            raise node.error(f"{run[key].place} is the same setting; leave out one of them")
    if slurm:
        if SLURM not in sections:
            raise InputError(f"the key {SLURM!r} is missing", str(path))
        _require_gpus({**run, **cluster})
    binds = tuple(_read_binds(run["binds"])) if "binds" in run else ()
    values = {key: node.value for key, node in run.items()}
    if binds:
        values["binds"] = [f"{bind.source}:{bind.target}" for bind in binds]
    chosen = {key: node.value for key, node in cluster.items()} if slurm else {}
    return BenchmarkConfig(run=values, slurm=chosen, binds=binds)


def _read_section(section: Node) -> Iterator[tuple[str, Node]]:
    """Yield the settings of a section by their names in the cluster object."""
    table = schema.table("cluster")
    names = [*table, *(spec["other_name"] for spec in table.values() if "other_name" in spec)]
    known = [name for name in names if name not in _OF_THE_COMMAND]
    seen: dict[str, str] = {}
    for given, node in section.members().items():
        if given not in known:
            raise node.error(f"unknown key{nearest(given, known)}")
        key = settings.setting_name(given)
        if key in seen:
            raise node.error(f"{seen[key]} is the same setting; leave out one of them")
        seen[key] = node.place
        _check(key, node)
        yield key, node


def _check(key: str, node: Node) -> None:
    """Raise InputError unless a value is one of its setting."""
    if key == "dtype" and node.value not in DTYPES:
        raise node.unlike(f"one of {', '.join(DTYPES)}")
    if key == "binds":
        # Its objects become texts.
        return
    try:
        settings.check_setting(key, node.value, node.source)
    except InputError as error:
        raise node.error(error.message) from None


def _read_binds(node: Node) -> Iterator[Bind]:
    """Yield the binds; raises InputError for one whose source is not there."""
    seen: dict[str, str] = {}
    for item in node.items("binds") if node.value else ():
        bind, place = _read_bind(item)
        if not os.path.exists(bind.source):
            raise place.error(f"{bind.source} is not there")
        if not bind.target.startswith("/") or any(map(_NO_BIND.search, bind)):
            raise item.unlike(f"{_BIND}, with an absolute target")
        target = os.path.normpath(bind.target)
        if target in seen:
            raise item.error(f"{seen[target]} has the same target, {target}")
        seen[target] = item.place
        yield bind


def _read_bind(item: Node) -> tuple[Bind, Node]:
    """Return a bind, and what gives its source."""
    if isinstance(item.value, dict):
        members = item.members(("source", "target"), required=("source", "target"))
        place = members["source"]
        source, target = place.text(), members["target"].text()
    elif isinstance(item.value, str):
        place = item
        source, _, target = item.text().partition(":")
    else:
        raise item.unlike(_BIND)
    path = os.path.abspath(os.path.expanduser(source))
    return Bind(path, target or path), place


def _require_gpus(found: Mapping[str, Node]) -> None:
    """Raise InputError if a model is to be split over more GPUs than a job gets."""
    if "tp" not in found or "gpu_gres" not in found:
        return
    tp, gres = found["tp"], found["gpu_gres"]
    match = _GPUS.search(gres.value or "")
    if match and int(tp.value or 1) > int(match[1]):
        raise tp.error(
            f"expected at most {match[1]}, the GPUs of {gres.place} ({gres.value}), got {tp.value}"
        )
