"""oe-run-task with rows of programs: stages, what is kept of them, and what is not done twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.toy_rows import ToyModel, evaluate, manifest, records, temporary


def outputs(home: Path) -> list[str]:
    """Return what is below stages/, without keys."""
    paths = (home / "out" / "stages").rglob("*")
    return sorted("/".join(path.relative_to(home).parts[3:]) for path in paths if path.is_file())


def test_both_stages_are_computed_here_and_now(model: ToyModel, tmp_path: Path) -> None:
    rows = manifest((model, "two"), (model, "one"), log_samples="true")
    told = evaluate(rows, home=tmp_path)
    assert "2 rows evaluated, 0 already had results, 0 failed" in told
    assert model.steps() == ["generate", "both", "evaluate"]
    two, one = (records(tmp_path / "out")[task] for task in ("two", "one"))
    for record in (two, one):
        assert [metric["value"] for metric in record["metrics"]] == [0.75]
        assert record["environment"]["hardware"].startswith("CPU only (")
        assert record["contents"]["model"]
    assert two["timing"]["row_s"] == pytest.approx(
        two["timing"]["generate_s"] + two["timing"]["evaluate_s"], abs=1e-5
    )
    assert "generate_s" not in one["timing"]
    # The first stage's output stays, with what tells where it comes from; links in it do not.
    assert outputs(tmp_path) == ["generate/found.json", "generate/stage.json"]
    (path,) = tmp_path.glob("out/stages/*/generate/stage.json")
    stage = json.loads(path.read_text())
    assert stage["key"] == path.parts[-3]
    assert two["provenance"]["stages"] == {"generate": stage["provenance"]}
    assert stage["contents"] == two["contents"]
    assert (tmp_path / "out" / "samples" / f"{two['eval_id']}.jsonl").exists()
    assert not list(temporary(tmp_path).iterdir())


def test_nothing_is_computed_twice(model: ToyModel, tmp_path: Path) -> None:
    evaluate(manifest((model, "two")), home=tmp_path)
    rows = manifest((model, "two"), (model, "two_part"), (model, "one"), (model, "one_more"))
    told = evaluate(rows, home=tmp_path)
    assert "3 rows evaluated, 1 already had results, 0 failed" in told
    # Two rows share a first stage, two others a start of the program.
    assert model.steps() == ["generate", "evaluate", "both", "evaluate"]
    assert len(records(tmp_path / "out")) == 4


def test_code_of_the_model_runs_in_a_sandbox(model: ToyModel, tmp_path: Path) -> None:
    told = evaluate(
        manifest((model, "code")),
        "--output_dir",
        tmp_path / "out",
        "--unsafe_execution",
        home=tmp_path,
    )
    record = records(tmp_path / "out")["code"]
    assert record["environment"]["sandbox"] == "guard", told
    assert model.steps() == ["generate"]
