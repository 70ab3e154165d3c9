"""oe-smoke on a real Slurm, in a real container."""

from __future__ import annotations

import json
import os
from pathlib import Path

from support.dev_cluster import DevCluster
from support.processes import make_tiny_model


def test_two_models_are_each_loaded_once_for_one_document_of_each_row(
    cluster: DevCluster, tmp_path: Path
) -> None:
    for step in (1, 2):
        make_tiny_model(tmp_path / "models" / f"iter_{step}", seed=step)
    rows = cluster.manifest(tmp_path / "models", "oellm_choice,oellm_copy", "--n_shot=0,2")
    # A checkpoint that lost its weights after the manifest was made.
    (tmp_path / "models" / "iter_2" / "model.safetensors").write_bytes(b"no weights")
    done = cluster.call("oe-smoke", stdin=rows, status=1)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    states = {(Path(r["model_path"]).name, r["status"]) for r in records}
    assert (len(records), states) == (8, {("iter_1", "ok"), ("iter_2", "failed")})
    # The jobs are short, and have both models.
    assert "rows: 8, shards: 1," in done.stderr
    failed = next(record for record in records if record["status"] == "failed")
    assert "SafetensorError" in failed["reason"]
    # As the message says, and without the bad model.
    (directory,) = (cluster.base / "root" / "smoke").iterdir()
    assert f"4 of 8 rows failed; the run stays: {directory}" in done.stderr
    assert json.loads((directory / "run.json").read_text())["name"] == "smoke"
    kept = "".join(line for line in rows.splitlines(keepends=True) if "iter_2" not in line)
    done = cluster.call("oe-smoke", stdin=kept)
    assert "all 4 rows are ok" in done.stderr
    assert cluster.queue() == []
    assert os.listdir(directory.parent) == [directory.name]
