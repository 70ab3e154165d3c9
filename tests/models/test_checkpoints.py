"""Checkpoints: finding them below a directory, and selecting among them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.errors import UsageError
from oellm.manifest.model_spec import ModelSpec
from oellm.models.checkpoints import (
    Checkpoint,
    CheckpointSelection,
    examine_checkpoints,
    search_checkpoints,
)
from oellm.models.expansion import ListedModel, expand_models
from support.model_directories import write_model

PATIENT = settings(deadline=None)


def found(root: Path, *which: str, **arguments: str) -> list[str]:
    """Return what is found below a directory, the broken with a question mark."""
    holding = search_checkpoints(str(root), arguments.get("subfolder", ""))
    selection = CheckpointSelection.parse(which)
    selection.require_fit(holding.runs)
    return [
        os.path.relpath(checkpoint.path, root) + ("?" if why else "")
        for checkpoint, why in examine_checkpoints(holding, selection, arguments)
    ]


@pytest.mark.parametrize(
    ("directories", "expected"),
    [
        (["hf/iter_2000", "hf/iter_10000"], ["hf/iter_2000", "hf/iter_10000"]),
        (["b/hf/iter_2", "a/hf/iter_10"], ["a/hf/iter_10", "b/hf/iter_2"]),
        (["checkpoint-500", "checkpoint-1000"], ["checkpoint-500", "checkpoint-1000"]),
        (["step_2", "step_10"], ["step_2", "step_10"]),
        (["global_step9", "global_step10"], ["global_step9", "global_step10"]),
        (["iter_2/hf", "iter_10/hf"], ["iter_2/hf", "iter_10/hf"]),
        # The final model of a run hides the checkpoints below it.
        ([".", "checkpoint-500"], ["."]),
        (["too/deep/for/this", "a", ".cache/b"], ["a"]),
    ],
)
def test_checkpoints_are_found_in_these_places(
    tmp_path: Path, directories: list[str], expected: list[str]
) -> None:
    root = tmp_path / "m"
    for directory in directories:
        write_model(root / directory)
    assert found(root) == expected


def test_a_configuration_above_checkpoints_is_no_model(tmp_path: Path) -> None:
    write_model(tmp_path / "iter_1")
    (tmp_path / "config.json").write_text("{}")
    assert found(tmp_path) == ["iter_1"]
    os.rename(tmp_path / "iter_1", tmp_path / ".iter_1")
    assert found(tmp_path) == [".?"]


def test_a_half_written_checkpoint_is_found_beside_the_others(tmp_path: Path) -> None:
    write_model(tmp_path / "hf" / "iter_1")
    (tmp_path / "hf" / "iter_2").mkdir()
    (tmp_path / "hf" / "iter_3").mkdir()
    (tmp_path / "hf" / "iter_3" / "config.json").write_text("{}")
    (tmp_path / "hf" / "iter_4").symlink_to("gone")
    # Neither is a checkpoint, nor are those of another format elsewhere.
    for name in ("hf/logs", "iter_1/mp_rank_00", "iter_2"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "hf" / "latest").symlink_to("gone")
    assert found(tmp_path) == ["hf/iter_1", "hf/iter_2?", "hf/iter_3?", "hf/iter_4?"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    write_model(root / "iter_2000")
    write_model(tmp_path / "elsewhere" / "iter_5")
    write_model(root / "z" / "y" / "iter_7")
    (root / "iter_8").symlink_to("z/y/iter_7")
    (root / "a_latest").symlink_to("iter_2000")
    (root / "iter_2000_again").symlink_to(root / "iter_2000")
    (root / "loop").symlink_to(".")
    (root / "itself").symlink_to("itself")
    assert found(root) == ["iter_2000", "z/y/iter_7"]
    (root / "x10").symlink_to(tmp_path / "elsewhere")
    (root / "x9").symlink_to(tmp_path / "elsewhere" / "iter_5")
    # Of two links to the same place the first one counts.
    assert found(root) == ["iter_2000", "x9", "z/y/iter_7"]
    (tmp_path / "runs_link").symlink_to("runs")
    assert found(tmp_path / "runs_link") == ["iter_2000", "x9", "z/y/iter_7"]


def test_a_link_reaches_what_lies_too_deep(tmp_path: Path) -> None:
    write_model(tmp_path / "a" / "b" / "c" / "d" / "iter_1")
    assert found(tmp_path) == []
    (tmp_path / "near").symlink_to("a/b/c")
    assert found(tmp_path) == ["near/d/iter_1"]


def test_a_subfolder_belongs_to_each_checkpoint(tmp_path: Path) -> None:
    for name in ("iter_1/hf", "iter_2/hf", "iter_3/other"):
        write_model(tmp_path / name)
    assert found(tmp_path, subfolder="hf") == ["iter_1", "iter_2", "iter_3?"]


def test_arguments_of_all_models_count_where_a_model_has_none_of_its_own(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m" / "hf")
    (directory / "tokenizer.json").unlink()
    listed = [ListedModel(ModelSpec(str(tmp_path / "m")))]
    both = {"subfolder": "hf", "tokenizer": "t"}
    assert [model.spec for model in expand_models(listed, (), both).models] == [listed[0].spec]
    own = [ListedModel(ModelSpec(str(tmp_path / "m"), (("subfolder", "hf"),)))]
    other = {"subfolder": "gone", "tokenizer": "t"}
    assert [model.spec for model in expand_models(own, (), other).models] == [own[0].spec]
    assert expand_models(own).broken == [f"{tmp_path}/m: hf: no tokenizer: add `,tokenizer=NAME`"]


def test_each_training_run_is_selected_from_by_itself(tmp_path: Path) -> None:
    for name in ("a/hf/iter_1", "a/hf/iter_2", "b/iter_3/hf", "b/iter_4/hf", "b/iter_4/old"):
        write_model(tmp_path / name)
    assert found(tmp_path, "last") == ["a/hf/iter_2", "b/iter_4/hf", "b/iter_4/old"]
    assert found(tmp_path, "every=2") == ["a/hf/iter_2", "b/iter_4/hf"]
    assert found(tmp_path, "3, 2") == ["a/hf/iter_2", "b/iter_3/hf"]


RUNS = st.lists(st.booleans(), max_size=30)
SELECTIONS = st.builds(
    CheckpointSelection,
    st.lists(st.integers(1, 9), max_size=2).map(tuple),
    st.lists(st.integers(1, 30), max_size=3).map(tuple),
    st.booleans(),
).filter(lambda selection: selection != CheckpointSelection())


def chosen(selection: CheckpointSelection, run: list[bool]) -> dict[int, bool]:
    """Return the steps that are selected of a run, and whether each is whole."""
    checkpoints = [Checkpoint(f"/m/iter_{step}", step=step) for step in range(1, len(run) + 1)]
    whole = dict(zip(checkpoints, run, strict=True))
    pairs = selection.select(checkpoints, lambda one: None if whole[one] else "broken")
    assert [one for one, _ in pairs] == sorted((one for one, _ in pairs), key=checkpoints.index)
    return {checkpoints.index(one) + 1: not why for one, why in pairs}


@PATIENT
@given(SELECTIONS, RUNS)
def test_a_selection_is_the_union_of_what_it_names(
    selection: CheckpointSelection, run: list[bool]
) -> None:
    whole = [step for step, is_whole in enumerate(run, 1) if is_whole]
    last = max(whole, default=0)
    expected = {
        step
        for step in range(1, len(run) + 1)
        if step in selection.steps
        or any(step % number == 0 for number in selection.every)
        # The broken ones after the last one that is whole are named.
        or (selection.last and step >= last)
    }
    assert chosen(selection, run) == {step: run[step - 1] for step in sorted(expected)}


@PATIENT
@given(SELECTIONS.map(lambda selection: selection._replace(last=False)), RUNS, RUNS)
def test_a_longer_run_keeps_the_selection_it_had(
    selection: CheckpointSelection, run: list[bool], more: list[bool]
) -> None:
    if selection != CheckpointSelection():
        longer = chosen(selection, run + more)
        assert list(chosen(selection, run)) == [step for step in longer if step <= len(run)]


@pytest.mark.parametrize(
    ("which", "message"),
    [
        *(
            (bad, f"expected every=N, last or a training step, got {bad!r}")
            for bad in ("first", "every=0", "every=", "every=-1", "1k", "-5", "", "\u0663")
        ),
        ("every=4", "every=4 selects nothing: the longest training run has 3 checkpoints"),
        ("2,30", "no checkpoint has step 30; the nearest are 1, 2, 10"),
    ],
)
def test_a_selection_that_fits_nothing_says_what_there_is(
    tmp_path: Path, which: str, message: str
) -> None:
    for name in ("iter_1", "iter_2", "iter_10"):
        write_model(tmp_path / name)
    with pytest.raises(UsageError, match=re.escape(f"--checkpoints: {message}")):
        found(tmp_path, which)


def test_a_young_training_run_may_be_too_short_for_every_if_its_last_is_selected(
    tmp_path: Path,
) -> None:
    for name in ("iter_1", "iter_2", "iter_10"):
        write_model(tmp_path / name)
    assert found(tmp_path, "every=4,last") == ["iter_10"]


def test_names_without_steps_are_said_to_have_none(tmp_path: Path) -> None:
    write_model(tmp_path / "best")
    with pytest.raises(UsageError, match="no checkpoint has step 5; no name has a step"):
        found(tmp_path, "5")
