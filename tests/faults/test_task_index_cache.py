"""What somebody writes into a shared cache runs nothing, and leads no row to another task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.processes import DEMO_TASKS, Run
from support.task_files import write_task

ATTACK = "{{ cycler.__init__.__globals__.os.popen('touch RAN').read() }}"
DOCUMENTS = """
def load(texts, **_):
    import datasets

    return datasets.DatasetDict({"test": datasets.Dataset.from_list(texts)})
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two tasks of three and of two documents, and a tag of the first."""
    directory = tmp_path / "grp"
    directory.mkdir()
    (directory / "tasks.py").write_text(DOCUMENTS)
    for name, count in (("ga", 3), ("gb", 2)):
        texts = json.dumps([{"text": f"{name} {number}"} for number in range(count)])
        choices = {"doc_to_choice": '["a", "b"]', "doc_to_target": "0", "tag": f"tag_{name}"}
        write_task(directory, name, dataset_kwargs=f"{{texts: {texts}}}", **choices)
    return directory


def count_documents(run: Run, tasks: Path, name: str, cache: Path) -> int:
    manifest = f"model_path,task_path,n_shot,include_path\nm/m,{name},0,{tasks}\n"
    environment = {"OELLM_CACHE_DIR": str(cache)}
    done = run("oe-run-task", "--check_tasks", stdin=manifest, env=environment)
    return int(json.loads(done.stdout)["n_docs"])


def change_cache(cache: Path, entries: dict[str, Any]) -> None:
    (file,) = cache.glob("*/*.json")
    content = json.loads(file.read_bytes())
    content["content"][0].update(entries)
    file.write_text(json.dumps(content))


@pytest.mark.slow
def test_a_group_in_a_cache_runs_no_code(run: Run, tmp_path: Path, tasks: Path) -> None:
    cache = tmp_path / "cache"
    assert count_documents(run, tasks, "ga", cache) == 3
    inline = {
        "task": "inline",
        "custom_dataset": None,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(DEMO_TASKS / "oellm_choice.jsonl")},
        "output_type": "multiple_choice",
        "test_split": "train",
        "doc_to_text": ATTACK,
        "doc_to_choice": ["a", "b"],
        "doc_to_target": 0,
    }
    group = {"group": "ga", "task": [inline]}
    # As earlier versions kept a group, and without its configuration.
    for entry in (["group", "", group, []], ["group", "ga.yaml", []]):
        change_cache(cache, {"ga": entry})
        assert count_documents(run, tasks, "ga", cache) == 3
        # The index is as true as before.
        (file,) = cache.glob("*/*.json")
        assert json.loads(file.read_bytes())["content"][0]["ga"][:2] == ["task", "ga.yaml"]
    old = {"ga": ["group", "", group, []]}
    for file in [*cache.glob("*/*.json"), cache / "tasks-0.4.13-0123456789abcdef.json"]:
        file.write_text(json.dumps(old))
    assert count_documents(run, tasks, "ga", cache) == 3
    assert not (tmp_path / "RAN").exists()


@pytest.mark.slow
def test_an_entry_of_a_cache_leads_to_no_other_task(run: Run, tmp_path: Path, tasks: Path) -> None:
    cache = tmp_path / "cache"
    assert count_documents(run, tasks, "tag_ga", cache) == 3
    redirections: dict[str, dict[str, Any]] = {
        "ga": {"ga": ["task", "gb.yaml", ["tag_ga"]]},
        "tag_ga": {"tag_ga": ["tag", "", ["gb"]]},
        "gb": {"gb": ["tag", "", ["ga"]]},
    }
    for name, entries in redirections.items():
        change_cache(cache, entries)
        assert count_documents(run, tasks, name, cache) == (2 if name == "gb" else 3)


@pytest.mark.slow
def test_a_template_of_a_task_runs_no_code(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    directory = tmp_path / "grp"
    directory.mkdir()
    (directory / "tasks.py").write_text(DOCUMENTS)
    keys = {"dataset_kwargs": "{texts: [{text: a}]}", "doc_to_text": f'"{ATTACK}"'}
    write_task(directory, "evil", doc_to_choice='["a", "b"]', doc_to_target="0", **keys)
    manifest = (
        "model_path,task_path,n_shot,include_path\n"
        f"{tiny_model},evil,0,{directory}\n"
        f"{tiny_model},oellm_copy,0,{DEMO_TASKS}\n"
    )
    done = run("oe-run-task", "--output_dir=out", stdin=manifest, status=1)
    assert "1 rows evaluated, 0 already had results, 1 failed" in done.stderr
    assert "unsafe" in done.stderr
    assert not (tmp_path / "RAN").exists()
