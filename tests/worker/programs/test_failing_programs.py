"""oe-run-task with programs that fail, print secrets, leave nothing, or find no room."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.toy_rows import ToyModel, evaluate, manifest, records


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("fail", "ProgramFailed", "the program ended with status 3: ValueError: it failed"),
        ("crash", "ProgramFailed", "the program was killed by signal 11 SIGSEGV: a program that"),
        ("invalid", "InvalidOutputError", "found.json is missing"),
    ],
)
def test_a_failure_names_the_stage_and_the_last_line(
    model: ToyModel, tmp_path: Path, fault: str, kind: str, message: str
) -> None:
    rows = manifest((model, "two"), (model, "two_part"), (model, "one"))
    model.set_faults(f"generate {fault}", f"both {fault}")
    told = evaluate(rows, home=tmp_path, status=1)
    assert "0 rows evaluated, 0 already had results, 3 failed" in told
    found = records(tmp_path / "out", "failures")
    for task in ("two", "two_part", "one"):
        failure = found[task]["failure"]
        assert failure["class"] == kind
        assert failure["message"].startswith(message)
        assert failure.get("stage", "") == ("" if task == "one" else "generate")
    assert "hf_a" not in told
    # Nothing of what failed counts, and the next attempt begins anew.
    assert not list((tmp_path / "out").glob("stages/*"))
    model.set_faults(f"evaluate {fault}")
    told = evaluate(rows, home=tmp_path, status=1)
    assert "1 rows evaluated, 0 already had results, 2 failed" in told
    failure = records(tmp_path / "out", "failures")["two"]["failure"]
    assert (failure["stage"], failure["attempts"]) == ("evaluate", 2)
    model.set_faults()
    assert "2 rows evaluated, 1 already had results, 0 failed" in evaluate(rows, home=tmp_path)
    assert records(tmp_path / "out", "failures") == {}
    assert model.steps().count("generate") == 2


def test_rows_that_a_program_has_not_come_to_are_computed_by_another_start(
    model: ToyModel, tmp_path: Path
) -> None:
    rows = manifest((model, "one"), (model, "one_more"))
    model.set_faults("both leave once")
    assert "2 rows evaluated, 0 already had results, 0 failed" in evaluate(rows, home=tmp_path)
    assert model.steps() == ["both", "both"]


def test_a_program_that_comes_to_no_row_is_not_started_for_ever(
    model: ToyModel, tmp_path: Path
) -> None:
    model.set_faults("both leave")
    rows = manifest((model, "one"), (model, "one_more"))
    told = evaluate(rows, home=tmp_path, status=1)
    assert "1 rows evaluated, 0 already had results, 1 failed" in told
    failure = records(tmp_path / "out", "failures")["one_more"]["failure"]
    assert failure["message"] == "the program ended well, but has come to none of its rows"
    assert model.steps() == ["both", "both"]


@pytest.mark.parametrize("step", ["generate", "evaluate", "both"])
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


@pytest.mark.parametrize("damage", ["cut", "changed", "link", "record"])
def test_a_damaged_output_is_computed_again(model: ToyModel, tmp_path: Path, damage: str) -> None:
    rows = manifest((model, "two"))
    model.set_faults("evaluate fail")
    evaluate(rows, home=tmp_path, status=1)
    (output,) = tmp_path.glob("out/stages/*/generate")
    found = output / "found.json"
    if damage == "cut":
        found.write_bytes(found.read_bytes()[:-1])
    elif damage == "changed":
        found.write_bytes(found.read_bytes().replace(b"1", b"2"))
    elif damage == "link":
        found.rename(tmp_path / "elsewhere")
        found.symlink_to(tmp_path / "elsewhere")
    else:
        (output / "stage.json").write_text("{}")
    model.set_faults()
    told = evaluate(rows, home=tmp_path)
    assert "output of the stage generate is not valid; set aside" in told
    assert model.steps().count("generate") == 2
