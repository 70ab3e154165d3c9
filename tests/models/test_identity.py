"""The identity of a model: equal for copies, different after any change of its answers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from oellm.models.identity import ModelIdentity, identify_model
from support.model_directories import write_model
from support.processes import Run


def answers_of(identity: ModelIdentity) -> dict[str, Any]:
    """Return what decides a model's answers: all of its identity but the step, which is a name."""
    return {name: value for name, value in identity.to_json().items() if name != "step"}


def identity_of(directory: Path) -> dict[str, Any]:
    return answers_of(identify_model(str(directory), ""))


def test_a_local_model_is_known_by_its_files(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m" / "iter_0001000", shards=2)
    (directory / "optimizer.bin").write_bytes(b"x")
    (directory / "tokenizer").mkdir()
    found = identify_model(str(directory), "").to_json()
    names = ["config.json", "model.safetensors.index.json", "tokenizer.json"]
    assert found["files"] == {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names
    }
    sizes = {path.name: path.stat().st_size for path in sorted(directory.glob("*.safetensors"))}
    assert found["weights"] == sizes
    assert len(sizes) == 2
    assert found["total_bytes"] == sum(sizes.values())
    assert found["step"] == 1000
    assert json.loads(json.dumps(found)) == found


def test_a_copy_and_links_to_the_files_are_the_same_model(tmp_path: Path) -> None:
    original = write_model(tmp_path / "step100", shards=3)
    copy, links = tmp_path / "step200", tmp_path / "links"
    shutil.copytree(original, copy)
    links.mkdir()
    for path in original.iterdir():
        (links / path.name).symlink_to(path)
    (tmp_path / "latest").symlink_to(original)
    for directory in (copy, links, tmp_path / "latest"):
        assert identity_of(directory) == identity_of(original)
    (copy / "README.md").write_text("not read by any model")
    nested = tmp_path / "nested"
    shutil.copytree(original, nested / "hf")
    assert (
        answers_of(identify_model(str(nested), "", "hf"))
        == identity_of(copy)
        == identity_of(original)
    )


def rename_shard(directory: Path) -> None:
    (directory / "model-00002-of-00002.safetensors").rename(directory / "model.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda directory: (directory / "config.json").write_text('{"model_type": "qwen"}'),
        lambda directory: (directory / "tokenizer.json").write_text("{}"),
        lambda directory: (directory / "generation_config.json").write_text("{}"),
        lambda directory: (directory / "special_tokens_map.json").write_text("{}"),
        lambda directory: (directory / "chat_template.jinja").write_text("{{ messages }}"),
        rename_shard,
        lambda directory: os.truncate(directory / "model-00001-of-00002.safetensors", 10),
    ],
)
def test_what_changes_answers_makes_another_model(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    directory = write_model(tmp_path / "m", shards=2)
    before = identity_of(directory)
    change(directory)
    assert identity_of(directory) != before


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_counts_if_a_configuration_names_code(tmp_path: Path, name: str) -> None:
    directory = write_model(tmp_path / "m")
    before = identity_of(directory)
    (directory / "plot_loss.py").write_text("pass")
    assert identity_of(directory) == before
    (directory / name).write_text(json.dumps({"auto_map": {"AutoConfig": "own.Own"}}))
    (directory / "own.py").write_text("a = 1")
    named = identity_of(directory)
    assert "own.py" in named["files"]
    (directory / "own.py").write_text("a = 2")
    assert identity_of(directory) != named


def test_a_gguf_file_counts_if_it_is_what_is_loaded(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m")
    before = identity_of(directory)
    for number in "12":
        (directory / f"q{number}.gguf").write_bytes(b"GGUF" + number.encode())
    assert identity_of(directory) == before
    found = identify_model(str(directory), "", gguf_file="q2.gguf").to_json()
    assert list(found["weights"]) == ["q2.gguf"]
    (directory / "model.safetensors").unlink()
    assert list(identity_of(directory)["weights"]) == ["q1.gguf", "q2.gguf"]


@pytest.mark.parametrize("shards", [0, 2, 200])
def test_other_weights_in_files_of_the_same_sizes_are_another_model(
    tmp_path: Path, shards: int
) -> None:
    # A training run has written on to the same path.
    paths = [write_model(tmp_path / str(seed), shards, 100_000, seed) for seed in (1, 2)]
    for path in paths:
        (path / "config.json").write_text("{}")
    first, second = (identify_model(str(path), "") for path in paths)
    assert first.to_json()["weights"] == second.to_json()["weights"]
    assert answers_of(first) != answers_of(second)


def test_two_hundred_shards_take_milliseconds(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", shards=200, size=50_000)
    seconds = []
    for _ in range(9):
        started = time.perf_counter()
        identify_model(str(directory), "")
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.05, median(seconds)


COMMIT = "0123456789abcdef0123456789abcdef01234567"
PRINT = """
import sys
from oellm.models.identity import identify_model
print(identify_model(*sys.argv[1:]).to_json())
"""


def test_a_model_of_the_hub_is_known_by_its_commit(run: Run, tmp_path: Path) -> None:
    repository = tmp_path / "hf" / "hub" / "models--acme--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    env = {"HF_HOME": str(tmp_path / "hf")}
    other = "f" * 40
    for revision, commit in (("main", COMMIT), ("", COMMIT), (other, other), ("absent", "")):
        done = run(sys.executable, "-c", PRINT, "acme/tiny", revision, env=env)
        assert done.stdout == f"{{'commit': '{commit}'}}\n"


def test_a_model_that_went_away_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        identify_model(str(tmp_path / "gone"), "")
