"""Git repositories of tasks, made by tests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from support.processes import DEMO_TASKS


class Repository:
    """A repository on this machine, which oe-fetch takes for a remote one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    @property
    def url(self) -> str:
        """The beginning of a reference, without a commit."""
        return f"git+file://{self.path}"

    def git(self, *arguments: str) -> str:
        """Return what git prints, without the line end."""
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgSign=false")
        called = ["git", "-C", str(self.path), *who, *arguments]
        done = subprocess.run(called, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str] | None = None) -> str:
        """Write files, commit all that is there, and return the commit."""
        for name, content in (files or {}).items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--message=x", "--allow-empty")
        return self.git("rev-parse", "HEAD")


def quiz_files(count: int, **prompts: str) -> dict[str, str]:
    """Return the files of tasks q0, q1, …: their YAML, an included file, code and data.

    The prompt of a task is that in `prompts`, else `Repeat: {{words}}`.
    """
    splits = ("fewshot", *["test"] * 4)
    documents = [{"split": split, "words": f"word {n}"} for n, split in enumerate(splits)]
    base = {
        "dataset_kwargs": {"file": "data.jsonl"},
        "output_type": "multiple_choice",
        "fewshot_split": "fewshot",
        "test_split": "test",
        "doc_to_choice": ["yes", "no"],
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    files = {
        "base.yaml": f"{json.dumps(base)[:-1]}, custom_dataset: !function local_data.load}}\n",
        "local_data.py": (DEMO_TASKS / "local_data.py").read_text(),
        "data.jsonl": "".join(f"{json.dumps(document)}\n" for document in documents),
    }
    for name in (f"q{number}" for number in range(count)):
        prompt = prompts.get(name, "Repeat: {{words}}")
        files[f"{name}.yaml"] = f'task: {name}\ninclude: base.yaml\ndoc_to_text: "{prompt}"\n'
    return files
