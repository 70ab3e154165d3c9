"""Why oe-fetch downloads file by file: what snapshot_download leaves in the cache.

As soon as this fails, fetch/model_downloads.py can use snapshot_download.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.hub import Hub
from support.model_directories import write_model
from support.processes import Run

_ONE_BY_ONE = """
from huggingface_hub import hf_hub_download
for name in ("config.json", "model.safetensors"):
    hf_hub_download("acme/a", name)
"""
_AS_A_SNAPSHOT = """
from huggingface_hub import snapshot_download
snapshot_download("acme/a", allow_patterns=["config.json", "model.safetensors"])
"""
_OFFLINE = """
from huggingface_hub import snapshot_download
try:
    snapshot_download("acme/a", local_files_only=True)
except Exception as error:
    print(type(error).__name__)
else:
    print("complete")
"""


@pytest.mark.parametrize(
    ("download", "outcome"),
    [(_ONE_BY_ONE, "complete"), (_AS_A_SNAPSHOT, "IncompleteSnapshotError")],
    ids=["file by file", "snapshot_download"],
)
def test_only_files_that_came_one_by_one_are_complete_offline(
    run: Run, hub: Hub, tmp_path: Path, download: str, outcome: str
) -> None:
    directory = write_model(tmp_path / "a")
    (directory / "pytorch_model.h5").write_text("weights that no backend loads")
    hub.add_model("acme/a", directory)
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "hf")}
    run(sys.executable, "-c", download, env=environment)
    hub.stop()
    assert run(sys.executable, "-c", _OFFLINE, env=environment).stdout == f"{outcome}\n"
