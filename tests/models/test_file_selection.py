"""Which files of a repository are fetched."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm.hub.repositories import HubModel
from oellm.models.file_selection import select_files

BASICS = ("config.json", "tokenizer.json", "special/vocab.txt", "modeling_x.py")
# The weights that are loaded, and what lies beside them.
REPOSITORIES = {
    "safetensors before all else": (
        "model-00001-of-00002.safetensors model.safetensors.index.json",
        "pytorch_model.bin tf_model.h5 flax_model.msgpack model.Q4_K_M.gguf m.pth",
    ),
    "the format of whoever trained it": (
        "model-00001-of-00001.safetensors params.json",
        "consolidated.safetensors consolidated.00.pth",
    ),
    "copies in other precisions": (
        "model.safetensors",
        "model.fp16.safetensors model-00001-of-00002.fp16.safetensors pytorch_model.bin",
    ),
    "an only copy": ("pytorch_model.fp16.bin", "tf_model.h5"),
    "torch before others": ("pytorch_model.bin", "rust_model.ot consolidated.00.pth"),
    "an adapter beside a model": ("model.safetensors adapter_model.bin", "a.bin"),
    "what training leaves": (
        "pytorch_model.bin",
        "training_args.bin optimizer.pt scheduler.pt rng_state_0.pth random_states_0.pkl "
        "last/optimizer.pt global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt",
    ),
    "other models below": (
        "model.safetensors",
        "onnx/model.onnx onnx/config.json openvino/openvino_model.bin openvino/x.xml "
        "original/consolidated.00.pth original/tokenizer.model coreml/a/weight.bin "
        "checkpoint-5/model.safetensors checkpoint-5/tokenizer.json",
    ),
}
DIRECTORIES = ["", "a", "a/b", "original", "/", "//x"]
FILES = ["model.safetensors", "model.fp16.safetensors", "consolidated.safetensors", "x.gguf"]
FILES += ["pytorch_model.bin", "x.pth", "config.json", "README.md", "optimizer.pt", "."]


@pytest.mark.parametrize("case", REPOSITORIES)
def test_one_format_is_fetched(case: str) -> None:
    needed, others = (text.split() for text in REPOSITORIES[case])
    names = [*BASICS, *needed, *others]
    assert select_files(names, HubModel("acme/a", "main")) == [*BASICS, *needed]


def test_arguments_choose_among_weights() -> None:
    gguf = ["a.Q4.gguf", "a.Q8.gguf"]
    steps = [f"step{step}/{name}" for step in (1, 2) for name in ("config.json", "m.safetensors")]
    names = [*BASICS, "model.safetensors", "model.fp16.safetensors", *gguf, *steps]

    def chosen(**arguments: object) -> set[str]:
        return set(select_files(names, HubModel("acme/a", "main", **arguments))) - set(BASICS)

    assert chosen() == {"model.safetensors"}
    assert chosen(gguf_file="a.Q8.gguf") == {"a.Q8.gguf"}
    assert chosen(variant="fp16") == {"model.fp16.safetensors"}
    assert chosen(subfolder="step2") == {"step2/config.json", "step2/m.safetensors"}
    assert chosen(weights=False) == set()


@given(
    st.lists(
        st.builds(os.path.join, st.sampled_from(DIRECTORIES), st.sampled_from(FILES)), unique=True
    ),
    st.sampled_from(DIRECTORIES[:3]),
)
def test_any_repository(names: list[str], subfolder: str) -> None:
    model = HubModel("acme/a", "main", subfolder=subfolder)
    kept = select_files(names, model)
    assert set(kept) <= set(names)
    # Nothing was left out for the sake of what is left out itself.
    assert select_files(kept, model) == kept
    here = {os.path.basename(name) for name in kept if os.path.dirname(name) == subfolder}
    there = {os.path.basename(name) for name in names if os.path.dirname(name) == subfolder}
    assert ("config.json" in here) == ("config.json" in there)
    formats = [".safetensors", ".bin", ".pth"]
    best = [end for end in formats if any(name.endswith(end) for name in there)][:1]
    assert [end for end in formats if any(name.endswith(end) for name in here)] == best
