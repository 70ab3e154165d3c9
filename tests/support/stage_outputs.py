"""Outputs of stages as the programs write them, made by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oellm.frameworks.program import Command, Place, Program
from oellm.frameworks.stages import GENERATE
from oellm.manifest.rows import Row, eval_id


def make_row(suite: str, task: str, **cells: str) -> Row:
    """Return a row of a manifest, line 2 of `m.csv`."""
    needed = {"model_path": "org/model", "task_path": task, "n_shot": "", "eval_suite": suite}
    return Row({**needed, **cells}, "m.csv", 2)


def make_command(program: Program, row: Row, stage: str, **place: Any) -> Command:
    """Return the command of one stage of a row, at places with plain names."""
    (chosen,) = (each for each in program.stages(row) if each.name == stage)
    key = eval_id(program.generation_row(row))
    inputs = {} if stage == GENERATE else {key: "/in"}
    where = Place(
        "/venv/bin/python",
        output="/out",
        private="/private",
        own="/private/files",
        model=row.model.path,
        inputs=inputs,
        **place,
    )
    return program.command([row], chosen, where)


def write_json(directory: Path, files: Mapping[str, Any]) -> Path:
    """Write JSON files into a directory, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    return directory


def write_lines(path: Path, records: Sequence[Any]) -> None:
    """Write JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
