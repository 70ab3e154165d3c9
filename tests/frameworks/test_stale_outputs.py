"""Outputs of first stages that are out of date, and those that are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.frameworks.current_contents import ContentsReader
from oellm.frameworks.stages import GENERATE
from oellm.frameworks.stale_results import find_output_staleness
from oellm.manifest.rows import Row
from oellm.runs.contents import Contents
from oellm.runs.environment import Environment
from oellm.runs.result_record import RowTiming
from oellm.runs.stages.stage_record import StageRecord
from support.toy_rows import ToyModel


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    """Make the toy framework known."""
    with pytest.MonkeyPatch.context() as patch:
        ours = frameworks._Framework("support.toy_framework", is_program=True)
        patch.setattr(frameworks, "_FRAMEWORKS", {**frameworks._FRAMEWORKS, "toy": ours})
        frameworks.create_program.cache_clear()
        yield
    frameworks.create_program.cache_clear()


def new_reader() -> ContentsReader:
    return ContentsReader(Cluster({"executor": "local"}, {}), lambda _: None, {})


def made_of(contents: Contents, row: Row) -> StageRecord:
    return StageRecord(
        key=frameworks.generation_key(row),
        stage=GENERATE,
        row=frameworks.generation_row(row).cells,
        contents=contents,
        environment=Environment(framework_version="1.0"),
        provenance={},
        timing=RowTiming(),
        files={},
    )


@pytest.mark.parametrize("task", ["two", "two_part"])
def test_an_output_that_rows_share_is_of_the_task_that_they_have_in_common(
    task: str, tmp_path: Path
) -> None:
    model = ToyModel(tmp_path / "model")
    cells = {"model_path": str(model.path), "task_path": task, "eval_suite": "toy", "n_shot": ""}
    # What oe-fetch says of the row's own task tells nothing of the other one.
    row = Row({**cells, "task_digest": f"of {task}", "dataset_revision": "acme/data@1"})
    contents = new_reader().read(frameworks.generation_row(row))
    record = made_of(contents, row)
    assert (contents.task, contents.data) != ("", "")
    assert find_output_staleness(row, record, new_reader(), kept=()) is None
    other = row.with_cells(dataset_revision="acme/data@2")
    found = find_output_staleness(other, record, new_reader(), kept=())
    assert found is not None
    assert found.changes == ("data acme/data: 1 → 2",)
    model.set_weights(b"fedcba9876543210")
    found = find_output_staleness(row, record, new_reader(), kept=())
    assert found is not None
    assert (found.changes, found.is_of_model) == (("weights changed",), True)
    assert find_output_staleness(row, record, new_reader(), kept=found.states) is None
