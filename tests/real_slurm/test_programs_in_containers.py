"""Programs in a real container: what they see and may change, and the sandbox around their code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.toy_rows import ToyModel, evaluate, manifest, records, temporary

pytestmark = pytest.mark.slow


def test_stages_run_in_the_image_of_their_framework(image: Path, tmp_path: Path) -> None:
    model = ToyModel(tmp_path / "models" / "a toy:1")
    settings = {
        "hf_home": str(tmp_path / "hf"),
        "eval_output_dir": str(tmp_path / "runs"),
        "images": {"toy": str(image)},
        "container_runtime": "auto",
        "images_directory": "/",
        "container_args": ["--nv", "--cleanenv"],
        "binds": [str(model.path.parent)],
    }
    config = tmp_path / "clusters.json"
    config.write_text(json.dumps({"clusters": {"local": settings}}))
    token = "hf_" + "x" * 34
    how = {
        "home": tmp_path,
        "env": {"OELLM_CONFIG": str(config), "OELLM_CLUSTER": "local", "HF_TOKEN": token},
    }
    rows = manifest((model, "two"), (model, "code"), (model, "one"))
    place = ("--output_dir", tmp_path / "out")
    # The shared cache is missing, which is no fault of the rows.
    told = evaluate(rows, *place, status=3, **how)
    assert "is unusable: the container does not start: FATAL:" in told
    assert not (tmp_path / "out" / "failures").exists()
    (tmp_path / "hf").mkdir()
    assert "3 rows evaluated" in evaluate(rows, *place, **how)
    found = records(tmp_path / "out")
    programs = {record["provenance"]["program"]["image"] for record in found.values()}
    assert programs == {str(image)}
    sandboxes = {task: record["environment"].get("sandbox") for task, record in found.items()}
    assert sandboxes == {"two": None, "code": "container+guard", "one": None}
    assert model.steps() == ["generate", "generate", "both", "evaluate"]
    # The program has made a directory beside the model's files, which is gone.
    names = {path.name for path in model.path.iterdir()}
    assert names == {"config.json", "weights.safetensors"}
    assert not list(temporary(tmp_path).iterdir())
