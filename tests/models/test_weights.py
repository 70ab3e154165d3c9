"""Whether a model directory can be loaded, by its files."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.models.model_directory import find_directory_problem
from support.model_directories import weights, write_model
from support.processes import make_tiny_model

PATIENT = settings(deadline=None)

SHARD = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


def archive() -> bytes:
    """Return a zip archive, as torch writes them."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        zipped.writestr("archive/data.pkl", b"x" * 999)
    return stream.getvalue()


def torch_model(directory: Path, content: bytes) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    (directory / "pytorch_model.bin").write_bytes(content)


def remove(*names: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        for name in names:
            (directory / name).unlink()

    return change


def write(name: str, content: bytes | str) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content

    def change(directory: Path) -> None:
        (directory / name).write_bytes(data)

    return change


def link(name: str, target: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        (directory / name).unlink()
        (directory / name).symlink_to(target)

    return change


def only(*names: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        for path in directory.iterdir():
            path.unlink()
        for name in names:
            (directory / name).write_text("{}")

    return change


SIZE = len(weights())
# Damage to a model with three shards, or with one file of weights, and what is said about it.
SHARDED = [
    (remove("config.json"), "no config.json"),
    (write("config.json", "{"), "config.json: it is not JSON"),
    (write("config.json", ""), "config.json: it is not JSON"),
    (write("config.json", "[" * 99_999), "config.json: it is not JSON"),
    (write("config.json", "[]"), "config.json: expected a JSON object"),
    (link("config.json", "gone"), "config.json: No such file or directory"),
    (remove(SHARD), f"{INDEX}: 1 of 3 shards missing, first {SHARD}"),
    (link(SHARD, "gone"), f"{SHARD}: No such file or directory"),
    (link(SHARD, SHARD), f"{SHARD}: Too many levels of symbolic links"),
    (write(SHARD, ""), f"{SHARD}: the file is empty"),
    (write(SHARD, weights()[:-1]), f"{SHARD}: it has {SIZE - 1} bytes, but its header says {SIZE}"),
    (
        write(SHARD, weights() + b"x"),
        f"{SHARD}: it has {SIZE + 1} bytes, but its header says {SIZE}",
    ),
    (write(SHARD, weights()[:50]), f"{SHARD}: truncated within its header: 50 bytes"),
    (write(SHARD, b"\xff" * 7), f"{SHARD}: truncated within its header: 7 bytes"),
    (write(SHARD, b"\x80\x02" * 99), f"{SHARD}: this is not a safetensors file: its header would"),
    (
        write(SHARD, b"\2\0\0\0\0\0\0\0[]"),
        f"{SHARD}: this is not a safetensors file: its header gives no data_offsets",
    ),
    (write(SHARD, "version https://git-lfs"), f"{SHARD}: a Git LFS pointer instead of the weight"),
    (write(INDEX, '{"weight_map"'), f"{INDEX}: it is not JSON"),
    (write(INDEX, "[]"), f"{INDEX}: expected a weight_map with names of shards"),
    (write(INDEX, '{"weight_map": {}}'), f"{INDEX}: expected a weight_map with names of shards"),
    (
        write(INDEX, '{"weight_map": {"a": 1}}'),
        f"{INDEX}: expected a weight_map with names of shards",
    ),
    # Written last, so that this is what a half-written checkpoint looks like.
    (remove(INDEX), "model-00001-of-00003.safetensors is one of several shards, and the index th"),
    (remove("tokenizer.json"), "no tokenizer: add `,tokenizer=NAME`"),
    (write("tokenizer.json", ""), "tokenizer.json: the file is empty"),
    (only("config.json", "tokenizer.json"), "no weights: neither *.safetensors nor pytorch_model"),
    (only("config.json", "model.gguf"), "add `,gguf_file=NAME` to say which GGUF file"),
    (only("adapter_config.json", "adapter_model.safetensors"), "a PEFT adapter, not a model: "),
    (only(), "no config.json"),
]
WHOLE = [
    (lambda path: torch_model(path, b""), "pytorch_model.bin: the file is empty"),
    (
        lambda path: torch_model(path, archive()[:-9]),
        "pytorch_model.bin: the zip archive is truncated",
    ),
    (lambda path: torch_model(path, b"PK"), "pytorch_model.bin: this is not a PyTorch file"),
    (lambda path: torch_model(path, b"\0" * 99), "pytorch_model.bin: this is not a PyTorch file"),
    (write("config.json", '{"transformers_weights": "x.safetensors"}'), "x.safetensors: No such f"),
]


@pytest.mark.parametrize(
    ("shards", "damage", "message"),
    [*((3, *case) for case in SHARDED), *((0, *case) for case in WHOLE)],
)
def test_a_directory_that_cannot_be_loaded_is_known_by_its_files(
    tmp_path: Path, shards: int, damage: Callable[[Path], None], message: str
) -> None:
    directory = write_model(tmp_path / "m", shards)
    assert find_directory_problem(str(directory), {}) is None
    damage(directory)
    assert find_directory_problem(str(directory), {}).startswith(message)


@PATIENT
@given(st.integers(0, SIZE - 1))
def test_a_safetensors_file_cut_off_anywhere_is_known(
    tmp_path_factory: pytest.TempPathFactory, kept: int
) -> None:
    directory = tmp_path_factory.mktemp("cut")
    path = write_model(directory / "m") / "model.safetensors"
    path.write_bytes(weights()[:kept])
    assert find_directory_problem(str(path.parent), {}).startswith("model.safetensors: ")


@pytest.mark.parametrize(
    ("change", "arguments"),
    [
        (lambda path: torch_model(path, archive()), {}),
        (lambda path: torch_model(path, pickle.dumps({}, protocol=2)), {}),
        # Whole weights that are loaded, beside remains of others that are not.
        (write(INDEX, '{"weight_map": {"a": "gone"}}'), {}),
        (write("pytorch_model.bin", ""), {}),
        # Configurations in the hub have what JSON has not.
        (write("config.json", '{"time_step_limit": [0.0, Infinity]}'), {}),
        (remove("tokenizer.json"), {"tokenizer": "acme/tiny"}),
        (only("model.gguf"), {"gguf_file": "model.gguf"}),
    ],
)
def test_other_directories_that_can_be_loaded(
    tmp_path: Path, change: Callable[[Path], None], arguments: dict[str, str]
) -> None:
    directory = write_model(tmp_path / "m")
    change(directory)
    if "gguf_file" in arguments:
        (directory / "model.gguf").write_bytes(b"GGUF\3\0\0\0")
    assert find_directory_problem(str(directory), arguments) is None


@pytest.mark.parametrize(
    "tokenizer",
    [
        *("tokenizer.model", "vocab.txt", "spiece.model", "qwen.tiktoken", "tekken.json"),
        *("sentencepiece.bpe.model", "merges.txt", "prophetnet.tokenizer", "rwkv_vocab_v2.txt"),
    ],
)
def test_tokenizers_have_many_names(tmp_path: Path, tokenizer: str) -> None:
    directory = write_model(tmp_path / "m")
    (directory / "tokenizer.json").rename(directory / tokenizer)
    assert find_directory_problem(str(directory), {}) is None


def test_weights_of_other_names_are_checked_too(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m")
    quantised = directory / "gptq_model-4bit-128g.safetensors"
    (directory / "model.safetensors").rename(quantised)
    assert find_directory_problem(str(directory), {}) is None
    quantised.write_bytes(weights()[:-1])
    assert find_directory_problem(str(directory), {}).startswith(
        "gptq_model-4bit-128g.safetensors: "
    )


def test_arguments_say_where_the_model_is(tmp_path: Path) -> None:
    write_model(tmp_path / "m" / "hf")
    here = str(tmp_path / "m")
    assert find_directory_problem(here, {"subfolder": "hf"}) is None
    assert find_directory_problem(here, {"subfolder": "gone"}) == "gone: No such file or directory"
    assert find_directory_problem(here, {}) == "no config.json"
    missing = find_directory_problem(here, {"subfolder": "hf", "gguf_file": "x.gguf"})
    assert missing == "hf: x.gguf: No such file or directory"
    (tmp_path / "m" / "hf" / "x.gguf").write_bytes(b"\0" * 9)
    wrong = find_directory_problem(here, {"subfolder": "hf", "gguf_file": "x.gguf"})
    assert wrong == "hf: x.gguf: this is not a GGUF file"


def test_a_snapshot_of_the_hub_cache_is_links_to_blobs(tmp_path: Path) -> None:
    snapshot = write_model(tmp_path / "snapshots" / "c0ffee", shards=2)
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(tmp_path / "blobs" / str(number))
        path.symlink_to(f"../../blobs/{number}")
    assert find_directory_problem(str(snapshot), {}) is None
    (snapshot / "model-00001-of-00002.safetensors").resolve().unlink()
    expected = "model-00001-of-00002.safetensors: No such file or directory"
    assert find_directory_problem(str(snapshot), {}) == expected


@pytest.mark.slow
def test_what_transformers_saves_is_whole_and_what_it_refuses_is_not(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    make_tiny_model(tmp_path / "one")
    assert find_directory_problem(str(tmp_path / "one"), {}) is None
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="100KB")
    shard = max(tmp_path.glob("many/model-*-of-*.safetensors"))
    assert find_directory_problem(str(tmp_path / "many"), {"tokenizer": "t"}) is None
    shard.write_bytes(shard.read_bytes()[:-1])
    assert find_directory_problem(str(tmp_path / "many"), {"tokenizer": "t"}).startswith(
        f"{shard.name}: "
    )
    with pytest.raises(Exception, match=r"[Ss]afetensor|incomplete|header"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "many")
    for is_zip in (True, False):
        directory = tmp_path / f"torch-{is_zip}"
        directory.mkdir()
        model.config.save_pretrained(directory)
        path = directory / "pytorch_model.bin"
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=is_zip)
        assert find_directory_problem(str(directory), {"tokenizer": "t"}) is None
