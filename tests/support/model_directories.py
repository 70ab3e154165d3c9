"""Small model directories with all the files of a model, written without torch."""

from __future__ import annotations

import functools
import json
from pathlib import Path


@functools.cache
def weights(size: int = 3000, seed: int = 0) -> bytes:
    """Return a real safetensors file with `size` bytes of weights."""
    import numpy as np
    from safetensors.numpy import save

    content = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return save({"weight": content}, {"format": "pt"})


def write_model(directory: Path, shards: int = 0, size: int = 3000, seed: int = 0) -> Path:
    """Write a model with its weights in one file, or in shards and an index of them."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "seed": seed}))
    tokenizer = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    (directory / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": tokenizer}))
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    for name in names or ["model.safetensors"]:
        (directory / name).write_bytes(weights(size, seed))
    if names:
        index = {"metadata": {}, "weight_map": {f"{name}.w": name for name in names}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory
