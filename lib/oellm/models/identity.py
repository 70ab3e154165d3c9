"""Which model a path or a name stood for when it was evaluated."""

from __future__ import annotations

import contextlib
import hashlib
import json
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
    r"(config|generation_config|special_tokens_map|added_tokens|adapter_config|.+\.index)\.json"
    r"|chat_template\..+|.+\.py"
)
# Chat templates that rows choose by name, each in a file of this directory.
_TEMPLATES = "additional_chat_templates"
_ADAPTER = "adapter_model."
# Weights are sampled: this number of blocks, spread evenly, at least four a file; bytes of a block.
_BLOCKS = 64
_BLOCK = 4096
# A digest has this number of hex digits over the weights, and as many over the other files.
MODEL_DIGITS = 8
# What stands for them if something of them is unknown.
UNKNOWN_DIGITS = "0" * MODEL_DIGITS


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

    @classmethod
    def from_json(cls, content: Any) -> LocalIdentity | None:
        """Read `model` of a result's provenance; None if it is no identity of a local model."""
        try:
            files = {str(name): str(digest) for name, digest in content["files"].items()}
            sizes = {str(name): int(size) for name, size in content["weights"].items()}
            sample = str(content["sample_sha256"])
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            return None
        return cls(files, sizes, sum(sizes.values()), sample_sha256=sample, step=None)

    def to_json(self) -> dict[str, Any]:
        """Return `model` of a result's provenance."""
        return self._asdict()

    @property
    def weights_digest(self) -> str:
        """Hex digits over the weights: MODEL_DIGITS of them."""
        return _digest([self.weights, self.sample_sha256])

    @property
    def files_digest(self) -> str:
        """Hex digits over the other files: MODEL_DIGITS of them."""
        return _digest(self.files)

    @property
    def digest(self) -> str:
        """The model's digest, as in the column model_digest."""
        return self.weights_digest + self.files_digest

    def digest_as_today(self, directory: str, gguf_file: str = "") -> str:
        """Return the digest, if this identity may be one that version 0.2.0 took.

        That counted any GGUF file and any code in the model's directory, but no adapter. A part
        that cannot be compared with the directory's digest of today is UNKNOWN_DIGITS.
        """
        before = sorted({*self.files, *self.weights})
        try:
            present = set(stat_files(directory))
            held, small = _select(directory, before, gguf_file)
        except OSError:
            return self.digest
        added = {name for name in present.difference(before) if name.startswith("adapter_")}
        has_same = set(held) == set(self.weights) and not any(map(_holds_weights, added))
        others = self._replace(files={name: self.files[name] for name in small})
        is_whole = all(map(_holds_weights, added))
        return (self.weights_digest if has_same else UNKNOWN_DIGITS) + (
            others.files_digest if is_whole else UNKNOWN_DIGITS
        )


ModelIdentity = HubIdentity | LocalIdentity


def identify_model(
    path: str, revision: str, subfolder: str = "", *, gguf_file: str = ""
) -> ModelIdentity:
    """Return what tells a model from others; raises OSError if a file cannot be read."""
    if not looks_local(path):
        return HubIdentity(_commit(path, revision))
    return identify_directory(os.path.join(path, subfolder), path, gguf_file=gguf_file)


def identify_directory(directory: str, path: str = "", *, gguf_file: str = "") -> LocalIdentity:
    """Return the identity of the model in a directory.

    `path` gives its step; `gguf_file` is the file of weights that is loaded instead of the usual.
    Raises OSError if a file cannot be read.
    """
    files = stat_files(directory)
    held, small = _select(directory, list(files), gguf_file)
    sizes = {name: files[name].size for name in held}
    return LocalIdentity(
        files={name: _sha256(os.path.join(directory, name)) for name in small},
        weights=sizes,
        total_bytes=sum(sizes.values()),
        sample_sha256=_sample(directory, sizes),
        step=training_step(path),
    )


def identify_file(path: str) -> LocalIdentity:
    """Return the identity of a tokenizer, or the like, that is one file; raises as above."""
    return LocalIdentity({"": _sha256(path)}, {}, 0, sample_sha256="", step=None)


class FileState(NamedTuple):
    """What stat says of a file: if nothing of it has changed, neither has the content."""

    size: int
    mtime_ns: int
    ctime_ns: int


def stat_files(directory: str) -> dict[str, FileState]:
    """Return the states of the files that `identify_directory` may read, without reading any.

    If the directory is a file, that is its own. Raises OSError if it is not there, or a file.
    """
    if os.path.isfile(directory):
        return {"": _file_state(os.stat(directory))}
    with os.scandir(directory) as entries:
        found = {
            entry.name: _file_state(entry.stat())
            for entry in entries
            if _matters(entry.name) and entry.is_file()
        }
    with contextlib.suppress(OSError), os.scandir(os.path.join(directory, _TEMPLATES)) as entries:
        for entry in entries:
            if entry.name.endswith(".jinja") and entry.is_file():
                found[f"{_TEMPLATES}/{entry.name}"] = _file_state(entry.stat())
    return dict(sorted(found.items()))


def _file_state(status: os.stat_result) -> FileState:
    return FileState(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _holds_weights(name: str) -> bool:
    # An adapter beside a model is loaded with it, and one may be a directory of its own.
    is_adapter = name.startswith(_ADAPTER)
    held = any(weights.weight_files([name])) or name.endswith(".gguf") or is_adapter
    return held and not name.endswith(".json")


def _matters(name: str) -> bool:
    return bool(_holds_weights(name) or _FILES.fullmatch(name) or is_tokenizer_file(name))


def _select(directory: str, names: list[str], gguf_file: str) -> tuple[list[str], list[str]]:
    """Return those files that hold the model's weights, and the others that change answers."""
    small = [name for name in names if not _holds_weights(name)]
    if any(map(_is_code, small)) and not _has_own_code(directory):
        small = [name for name in small if not _is_code(name)]
    return _loaded_weights(list(filter(_holds_weights, names)), gguf_file), small


def _is_code(name: str) -> bool:
    return name.endswith(".py")


def _loaded_weights(held: list[str], gguf_file: str) -> list[str]:
    """Return which files of weights are loaded: people convert a model to GGUF in its directory."""
    if gguf_file in held:
        return [name for name in held if name == gguf_file or name.startswith(_ADAPTER)]
    usual = [name for name in held if not name.endswith(".gguf")]
    return held if all(name.startswith(_ADAPTER) for name in usual) else usual


def _has_own_code(directory: str) -> bool:
    """Return whether a model or its tokenizer names code; other code in its directory is no part.

    Raises OSError if a configuration cannot be read.
    """
    for name in ("config.json", "tokenizer_config.json"):
        try:
            config = json.loads(read_regular(os.path.join(directory, name), any_link=True))
        except (FileNotFoundError, ValueError, RecursionError):
            continue
        if isinstance(config, dict) and config.get("auto_map"):
            return True
    return False


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:MODEL_DIGITS]


def pinned_commit(revision: str) -> str:
    """Return the commit that a revision is; empty if it is a branch or a tag, which may move."""
    return revision if re.fullmatch(r"[0-9a-f]{40}", revision) else ""


def _commit(path: str, revision: str) -> str:
    if commit := pinned_commit(revision):
        return commit
    from oellm.hub import cache

    return os.path.basename(cache.find_snapshot(path, revision or "main") or "")


def _sha256(path: str) -> str:
    """Return the SHA-256 of a small file; raises OSError if it cannot be read."""
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
