"""Which model a path or a name stood for when it was evaluated."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any, NamedTuple

from oellm.core.regular_files import open_regular, read_regular
from oellm.manifest.checkpoint_names import training_step
from oellm.manifest.model_spec import looks_local
from oellm.models import weights
from oellm.models.model_directory import is_tokenizer_file

# Files that change answers, besides the weights: configurations, templates, a model's own code.
_FILES = re.compile(
    r"(config|generation_config|special_tokens_map|added_tokens|.+\.index)\.json"
    r"|chat_template\..+|.+\.py"
)
# Weights are sampled: this number of blocks, spread evenly, at least four a file; bytes of a block.
_BLOCKS = 64
_BLOCK = 4096


class HubIdentity(NamedTuple):
    """What tells a model of the hub from others that have, or had, the same name."""

    # The commit in the cache; empty if it is not known.
    commit: str

    def to_json(self) -> dict[str, Any]:
        """Return `model` of a result's provenance."""
        return self._asdict()


class LocalIdentity(NamedTuple):
    """What tells a local model from others that have, or had, the same path.

    Everything but the step depends only on the content of files.

    Attributes:
        files: The SHA-256 of each small file that changes answers.
        weights: The bytes of each file of weights.
        total_bytes: The bytes of all of these.
        sample_sha256: The SHA-256 of blocks of 4 kB from all files of weights, because a training
            run may write new weights into files of the same sizes.
        step: The training step that the path gives.
    """

    files: dict[str, str]
    weights: dict[str, int]
    total_bytes: int
    sample_sha256: str
    step: int | None

    def to_json(self) -> dict[str, Any]:
        """Return `model` of a result's provenance."""
        return self._asdict()


ModelIdentity = HubIdentity | LocalIdentity


def identify_model(path: str, revision: str, subfolder: str = "") -> ModelIdentity:
    """Return what tells a model from others; raises OSError if a file cannot be read."""
    if not looks_local(path):
        return HubIdentity(_commit(path, revision))
    directory = os.path.join(path, subfolder)
    with os.scandir(directory) as entries:
        found = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    names = sorted(found)
    held = {name for name in weights.weight_files(names) if not name.endswith(".json")}
    held.update(name for name in names if name.endswith(".gguf"))
    small = [
        name
        for name in names
        if name not in held and (_FILES.fullmatch(name) or is_tokenizer_file(name))
    ]
    sizes = {name: found[name] for name in sorted(held)}
    return LocalIdentity(
        files={name: _sha256(os.path.join(directory, name)) for name in small},
        weights=sizes,
        total_bytes=sum(sizes.values()),
        sample_sha256=_sample(directory, sizes),
        step=training_step(path),
    )


def _commit(path: str, revision: str) -> str:
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    from oellm.hub import cache

    return os.path.basename(cache.find_snapshot(path, revision or "main") or "")


def _sha256(path: str) -> str:
    return hashlib.sha256(read_regular(path, any_link=True)).hexdigest()


def _sample(directory: str, sizes: dict[str, int]) -> str:
    """Return the SHA-256 of evenly spread blocks of files, each file's first and last included."""
    blocks = max(4, _BLOCKS // max(1, len(sizes)))
    content = hashlib.sha256()
    for name, size in sizes.items():
        # Unbuffered: a buffer would read whole blocks, megabytes on a parallel file system.
        path = os.path.join(directory, name)
        with open_regular(path, buffering=0, any_link=True) as stream:
            for number in range(blocks):
                place = max(0, size - _BLOCK) * number // (blocks - 1)
                content.update(os.pread(stream.fileno(), _BLOCK, place))
    return content.hexdigest()
