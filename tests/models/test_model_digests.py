"""Digests of the models of rows: cheap for what has not changed, different for what has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oellm.manifest.rows import Row
from oellm.models import model_digests
from oellm.models.identity import UNKNOWN_DIGITS, identify_directory
from oellm.models.model_digests import KnownDirectory, ModelDigests
from oellm.runs.accepted_contents import model_source
from oellm.runs.contents import Contents, find_changes
from support.model_directories import write_model


def row(model: Path, **arguments: Path) -> Row:
    given = "".join(f",{name}={path}" for name, path in arguments.items())
    return Row({"model_path": f"{model}{given}", "task_path": "t", "n_shot": "0"})


def weights(model: Path) -> Path:
    (found,) = model.glob("*.safetensors")
    return found


def change(path: Path) -> None:
    """Change the last byte of a file, which keeps its size and its time of change."""
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "iter_1")


def test_the_halves_tell_weights_from_other_files(model: Path) -> None:
    before = ModelDigests().digest(row(model))
    assert before == identify_directory(str(model)).digest
    assert len(before) == 16
    change(weights(model))
    other_weights = ModelDigests().digest(row(model))
    assert other_weights[:8] != before[:8] and other_weights[8:] == before[8:]
    (model / "tokenizer_config.json").write_text("{}")
    other_files = ModelDigests().digest(row(model))
    assert other_files[:8] == other_weights[:8] and other_files[8:] != before[8:]


def test_no_file_of_an_unchanged_directory_is_read(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ModelDigests()
    digest = first.digest(row(model))
    known = {
        path: KnownDirectory.from_json(entry.to_json()) for path, entry in first.directories.items()
    }
    read: list[str] = []

    def identify(directory: str, *, gguf_file: str = "") -> object:
        read.append(directory)
        return identify_directory(directory, gguf_file=gguf_file)

    monkeypatch.setattr(model_digests, "identify_directory", identify)
    second = ModelDigests({path: entry for path, entry in known.items() if entry is not None})
    assert second.digest(row(model)) == digest
    assert read == []
    weights(model).touch()
    second.forget()
    assert second.digest(row(model)) == digest
    assert read == [str(model)]
    change(weights(model))
    assert second.digest(row(model)) == digest
    second.forget()
    assert second.digest(row(model)) != digest


@pytest.mark.parametrize("name", ["tokenizer", "peft", "lora_local_path"])
def test_directories_that_arguments_name_count(model: Path, tmp_path: Path, name: str) -> None:
    companion = write_model(tmp_path / "companion")
    (companion / "adapter_model.safetensors").write_bytes(b"adapter")
    named = row(model, **{name: companion})
    before = ModelDigests().digest(named)
    assert before != ModelDigests().digest(row(model))
    (companion / "tokenizer.json").write_text("[]")
    after = ModelDigests().digest(named)
    assert after[8:] != before[8:] and after[:8] == before[:8]
    (companion / "adapter_model.safetensors").write_bytes(b"ADAPTER")
    # The weights of a directory that only gives the tokenizer change nothing.
    assert (ModelDigests().digest(named)[:8] != before[:8]) == (name != "tokenizer")


def test_a_tokenizer_is_looked_for_in_the_subfolder_that_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "model" / "hf")
    tokenizer = write_model(tmp_path / "tokenizer" / "hf")
    named = row(tmp_path / "model", subfolder=Path("hf"), tokenizer=tokenizer.parent)
    before = ModelDigests().digest(named)
    (tokenizer / "tokenizer.json").write_text("[]")
    after = ModelDigests().digest(named)
    assert before[:8] == after[:8] and before[8:] != after[8:]


def test_chat_templates_that_are_chosen_by_name_count(model: Path) -> None:
    template = model / "additional_chat_templates" / "tool_use.jinja"
    template.parent.mkdir()
    template.write_text("a")
    first = ModelDigests()
    before = first.digest(row(model))
    assert ModelDigests(first.directories).digest(row(model)) == before
    template.write_text("bc")
    after = ModelDigests(first.directories).digest(row(model))
    assert after[:8] == before[:8] and after[8:] != before[8:]


@pytest.mark.parametrize("name", ["tokenizer", "peft"])
def test_without_a_companion_the_model_is_still_known(
    model: Path, tmp_path: Path, name: str
) -> None:
    companion = write_model(tmp_path / "companion")
    named = row(model, **{name: companion})
    whole = ModelDigests().digest(named)
    companion.rename(tmp_path / "elsewhere")
    # Weights of a tokenizer's directory do not count, so that they are still known.
    expected = whole[:8] + UNKNOWN_DIGITS if name == "tokenizer" else ""
    lone = ModelDigests().digest(named)
    assert lone == expected
    assert find_changes(Contents(whole), Contents(lone)) == []
    if lone:
        change(weights(model))
        changed = ModelDigests().digest(named)
        assert find_changes(Contents(whole), Contents(changed)) == ["weights changed"]


def test_a_tokenizer_may_be_a_file(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(b"1")
    named = row(model, tokenizer=file)
    first = ModelDigests()
    before = first.digest(named)
    assert before and UNKNOWN_DIGITS not in before
    assert ModelDigests(first.directories).digest(named) == before
    file.write_bytes(b"12")
    after = ModelDigests(first.directories).digest(named)
    assert after[:8] == before[:8] and after[8:] != before[8:]


def test_rows_of_one_directory_differ_by_their_gguf_files(model: Path) -> None:
    paths = [model / name for name in ("q1.gguf", "q2.gguf")]
    for path in paths:
        path.write_bytes(b"GGUF" + path.name.encode())
    rows = [row(model), *(row(model, gguf_file=Path(path.name)) for path in paths)]
    digests = ModelDigests()
    assert len(set(map(digests.digest, rows))) == len(set(map(model_source, rows))) == 3
    paths[0].write_bytes(b"GGUF")
    later = ModelDigests(digests.directories)
    assert [later.digest(each) == digests.digest(each) for each in rows] == [True, False, True]


def test_what_cannot_be_read_or_is_not_local_is_unknown(tmp_path: Path) -> None:
    digests = ModelDigests()
    assert digests.digest(row(tmp_path / "gone")) == ""
    assert digests.digest(Row({"model_path": "acme/m", "task_path": "t", "n_shot": "0"})) == ""
    pipe = write_model(tmp_path / "pipe")
    weights(pipe).unlink()
    os.mkfifo(pipe / "model.safetensors")
    os.mkfifo(pipe / "tokenizer.model")
    digests.look_at([row(pipe), row(tmp_path / "gone")])
    assert digests.digest(row(pipe)) == identify_directory(str(pipe)).digest


@pytest.mark.parametrize(
    "damaged",
    [None, [], {}, {"files": []}, {"files": {"a": [1, 2, 1e999]}}, {"files": {"a": ["x"]}}],
)
def test_damaged_knowledge_is_none(damaged: object) -> None:
    assert KnownDirectory.from_json(damaged) is None


def hub_row(revision: str = "", **arguments: str) -> Row:
    given = "".join(f",{name}={text}" for name, text in arguments.items())
    return Row({"model_path": f"org/base{given}", "model_revision": revision, "task_path": "t"})


def cached(hub: Path, name: str, commit: str) -> None:
    """Let a cache of the hub have a repository at a commit."""
    root = hub / f"models--{name.replace('/', '--')}"
    (root / "snapshots" / commit).mkdir(parents=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(commit)


def test_adapters_of_hub_models_count(model: Path) -> None:
    commit = "ab" * 20
    assert ModelDigests().digest(hub_row(commit)) == ""
    named = hub_row(commit, peft=str(model))
    before = ModelDigests().digest(named)
    assert before.startswith(f"{commit}+")
    change(weights(model))
    after = ModelDigests().digest(named)
    changes = find_changes(Contents(before), Contents(after))
    assert changes == ["adapter of the model changed"]
    # Results of earlier versions tell the commit alone.
    assert find_changes(Contents(commit), Contents(after)) == []
    other = "cd" * 20
    assert find_changes(Contents(other), Contents(after)) == [
        f"model: commit {other[:12]} → {commit[:12]}"
    ]


@pytest.mark.parametrize("of_hub", [True, False])
def test_the_commits_of_companions_on_the_hub_count(
    model: Path, tmp_path: Path, of_hub: bool
) -> None:
    hub = tmp_path / "hub"
    names = {"tokenizer": "org/words", "peft": "org/adapter"}
    given = "".join(f",{name}={text}" for name, text in names.items())
    cells = {"model_path": f"{model}{given}", "task_path": "t", "n_shot": "0"}
    named = hub_row("ab" * 20, **names) if of_hub else Row(cells)
    for name in names.values():
        cached(hub, name, "1" * 40)
    before = ModelDigests(hub=str(hub)).digest(named)
    cached(hub, "org/words", "2" * 40)
    with_tokenizer = ModelDigests(hub=str(hub)).digest(named)
    assert with_tokenizer[:-8] == before[:-8] and with_tokenizer[-8:] != before[-8:]
    cached(hub, "org/adapter", "2" * 40)
    assert ModelDigests(hub=str(hub)).digest(named)[:-8] != before[:-8]
    # Without the jobs' cache, nothing is said of them.
    assert ModelDigests(hub="").digest(hub_row("ab" * 20, tokenizer="org/words")) == ""
    unknown = ModelDigests(hub="").digest(named)
    assert find_changes(Contents(before), Contents(unknown)) == []
