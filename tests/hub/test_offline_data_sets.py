"""Why datasets.load_dataset is replaced: what it does not find in its own cache offline.

As soon as the cases without our loader fail here, hub/data_sets.py can lose its loader.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from oellm.hub.data_sets import install, record_commits
from support.hub import Hub
from support.hub_content import write_arc, write_dataset
from support.processes import Run

_INSTALL = "from oellm.hub import data_sets; data_sets.install()"
_LOAD = """
import datasets
{install}
def load(*arguments, **options):
    try:
        return len(datasets.load_dataset("acme/arc", *arguments, **options)["test"])
    except Exception as error:
        return type(error).__name__
print(load({arguments}))
"""
_FILES = 'data_files={"test": "files/quiz.jsonl"}'


@pytest.fixture
def arc(tmp_path: Path) -> Path:
    """Write a data set with the default configuration ARC-Easy of four documents, and another."""
    directory = write_arc(tmp_path / "arc")
    other = [{"question": "?", "choices": {"text": ["x"], "label": ["A"]}, "answerKey": "A"}]
    write_dataset(directory, "other", "other", other)
    (directory / "files").mkdir()
    lines = [json.dumps({"question": f"question {number}"}) + "\n" for number in range(3)]
    (directory / "files" / "quiz.jsonl").write_text("".join(lines))
    card = directory / "README.md"
    card.write_text(card.read_text().replace('"ARC-Easy",', '"ARC-Easy", "default": true,'))
    return directory


# What is loaded with the hub, then without it, and the number of documents.
CASES = {"files": ([_FILES], _FILES, "3"), "default": (["", '"other"'], "", "4")}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("install", [_INSTALL, ""], ids=["ours", "theirs"])
def test_our_loader_finds_offline_what_theirs_does_not(
    run: Run, tmp_path: Path, arc: Path, install: str, case: str
) -> None:
    online, offline, documents = CASES[case]
    environment = {"HF_HOME": str(tmp_path / "hf")}

    def load(arguments: str, **variables: str) -> str:
        code = _LOAD.format(install=install, arguments=arguments)
        return run(sys.executable, "-c", code, env={**environment, **variables}).stdout.strip()

    with Hub() as hub:
        hub.add_dataset("acme/arc", arc)
        environment |= hub.environment
        for arguments in online:
            assert load(arguments).isdecimal()
    found = load(offline, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    assert found == (documents if install else "ValueError")


def test_a_recording_does_not_disturb_the_one_around_it() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with record_commits(outer):
        with record_commits(inner):
            install().commits.append("acme/a@1")
        install().commits.append("acme/a@2")
    assert (outer, inner) == (["acme/a@2"], ["acme/a@1"])
