"""The weights of a model directory: which files are loaded, and whether they are complete."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from typing import IO

from oellm.core.regular_files import open_regular, read_regular

# In the order in which transformers looks for them; it loads the first that exists.
_USUAL = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_INDEX = ".index.json"
# The safetensors library refuses longer headers.
_LONGEST_HEADER = 100_000_000
_SHARD = re.compile(r"-[0-9]+-of-[0-9]+\.")


def weight_files(names: Collection[str]) -> Iterator[str]:
    """Yield those of the files of a directory that hold weights, or an index of them."""
    for name in names:
        whole = name.removesuffix(_INDEX)
        torch = whole.startswith("pytorch_model") and whole.endswith(".bin")
        if torch or (whole.endswith(".safetensors") and not whole.startswith("adapter_")):
            yield name


def find_weights_problem(directory: str, names: Collection[str], chosen: str = "") -> str | None:
    """Return why the weights among the files of a directory cannot be loaded, or None if they can.

    `chosen` is the file to load, if the model names one. Reads only the first bytes of weights, and
    the last bytes of a zip archive.
    """
    held = sorted(weight_files(names))
    usual = [name for name in _USUAL if name in names][:1]
    shards = [name for name in held if _SHARD.search(name)]
    if not held and not chosen:
        return "no weights: neither *.safetensors nor pytorch_model*.bin"
    if shards and not chosen and not usual and not any(name.endswith(_INDEX) for name in held):
        return f"{shards[0]} is one of several shards, and the index that names them is missing"
    # Quantised or native weights have other names; a backend may be told to load them.
    wanted = [chosen] if chosen else usual or [name for name in held if name not in shards]
    checks = (
        _index_problem(directory, names, name)
        if name.endswith(_INDEX)
        else find_file_problem(directory, name)
        for name in wanted
    )
    return next(filter(None, checks), None)


def find_file_problem(directory: str, name: str) -> str | None:
    """Return why a file of weights cannot be loaded, as `name: why`, or None if it can."""
    path = os.path.join(directory, name)
    try:
        # Unbuffered: a buffer would read whole blocks, megabytes on a parallel file system.
        with open_regular(path, buffering=0, any_link=True) as file:
            found = _content_problem(file, os.path.splitext(name)[1])
    except OSError as error:
        found = str(error.strerror)
    return f"{name}: {found}" if found else None


def _index_problem(directory: str, names: Collection[str], index: str) -> str | None:
    try:
        content = read_regular(os.path.join(directory, index), any_link=True)
        shards = list(dict.fromkeys(json.loads(content)["weight_map"].values()))
    except OSError as error:
        return f"{index}: {error.strerror}"
    except (ValueError, RecursionError):
        return f"{index}: it is not JSON"
    except (TypeError, KeyError, AttributeError):
        shards = []
    if not shards or not all(isinstance(shard, str) for shard in shards):
        return f"{index}: expected a weight_map with names of shards"
    missing = [shard for shard in shards if "/" not in shard and shard not in names]
    if missing:
        return f"{index}: {len(missing)} of {len(shards)} shards missing, first {missing[0]}"
    return next(filter(None, (find_file_problem(directory, shard) for shard in shards)), None)


def _content_problem(file: IO[bytes], suffix: str) -> str | None:
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if not size:
        return "the file is empty"
    if start == b"version ":
        return "a Git LFS pointer instead of the weights: run git lfs pull"
    if suffix == ".safetensors":
        return _safetensors_problem(file, start, size)
    if suffix == ".gguf":
        return None if start.startswith(b"GGUF") else "this is not a GGUF file"
    return _torch_problem(file, start)


def _safetensors_problem(file: IO[bytes], start: bytes, size: int) -> str | None:
    """Compare the size of a file with the one that its header gives.

    The format: eight bytes with the header's length; the header, JSON with the offsets of the
    tensors from the header's end; the tensors (github.com/huggingface/safetensors).
    """
    length = int.from_bytes(start, "little")
    if size >= 8 and length > _LONGEST_HEADER:
        return "this is not a safetensors file: its header would be too long"
    if size < 8 + length:
        return f"truncated within its header: {size} bytes"
    try:
        tensors = json.loads(file.read(length))
        tensors.pop("__metadata__", None)
        ends = [tensor["data_offsets"][1] for tensor in tensors.values()]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError, IndexError):
        return "this is not a safetensors file: its header gives no data_offsets"
    return None if size == expected else f"it has {size} bytes, but its header says {expected}"


def _torch_problem(file: IO[bytes], start: bytes) -> str | None:
    # A pickle, the format before torch 1.6, does not say how long it is.
    if start.startswith(b"\x80"):
        return None
    if not start.startswith(b"PK\x03\x04"):
        return "this is not a PyTorch file: neither a zip archive nor a pickle"
    import zipfile

    # The directory of a zip archive is at its end.
    return None if zipfile.is_zipfile(file) else "the zip archive is truncated: it has no end"
