"""The golden run: two rows with results, and one that failed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from support.golden_files import GOLDEN

CONTRACT = GOLDEN / "contract"
# The eval_ids of the rows with results, and the task of the one that failed.
CHOICE, PROSE, FAILED = "ef253598e9c37ffe", "491ba463633eca78", "no_such_task"


def make_run(directory: Path) -> Path:
    """Copy the golden run to a place of its own."""
    shutil.copytree(CONTRACT / "run", directory)
    record = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps(record | {"run_dir": str(directory)}))
    return directory
