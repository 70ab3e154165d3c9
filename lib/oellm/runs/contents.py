"""What a result was computed from, and what has changed since.

An eval_id says what was asked for. Contents say what the names in it stood for: the files of a
model, the definition of a task, the revision of its data.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from oellm.models.identity import MODEL_DIGITS, UNKNOWN_DIGITS
from oellm.runs.environment import known_texts, read_texts


class Contents(NamedTuple):
    """What a row is evaluated from; an empty text is unknown.

    Attributes:
        model: The digest of a local model (`model_digest`), or the commit of a hub model, followed
            by `+` and the digest of the tokenizers and adapters that its arguments name, if any.
        task: The digest of the task's configuration, code and local data (`task_digest`).
        task_version: The version that the task gives itself.
        data: The commits of its data sets, as in the column dataset_revision.
        chat_template: The first 16 hex digits of the SHA-256 of the chat template that was applied.
    """

    model: str = ""
    task: str = ""
    task_version: str = ""
    data: str = ""
    chat_template: str = ""

    @classmethod
    def from_json(cls, content: Any) -> Contents:
        """Read `contents` of a record; what is damaged is unknown."""
        return cls._make(read_texts(content, cls._fields))

    def to_json(self) -> dict[str, str]:
        """Return what is known."""
        return known_texts(self)

    def filled(self, other: Contents) -> Contents:
        """Return these contents, with what another knows in the place of what they do not."""
        return type(self)._make(ours or theirs for ours, theirs in zip(self, other, strict=True))


def find_changes(old: Contents, new: Contents, task: str = "") -> list[str]:
    """Return what differs between two contents, as far as both are known; `task` is for the text.

    Examples: `weights changed`, `task hellaswag: version 1.0 → 2.0`.
    """
    name = f"task {task}" if task else "task"
    changes = [*_model_changes(old.model, new.model)]
    # A digest says more than a version, which people forget to change; if only one side has a
    # digest, the versions tell.
    is_known = bool(old.task and new.task)
    if old.task != new.task if is_known else _differ(old.task_version, new.task_version):
        versions = f": version {old.task_version} → {new.task_version}"
        differ = _differ(old.task_version, new.task_version)
        changes.append(f"{name}{versions}" if differ else f"{name} changed")
    changes += _data_changes(old.data, new.data)
    if _differ(old.chat_template, new.chat_template):
        changes.append("chat template changed")
    return changes


def _differ(old: str, new: str) -> bool:
    return bool(old and new) and old != new


def _model_changes(old: str, new: str) -> list[str]:
    if not _differ(old, new):
        return []
    if _is_directory(old) != _is_directory(new):
        # One was a directory, the other is on the hub.
        return [f"model: commit {old[:12]} → {new[:12]}"]
    commits, digests = zip(*(_commit_and_digest(model) for model in (old, new)), strict=True)
    changes = []
    if _differ(*commits):
        changes.append(f"model: commit {commits[0][:12]} → {commits[1][:12]}")
    if all(digests):
        texts = ["weights changed", "configuration or tokenizer of the model changed"]
        if not _is_directory(old):
            texts = ["adapter of the model changed", "tokenizer of the model changed"]
        parts = zip(texts, *map(_halves, digests), strict=True)
        changes += [text for text, before, now in parts if _differ(before, now)]
    return changes


def _is_directory(model: str) -> bool:
    return len(model) == 2 * MODEL_DIGITS and "+" not in model


def _commit_and_digest(model: str) -> tuple[str, str]:
    commit, _, digest = model.rpartition("+")
    return (commit, digest) if "+" in model or _is_directory(model) else (model, "")


def _halves(digest: str) -> list[str]:
    """Return the halves of a local model's digest; empty texts for those that are unknown."""
    halves = digest[:MODEL_DIGITS], digest[MODEL_DIGITS:]
    return ["" if half == UNKNOWN_DIGITS else half for half in halves]


def _data_changes(old: str, new: str) -> list[str]:
    """Compare the data sets that both texts name."""
    before, after = (
        dict(word.rpartition("@")[::2] for word in text.split() if "@" in word)
        for text in (old, new)
    )
    return [
        f"data {name}: {commit[:12]} → {after[name][:12]}"
        for name, commit in before.items()
        if _differ(commit, after.get(name, ""))
    ]
