"""oe-run-task with programs that fail, print secrets, leave nothing, or find no room."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from support.toy_rows import ToyModel, evaluate, manifest

pytestmark = pytest.mark.slow


# What a program suffers from, with the class of the failure and the begin of its message.
FAULTS = {
    "fail": ("ProgramFailed", "the program ended with status 3: ValueError: it failed"),
    "crash": ("ProgramFailed", "the program was killed by signal 11 SIGSEGV: a program that"),
    "invalid": ("InvalidOutputError", "found.json is missing"),
}


def test_a_failure_names_the_stage_and_the_last_error(tmp_path: Path) -> None:
    models = {fault: ToyModel(tmp_path / "models" / fault) for fault in FAULTS}
    of = {str(model.path): fault for fault, model in models.items()}

    def failures() -> dict[tuple[str, str], Any]:
        """Return the failures by fault and task."""
        paths = (tmp_path / "out" / "failures").glob("*.json")
        found = [json.loads(path.read_text())["oellm"] for path in paths]
        return {(of[each["row"]["model_path"]], each["row"]["task_path"]): each for each in found}

    tasks = ("two", "two_part", "one")
    rows = manifest(*((model, task) for model in models.values() for task in tasks))
    for fault, model in models.items():
        model.set_faults(f"generate {fault}", f"both {fault}")
    told = evaluate(rows, home=tmp_path, status=1)
    assert "0 rows evaluated, 0 already had results, 9 failed" in told
    assert failures().keys() == {(fault, task) for fault in FAULTS for task in tasks}
    for (fault, task), record in failures().items():
        failure, (kind, message) = record["failure"], FAULTS[fault]
        assert failure["class"] == kind
        assert failure["message"].startswith(message)
        assert failure.get("stage", "") == ("" if task == "one" else "generate")
    assert "hf_a" not in told
    # Nothing of what failed counts, and the next attempt begins anew.
    assert not list((tmp_path / "out").glob("stages/*"))
    for fault, model in models.items():
        model.set_faults(f"evaluate {fault}")
    told = evaluate(rows, home=tmp_path, status=1)
    assert "3 rows evaluated, 0 already had results, 6 failed" in told
    for record in failures().values():
        assert (record["failure"]["stage"], record["failure"]["attempts"]) == ("evaluate", 2)
    for model in models.values():
        model.set_faults()
    assert "6 rows evaluated, 3 already had results, 0 failed" in evaluate(rows, home=tmp_path)
    assert failures() == {}
    assert {model.steps().count("generate") for model in models.values()} == {2}


@pytest.mark.parametrize("step", ["generate", "both"])
def test_a_full_disk_fails_no_row(model: ToyModel, tmp_path: Path, step: str) -> None:
    model.set_faults(f"{step} full")
    rows = manifest((model, "one" if step == "both" else "two"), (model, "two_part"))
    told = evaluate(rows, home=tmp_path, status=75)
    assert "No space left on device; the rows go back" in told
    assert not (tmp_path / "out" / "failures").exists()


def test_an_output_of_other_weights_is_computed_again(model: ToyModel, tmp_path: Path) -> None:
    rows = manifest((model, "two"))
    model.set_faults("evaluate fail")
    evaluate(rows, home=tmp_path, status=1)
    model.set_weights(b"fedcba9876543210")
    model.set_faults()
    told = evaluate(rows, home=tmp_path)
    assert f"{model.path}: weights changed; earlier output of the stage generate set aside" in told
    assert model.steps() == ["generate", "evaluate", "generate", "evaluate"]
    (stale,) = tmp_path.glob("out/stages/*/generate.stale-*")
    assert (stale / "stage.json").exists()
    # A result of other weights is set aside, too.
    model.set_weights(b"0123456789abcdef")
    told = evaluate(rows, home=tmp_path)
    assert "weights changed; earlier result set aside" in told
    assert "1 rows evaluated" in told


def test_damaged_outputs_are_computed_again(tmp_path: Path) -> None:
    models = {
        name: ToyModel(tmp_path / "models" / name) for name in ("cut", "changed", "link", "record")
    }
    rows = manifest(*((model, "two") for model in models.values()))
    for model in models.values():
        model.set_faults("evaluate fail")
    evaluate(rows, home=tmp_path, status=1)
    for record in tmp_path.glob("out/stages/*/generate/stage.json"):
        found = record.with_name("found.json")
        damage = Path(json.loads(record.read_text())["row"]["model_path"]).name
        if damage == "cut":
            found.write_bytes(found.read_bytes()[:-1])
        elif damage == "changed":
            found.write_bytes(found.read_bytes().replace(b"1", b"2"))
        elif damage == "link":
            found.rename(tmp_path / "elsewhere")
            found.symlink_to(tmp_path / "elsewhere")
        else:
            record.write_text("{}")
    for model in models.values():
        model.set_faults()
    told = evaluate(rows, home=tmp_path)
    assert told.count("output of the stage generate is not valid; set aside") == 4
    assert {model.steps().count("generate") for model in models.values()} == {2}


@pytest.mark.parametrize("name", ["stage.json", "found.json"])
def test_an_output_that_cannot_be_read_is_kept(model: ToyModel, tmp_path: Path, name: str) -> None:
    rows = manifest((model, "two"))
    model.set_faults("evaluate fail")
    evaluate(rows, home=tmp_path, status=1)
    model.set_faults()
    (path,) = tmp_path.glob(f"out/stages/*/generate/{name}")
    mode = path.stat().st_mode
    path.chmod(0)
    # Root reads everything with these capabilities.
    capabilities = "--bounding-set=-dac_override,-dac_read_search"
    within = () if os.geteuid() else ("setpriv", capabilities)
    told = evaluate(rows, home=tmp_path, within=within, status=75)
    assert f"{path}: Permission denied" in told
    assert "0 rows evaluated, 0 already had results, 0 failed, 1 left" in told
    path.chmod(mode)
    assert "1 rows evaluated" in evaluate(rows, home=tmp_path)
    assert model.steps() == ["generate", "evaluate", "evaluate"]


def test_a_sandbox_that_does_not_start_is_the_nodes_fault_whatever_is_permitted(
    model: ToyModel, tmp_path: Path
) -> None:
    runtime = tmp_path / "apptainer"
    runtime.write_text("#!/bin/sh\necho 'no fuse' >&2\nexit 255\n")
    runtime.chmod(0o755)
    image = tmp_path / "toy.sif"
    image.touch()
    settings: dict[str, Any] = {"images": {"toy-evaluate": str(image)}, "images_directory": "/"}
    settings["container_runtime"] = "auto"
    config = tmp_path / "clusters.json"
    config.write_text(json.dumps({"clusters": {"local": settings}}))
    path = f"{tmp_path}:{os.environ['PATH']}"
    env = {"OELLM_CONFIG": str(config), "OELLM_CLUSTER": "local", "PATH": path}
    arguments = ("--unsafe_execution", "--output_dir", tmp_path / "out")
    told = evaluate(manifest((model, "code")), *arguments, home=tmp_path, status=3, env=env)
    assert f"the sandbox of {image} cannot be made" in told
    assert model.steps() == ["generate"]
    assert not (tmp_path / "out" / "failures").exists()
