"""The record of a first stage's output, stage.json: what it is and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oellm.core import schema
from oellm.runs.contents import Contents
from oellm.runs.environment import Environment
from oellm.runs.result_record import Facts, RowTiming

# What StageRecord.from_json raises.
DAMAGE = (KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class OutputFile:
    """A file of an output.

    Attributes:
        size: Its bytes.
        sha256: The SHA-256 of its content.
    """

    size: int
    sha256: str

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> OutputFile:
        """Read a value of `files` in stage.json; raises KeyError, TypeError or ValueError."""
        return cls(int(content["bytes"]), str(content["sha256"]))

    def to_json(self) -> dict[str, Any]:
        """Return the value of `files` in stage.json."""
        return {"bytes": self.size, "sha256": self.sha256}


@dataclass(frozen=True)
class StageRecord:
    """What an output is and where it comes from (schema.json, table `stage`).

    Attributes:
        key: The identity of what the stage depends on.
        stage: The name of the stage.
        row: The cells of the row that the stage was computed for.
        contents: What it was computed from.
        environment: What it was computed with.
        provenance: Facts about process, machine and program.
        timing: The seconds that it took.
        files: The files, by their paths in the directory.
    """

    key: str
    stage: str
    row: Mapping[str, str]
    contents: Contents
    environment: Environment
    provenance: Facts
    timing: RowTiming
    files: Mapping[str, OutputFile]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> StageRecord:
        """Read stage.json; raises KeyError, TypeError, ValueError or AttributeError."""
        row, facts = content["row"], content["provenance"]
        if not isinstance(row, dict) or set(map(type, row.values())) - {str}:
            raise ValueError("its row is not a manifest row")
        if not isinstance(facts, dict):
            raise TypeError("its provenance is no object")
        return cls(
            key=str(content["key"]),
            stage=str(content["stage"]),
            row=row,
            contents=Contents.from_json(content.get("contents")),
            environment=Environment.from_json(content.get("environment")),
            provenance=facts,
            timing=RowTiming.from_json(content["timing"]),
            files={name: OutputFile.from_json(file) for name, file in content["files"].items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return what stage.json holds."""
        return {
            "schema_version": schema.VERSION,
            "key": self.key,
            "stage": self.stage,
            "row": dict(self.row),
            "contents": self.contents.to_json(),
            "environment": self.environment.to_json(),
            "provenance": dict(self.provenance),
            "timing": self.timing.to_json(),
            "files": {name: file.to_json() for name, file in self.files.items()},
        }
