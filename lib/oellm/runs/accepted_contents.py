"""The state of models and tasks that a run evaluates: RUN_DIR/contents.json.

oe-submit writes it before it submits. Workers evaluate no row whose model or task is in another
state, so that results of one run are of one state.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from oellm.core import atomic, json_codec
from oellm.core.regular_files import read_regular
from oellm.manifest.argument_texts import ADAPTERS
from oellm.manifest.rows import Row
from oellm.models.model_digests import KnownDirectory
from oellm.runs.contents import Contents

CONTENTS = "contents.json"


class AcceptedTask(NamedTuple):
    """The state of a task.

    Attributes:
        digest: Its digest; empty if unknown.
        version: The version that it gives itself; empty if unknown.
        framework_version: The version of the framework that took the digest; empty if the jobs
            have another environment than oe-submit, and the digest is theirs.
    """

    digest: str
    version: str = ""
    framework_version: str = ""


class AcceptedContents(NamedTuple):
    """What contents.json holds.

    Attributes:
        models: The digests of models, by `model_source`.
        tasks: The states of tasks, by `task_source`.
        kept: Earlier states whose results count, too, as `describe_states` writes them.
        directories: What is known of the directories of models, by path.
    """

    models: dict[str, str]
    tasks: dict[str, AcceptedTask]
    kept: frozenset[str]
    directories: dict[str, KnownDirectory]

    @classmethod
    def from_json(cls, content: Any) -> AcceptedContents:
        """Read contents.json; what is damaged is unknown."""
        models = {source: _text(digest) for source, digest in _items(content, "models")}
        tasks = {}
        for source, state in _items(content, "tasks"):
            if isinstance(state, Mapping):
                texts = [_text(state.get(name)) for name in AcceptedTask._fields]
                tasks[source] = AcceptedTask(*texts)
        kept = content.get("kept") if isinstance(content, Mapping) else None
        directories = {
            path: known
            for path, entry in _items(content, "directories")
            if (known := KnownDirectory.from_json(entry)) is not None
        }
        states = frozenset(map(_text, kept if isinstance(kept, list) else []))
        return cls(models, tasks, kept=states, directories=directories)

    def to_json(self) -> dict[str, Any]:
        """Return what contents.json holds."""
        return {
            "models": self.models,
            "tasks": {source: task._asdict() for source, task in self.tasks.items()},
            "kept": sorted(self.kept),
            "directories": {path: known.to_json() for path, known in self.directories.items()},
        }


def read_accepted(run_dir: Path) -> AcceptedContents:
    """Return what a run directory has accepted; nothing if it does not say, or is damaged."""
    try:
        content = json_codec.loads(read_regular(run_dir / CONTENTS))
    except (OSError, ValueError, RecursionError):
        content = None
    return AcceptedContents.from_json(content)


def write_accepted(run_dir: Path, accepted: AcceptedContents) -> None:
    """Write contents.json, unless it holds this already; raises OSError if that is impossible."""
    if read_accepted(run_dir) != accepted:
        content = json_codec.dumps(accepted.to_json(), indent=True) + b"\n"
        atomic.write_file(run_dir / CONTENTS, content)


def model_source(row: Row) -> str:
    """Return the key of a row's model: all that says which of its files are read."""
    arguments = row.model_arguments
    named = ("subfolder", "tokenizer", "peft", "delta")
    parts = [row.model.path, *(str(arguments.get(name) or "") for name in named)]
    if gguf_file := str(arguments.get("gguf_file") or ""):
        parts.append(gguf_file)
    parts += [f"{name}={arguments[name]}" for name in ADAPTERS if arguments.get(name)]
    if not row.model.is_local:
        parts.append(f"revision={row['model_revision']}")
    return json_codec.dumps(parts).decode()


def task_source(row: Row) -> str:
    """Return the key of a row's task."""
    typed = row.typed
    return json_codec.dumps([typed.eval_suite, typed.include_path, typed.task_path]).decode()


def describe_states(contents: Contents, task: str) -> dict[str, str]:
    """Return a text for each field of contents that is known; `task` is the task of the row."""
    return {
        name: f"{name} {text}" if name in ("model", "chat_template") else f"{name} {task} {text}"
        for name, text in contents.to_json().items()
    }


def _items(content: Any, key: str) -> list[tuple[str, Any]]:
    found = content.get(key) if isinstance(content, Mapping) else None
    return list(found.items()) if isinstance(found, Mapping) else []


def _text(value: Any) -> str:
    """Return a text; what is none is unknown."""
    return value if isinstance(value, str) else ""
