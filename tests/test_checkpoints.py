"""Checkpoints: whether a model directory can be loaded, finding and selecting checkpoints."""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_directories import weights, write_model
from oellm.checkpoints import Checkpoint, Selection, examined, problem, search
from oellm.errors import UsageError
from oellm.models import ListedModel, ModelSpec, expand
from processes import make_tiny_model

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
    return lambda directory: (directory / name).write_bytes(data) and None


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
    (write(SHARD, weights()[:-1]), f"{SHARD}: {SIZE - 1} bytes, its header says {SIZE}"),
    (write(SHARD, weights() + b"x"), f"{SHARD}: {SIZE + 1} bytes, its header says {SIZE}"),
    (write(SHARD, weights()[:50]), f"{SHARD}: 50 bytes, which end within its header"),
    (write(SHARD, b"\xff" * 7), f"{SHARD}: 7 bytes, which end within its header"),
    (write(SHARD, b"\x80\x02" * 99), f"{SHARD}: this is not a safetensors file: its header would"),
    (
        write(SHARD, b"\2\0\0\0\0\0\0\0[]"),
        f"{SHARD}: this is not a safetensors file: its header gives no data_offsets",
    ),
    (write(SHARD, "version https://git-lfs"), f"{SHARD}: a pointer of Git LFS instead of the wei"),
    (write(INDEX, '{"weight_map"'), f"{INDEX}: it is not JSON"),
    (write(INDEX, "[]"), f"{INDEX}: expected a weight_map with names of shards"),
    (write(INDEX, '{"weight_map": {}}'), f"{INDEX}: expected a weight_map with names of shards"),
    (
        write(INDEX, '{"weight_map": {"a": 1}}'),
        f"{INDEX}: expected a weight_map with names of shards",
    ),
    # Written last, so that this is what a half-written checkpoint looks like.
    (remove(INDEX), "model-00001-of-00003.safetensors is one of several shards, and the index th"),
    (remove("tokenizer.json"), "no tokenizer: `,tokenizer=NAME` names one"),
    (write("tokenizer.json", ""), "tokenizer.json: the file is empty"),
    (only("config.json", "tokenizer.json"), "no weights: neither *.safetensors nor pytorch_model"),
    (only("config.json", "model.gguf"), "`,gguf_file=NAME` has to say which GGUF file"),
    (only("adapter_config.json", "adapter_model.safetensors"), "a PEFT adapter, no model: name i"),
    (only(), "no config.json"),
]
WHOLE = [
    (lambda path: torch_model(path, b""), "pytorch_model.bin: the file is empty"),
    (lambda path: torch_model(path, archive()[:-9]), "pytorch_model.bin: the zip archive is cut "),
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
    assert problem(str(directory), {}) == ""
    damage(directory)
    assert problem(str(directory), {}).startswith(message)


@PATIENT
@given(st.integers(0, SIZE - 1))
def test_a_safetensors_file_cut_off_anywhere_is_known(tmp_path_factory, kept: int) -> None:
    directory = tmp_path_factory.mktemp("cut")
    path = write_model(directory / "m") / "model.safetensors"
    path.write_bytes(weights()[:kept])
    assert problem(str(path.parent), {}).startswith("model.safetensors: ")


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
    assert problem(str(directory), arguments) == ""


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
    assert problem(str(directory), {}) == ""


def test_weights_of_other_names_are_checked_too(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m")
    quantised = directory / "gptq_model-4bit-128g.safetensors"
    (directory / "model.safetensors").rename(quantised)
    assert problem(str(directory), {}) == ""
    quantised.write_bytes(weights()[:-1])
    assert problem(str(directory), {}).startswith("gptq_model-4bit-128g.safetensors: ")


def test_arguments_say_where_the_model_is(tmp_path: Path) -> None:
    write_model(tmp_path / "m" / "hf")
    here = str(tmp_path / "m")
    assert problem(here, {"subfolder": "hf"}) == ""
    assert problem(here, {"subfolder": "gone"}) == "gone: No such file or directory"
    assert problem(here, {}) == "no config.json"
    missing = problem(here, {"subfolder": "hf", "gguf_file": "x.gguf"})
    assert missing == "hf: x.gguf: No such file or directory"
    (tmp_path / "m" / "hf" / "x.gguf").write_bytes(b"\0" * 9)
    wrong = problem(here, {"subfolder": "hf", "gguf_file": "x.gguf"})
    assert wrong == "hf: x.gguf: this is not a GGUF file"


def test_a_snapshot_of_the_hub_cache_is_links_to_blobs(tmp_path: Path) -> None:
    snapshot = write_model(tmp_path / "snapshots" / "c0ffee", shards=2)
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(tmp_path / "blobs" / str(number))
        path.symlink_to(f"../../blobs/{number}")
    assert problem(str(snapshot), {}) == ""
    (snapshot / "model-00001-of-00002.safetensors").resolve().unlink()
    expected = "model-00001-of-00002.safetensors: No such file or directory"
    assert problem(str(snapshot), {}) == expected


@pytest.mark.slow
def test_what_transformers_saves_is_whole_and_what_it_refuses_is_not(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    make_tiny_model(tmp_path / "one")
    assert problem(str(tmp_path / "one"), {}) == ""
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="100KB")
    shard = max(tmp_path.glob("many/model-*-of-*.safetensors"))
    assert problem(str(tmp_path / "many"), {"tokenizer": "t"}) == ""
    shard.write_bytes(shard.read_bytes()[:-1])
    assert problem(str(tmp_path / "many"), {"tokenizer": "t"}).startswith(f"{shard.name}: ")
    with pytest.raises(Exception, match=r"[Ss]afetensor|incomplete|header"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "many")
    for is_zip in (True, False):
        directory = tmp_path / f"torch-{is_zip}"
        directory.mkdir()
        model.config.save_pretrained(directory)
        path = directory / "pytorch_model.bin"
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=is_zip)
        assert problem(str(directory), {"tokenizer": "t"}) == ""


def found(root: Path, *which: str, **arguments: str) -> list[str]:
    """Return what is found below a directory, the broken with a question mark."""
    holding = search(str(root), arguments.get("subfolder", ""))
    selection = Selection.parse(which)
    selection.require_fit(holding.runs)
    return [
        os.path.relpath(path, root) + ("?" if why else "")
        for path, why in examined(holding, selection, arguments)
    ]


@pytest.mark.parametrize(
    ("directories", "expected"),
    [
        (["hf/iter_2000", "hf/iter_10000"], ["hf/iter_2000", "hf/iter_10000"]),
        (["b/hf/iter_2", "a/hf/iter_10"], ["a/hf/iter_10", "b/hf/iter_2"]),
        (["checkpoint-500", "checkpoint-1000"], ["checkpoint-500", "checkpoint-1000"]),
        (["step_2", "step_10"], ["step_2", "step_10"]),
        (["global_step9", "global_step10"], ["global_step9", "global_step10"]),
        (["iter_2/hf", "iter_10/hf"], ["iter_2/hf", "iter_10/hf"]),
        # The final model of a run hides the checkpoints below it.
        ([".", "checkpoint-500"], ["."]),
        (["too/deep/for/this", "a", ".cache/b"], ["a"]),
    ],
)
def test_checkpoints_are_found_in_these_places(
    tmp_path: Path, directories: list[str], expected: list[str]
) -> None:
    root = tmp_path / "m"
    for directory in directories:
        write_model(root / directory)
    assert found(root) == expected


def test_a_configuration_above_checkpoints_is_no_model(tmp_path: Path) -> None:
    write_model(tmp_path / "iter_1")
    (tmp_path / "config.json").write_text("{}")
    assert found(tmp_path) == ["iter_1"]
    os.rename(tmp_path / "iter_1", tmp_path / ".iter_1")
    assert found(tmp_path) == [".?"]


def test_a_half_written_checkpoint_is_found_beside_the_others(tmp_path: Path) -> None:
    write_model(tmp_path / "hf" / "iter_1")
    (tmp_path / "hf" / "iter_2").mkdir()
    (tmp_path / "hf" / "iter_3").mkdir()
    (tmp_path / "hf" / "iter_3" / "config.json").write_text("{}")
    (tmp_path / "hf" / "iter_4").symlink_to("gone")
    # Neither is a checkpoint, nor are those of another format elsewhere.
    for name in ("hf/logs", "iter_1/mp_rank_00", "iter_2"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "hf" / "latest").symlink_to("gone")
    assert found(tmp_path) == ["hf/iter_1", "hf/iter_2?", "hf/iter_3?", "hf/iter_4?"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    write_model(root / "iter_2000")
    write_model(tmp_path / "elsewhere" / "iter_5")
    write_model(root / "z" / "y" / "iter_7")
    (root / "iter_8").symlink_to("z/y/iter_7")
    (root / "a_latest").symlink_to("iter_2000")
    (root / "iter_2000_again").symlink_to(root / "iter_2000")
    (root / "loop").symlink_to(".")
    (root / "itself").symlink_to("itself")
    assert found(root) == ["iter_2000", "z/y/iter_7"]
    (root / "x10").symlink_to(tmp_path / "elsewhere")
    (root / "x9").symlink_to(tmp_path / "elsewhere" / "iter_5")
    # Of two links to the same place the first one counts.
    assert found(root) == ["iter_2000", "x9", "z/y/iter_7"]
    (tmp_path / "runs_link").symlink_to("runs")
    assert found(tmp_path / "runs_link") == ["iter_2000", "x9", "z/y/iter_7"]


def test_a_link_reaches_what_lies_too_deep(tmp_path: Path) -> None:
    write_model(tmp_path / "a" / "b" / "c" / "d" / "iter_1")
    assert found(tmp_path) == []
    (tmp_path / "near").symlink_to("a/b/c")
    assert found(tmp_path) == ["near/d/iter_1"]


def test_a_subfolder_belongs_to_each_checkpoint(tmp_path: Path) -> None:
    for name in ("iter_1/hf", "iter_2/hf", "iter_3/other"):
        write_model(tmp_path / name)
    assert found(tmp_path, subfolder="hf") == ["iter_1", "iter_2", "iter_3?"]


def test_arguments_of_all_models_count_where_a_model_has_none_of_its_own(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m" / "hf")
    (directory / "tokenizer.json").unlink()
    listed = [ListedModel(ModelSpec(str(tmp_path / "m")))]
    assert expand(listed, (), {"subfolder": "hf", "tokenizer": "t"}).models == [listed[0].spec]
    own = [ListedModel(ModelSpec(str(tmp_path / "m"), (("subfolder", "hf"),)))]
    assert expand(own, (), {"subfolder": "gone", "tokenizer": "t"}).models == [own[0].spec]
    assert expand(own).broken == [f"{tmp_path}/m: hf: no tokenizer: `,tokenizer=NAME` names one"]


def test_each_training_run_is_selected_from_by_itself(tmp_path: Path) -> None:
    for name in ("a/hf/iter_1", "a/hf/iter_2", "b/iter_3/hf", "b/iter_4/hf", "b/iter_4/old"):
        write_model(tmp_path / name)
    assert found(tmp_path, "last") == ["a/hf/iter_2", "b/iter_4/hf", "b/iter_4/old"]
    assert found(tmp_path, "every=2") == ["a/hf/iter_2", "b/iter_4/hf"]
    assert found(tmp_path, "3, 2") == ["a/hf/iter_2", "b/iter_3/hf"]


RUNS = st.lists(st.booleans(), max_size=30)
SELECTIONS = st.builds(
    Selection,
    st.lists(st.integers(1, 9), max_size=2).map(tuple),
    st.lists(st.integers(1, 30), max_size=3).map(tuple),
    st.booleans(),
).filter(lambda selection: selection != Selection())


def chosen(selection: Selection, run: list[bool]) -> dict[int, bool]:
    """Return the steps that are selected of a run, and whether each is whole."""
    checkpoints = [Checkpoint(f"/m/iter_{step}") for step in range(1, len(run) + 1)]
    whole = dict(zip(checkpoints, run, strict=True))
    pairs = selection.chosen(checkpoints, lambda one: "" if whole[one] else "broken")
    assert [one for one, _ in pairs] == sorted((one for one, _ in pairs), key=checkpoints.index)
    return {checkpoints.index(one) + 1: not why for one, why in pairs}


@PATIENT
@given(SELECTIONS, RUNS)
def test_a_selection_is_the_union_of_what_it_names(selection: Selection, run: list[bool]) -> None:
    whole = [step for step, is_whole in enumerate(run, 1) if is_whole]
    last = max(whole, default=0)
    expected = {
        step
        for step in range(1, len(run) + 1)
        if step in selection.steps
        or any(step % number == 0 for number in selection.every)
        # The broken ones after the last one that is whole are named.
        or (selection.last and step >= last)
    }
    assert chosen(selection, run) == {step: run[step - 1] for step in sorted(expected)}


@PATIENT
@given(SELECTIONS.map(lambda selection: selection._replace(last=False)), RUNS, RUNS)
def test_a_longer_run_keeps_the_selection_it_had(
    selection: Selection, run: list[bool], more: list[bool]
) -> None:
    if selection != Selection():
        longer = chosen(selection, run + more)
        assert list(chosen(selection, run)) == [step for step in longer if step <= len(run)]


@pytest.mark.parametrize(
    ("which", "message"),
    [
        *(
            (bad, f"expected every=N, last or a training step, got {bad!r}")
            for bad in ("first", "every=0", "every=", "every=-1", "1k", "-5", "", "\u0663")
        ),
        ("every=4", "every=4 selects nothing: the longest training run has 3"),
        ("2,30", "no checkpoint is of step 30; the nearest are 1, 2, 10"),
    ],
)
def test_a_selection_that_fits_nothing_says_what_there_is(
    tmp_path: Path, which: str, message: str
) -> None:
    for name in ("iter_1", "iter_2", "iter_10"):
        write_model(tmp_path / name)
    with pytest.raises(UsageError, match=re.escape(f"--checkpoints: {message}")):
        found(tmp_path, which)


def test_names_without_steps_are_said_to_have_none(tmp_path: Path) -> None:
    write_model(tmp_path / "best")
    with pytest.raises(UsageError, match="no checkpoint is of step 5; no name gives one"):
        found(tmp_path, "5")
