"""Task files for lm-eval, as a test needs them."""

from __future__ import annotations

from pathlib import Path

_COMMON = {
    "custom_dataset": "!function tasks.load",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": '"{{text}}"',
    "doc_to_target": '"{{text}}"',
    "metric_list": "[{metric: acc}]",
}


def write_task(directory: Path, name: str, **keys: str) -> None:
    """Write a task. Keyword arguments are keys of lm-eval, with their YAML.

    Without others its documents come from `load` in tasks.py, with the column text.
    """
    lines = [f"{key}: {text}\n" for key, text in {"task": name, **_COMMON, **keys}.items()]
    (directory / f"{name}.yaml").write_text("".join(lines))
