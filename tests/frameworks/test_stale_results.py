"""Which results are out of date, and which are not although something is unknown."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from oellm.clusters.cluster import Cluster
from oellm.frameworks import current_contents
from oellm.frameworks.current_contents import ContentsReader
from oellm.frameworks.stale_results import ResultOrigin, StaleResults, find_staleness
from oellm.manifest.rows import Row
from oellm.models import identity
from oellm.models.identity import identify_model
from oellm.runs import run_directory
from oellm.runs.accepted_contents import AcceptedTask, read_accepted
from oellm.runs.contents import Contents
from oellm.runs.result_record import ResultRecord
from oellm.worker.row_contents import RowContents, require_same
from support.model_directories import write_model
from support.processes import Run as RunCommand
from support.task_files import write_task

IN_IMAGE = Cluster({"images": {"lm_eval": "x.sif"}, "container_runtime": "apptainer"}, {})


@pytest.fixture
def row(tmp_path: Path) -> Row:
    model = write_model(tmp_path / "m")
    return Row({"model_path": str(model), "task_path": "t", "n_shot": "0"})


def changes(row: Row, record: dict[str, Any]) -> list[str]:
    origin = ResultOrigin.of(row, ResultRecord(record))
    reader = ContentsReader(IN_IMAGE, lambda _: None, {})
    found = find_staleness(row, origin, reader, kept=())
    return [] if found is None else list(found.changes)


def test_the_provenance_of_earlier_versions_tells_the_model(row: Row) -> None:
    found = identify_model(row["model_path"], "").to_json()
    assert changes(row, {"provenance": {"model": found}}) == []
    other = {**found, "sample_sha256": "0" * 64}
    assert changes(row, {"provenance": {"model": other}}) == ["weights changed"]
    files = {**found, "files": {**found["files"], "config.json": "0" * 64}}
    text = "configuration or tokenizer of the model changed"
    assert changes(row, {"provenance": {"model": files}}) == [text]


def earlier_identity(model: Path) -> dict[str, Any]:
    """Return a model's identity as version 0.2.0 took it: any code and GGUF file, no adapter."""
    names = sorted(path.name for path in model.iterdir() if not path.name.startswith("adapter_"))
    held = [name for name in names if name.endswith((".safetensors", ".gguf"))]
    sizes = {name: (model / name).stat().st_size for name in held}
    digests = {name: hashlib.sha256((model / name).read_bytes()).hexdigest() for name in names}
    return {
        "files": {name: digest for name, digest in digests.items() if name not in held},
        "weights": sizes,
        "sample_sha256": identity._sample(str(model), sizes),
    }


@pytest.mark.parametrize(
    "name", ["plot_loss.py", "q4.gguf", "adapter_config.json", "adapter_model.safetensors"]
)
def test_files_that_count_otherwise_today_are_no_change(row: Row, name: str) -> None:
    model = Path(row["model_path"])
    (model / name).write_bytes(b"{}")
    record = {"provenance": {"model": earlier_identity(model)}}
    assert changes(row, record) == []
    (model / name).write_bytes(b"[]")
    assert changes(row, record) == []
    # The other half is compared nevertheless.
    weights, config = model / "model.safetensors", model / "config.json"
    if name in ("plot_loss.py", "adapter_config.json"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
        assert changes(row, record) == ["weights changed"]
    else:
        config.write_text("{}")
        assert changes(row, record) == ["configuration or tokenizer of the model changed"]


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"contents": {}},
        {"provenance": {"model": None}},
        {"provenance": {"model": {"files": 3}}},
    ],
)
def test_what_is_unknown_fits(row: Row, record: dict[str, Any]) -> None:
    assert changes(row, record) == []


def test_a_column_of_oe_fetch_tells_the_task_that_is_in_an_image(row: Row) -> None:
    fetched = row.with_cells(task_digest="1" * 16, task_version="1.0", dataset_revision="a/b@1")
    used = {"task": "1" * 16, "task_version": "1.0", "data": "a/b@1"}
    assert changes(fetched, {"contents": used}) == []
    other = {"task": "2" * 16, "task_version": "2.0", "data": "a/b@2"}
    text = ["task t: version 2.0 → 1.0", "data a/b: 2 → 1"]
    assert changes(fetched, {"contents": other}) == text


def test_a_hub_model_at_another_commit_is_another_model() -> None:
    hub = Row({"model_path": "acme/m", "task_path": "t", "n_shot": "0", "model_revision": "a" * 40})
    assert changes(hub, {"contents": {"model": "a" * 40}}) == []
    assert changes(hub, {"contents": {"model": "b" * 40}}) == [
        "model: commit bbbbbbbbbbbb → aaaaaaaaaaaa"
    ]
    unpinned = hub.without("model_revision")
    assert changes(unpinned, {"contents": {"model": "b" * 40}}) == []


def test_a_task_is_unknown_if_the_framework_is_not_installed_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(tmp_path, "own")
    row = Row(
        {"model_path": "a/m", "task_path": "own", "n_shot": "0", "include_path": f"{tmp_path}"}
    )
    assert ContentsReader(IN_IMAGE, lambda _: None, {}).task(row).digest
    monkeypatch.setattr(current_contents, "definition_version", lambda suite: "")
    assert ContentsReader(IN_IMAGE, lambda _: None, {}).task(row) == AcceptedTask("")


@pytest.mark.parametrize("revision", ["step1000", "v1.0", "A" * 40])
def test_a_branch_or_tag_is_no_commit(revision: str) -> None:
    hub = Row({"model_path": "acme/m", "task_path": "t", "n_shot": "0", "model_revision": revision})
    assert changes(hub, {"contents": {"model": "b" * 40}}) == []
    found = Contents(model="b" * 40)
    for accepted in (None, read_accepted(Path("/nowhere"))):
        require_same(RowContents(accepted, lambda _: None).expect(hub), found, hub)


TASK = "task: own\ndataset_path: acme/data\noutput_type: generate_until\nmetadata: {version: %s}\n"


def test_a_task_of_ones_own_is_known_by_its_version_if_frameworks_differ(
    row: Row, tmp_path: Path
) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text(TASK % "2.0")
    own = row.with_cells(task_path="own", include_path=str(tmp_path / "tasks"))
    environment = {"framework_version": "0.4.1"}
    for version, expected in (("1.0", ["task own: version 1.0 → 2.0"]), ("2.0", [])):
        contents = {"task": "0" * 16, "task_version": version}
        record = {"contents": contents, "environment": environment}
        assert changes(own, record) == expected


def test_a_run_of_another_python_has_tasks_that_are_not_known_here(
    tmp_path: Path, run: RunCommand
) -> None:
    rendered = run(
        *("oe-render", "--cluster=local", f"--run_dir={tmp_path}/run"),
        stdin="model_path,task_path,n_shot\nacme/m,arc_easy,0\n",
    )
    directory = Path(json.loads(rendered.stdout)["run_dir"])
    (row,) = run_directory.load_run(directory).rows()

    def task() -> list[AcceptedTask]:
        found = StaleResults(run_directory.load_run(directory), lambda _: None)
        found.accept(row)
        return list(found.accepted.tasks.values())

    script = directory / "submit_evals.sbatch"
    assert sys.executable in script.read_text()
    here = task()
    script.write_text(script.read_text().replace(sys.executable, "/other/bin/python"))
    assert task() == []
    # The digest is not known either as long as no index of lm-eval's tasks is in the cache.
    assert len(here) <= 1
