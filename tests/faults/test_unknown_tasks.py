"""A task that does not exist is found before anything is queued, also in a manifest by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from oellm.frameworks.lm_eval.catalog.task_index import TaskIndices
from support.environments import idle_venv
from support.processes import INDICES, Run

HEADER = "model_path,task_path,n_shot,include_path\n"
INDEXED = {"OELLM_CACHE_DIR": str(INDICES)}
SLURM = ("--cluster=slurm", "--set=container_runtime=none", f"--set=venv={idle_venv()}")


@pytest.fixture(autouse=True)
def _index() -> None:
    TaskIndices(INDEXED, print).shipped()


def test_a_misspelled_task_stops_at_oe_render(run: Run) -> None:
    manifest = f"{HEADER}acme/a,arc_easy,0,\nacme/a,arc_eazy,0,\n"
    refused = run("oe-render", "--cluster=local", stdin=manifest, env=INDEXED, status=2)
    assert refused.stderr == (
        "oe-render: stdin:3: task_path: lm-eval has no task, group or tag 'arc_eazy', "
        "did you mean arc_easy?\n"
    )


def test_jobs_of_another_environment_may_have_the_task(run: Run, tmp_path: Path) -> None:
    manifest = f"{HEADER}acme/a,arc_eazy,0,\nacme/b,arc_eazy,0,\nacme/a,arc_easy,0,\n"
    called = ["oe-render", *SLURM, f"--set=eval_base_dir={tmp_path}"]
    rendered = run(*called, stdin=manifest, env=INDEXED)
    assert rendered.stderr.startswith(
        "oe-render: stdin:2: task_path: lm-eval has no task, group or tag 'arc_eazy', "
        "did you mean arc_easy?; jobs may have another version\n"
        "oe-render: rows: 3"
    )


def test_a_mistake_in_an_own_task_stops_whatever_jobs_have(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("task: mine\nprocess_docs: !function gone.clean\n")
    refused = run(
        *("oe-render", *SLURM, f"--set=eval_base_dir={tmp_path}"),
        stdin=f"{HEADER}acme/a,mine,0,{tmp_path}\n",
        status=2,
    )
    assert (
        f"{tmp_path}/mine.yaml:2: process_docs: !function gone.clean: there is no" in refused.stderr
    )


def test_without_an_index_nothing_is_said_and_nothing_scanned(run: Run, tmp_path: Path) -> None:
    rendered = run(
        *("oe-render", "--cluster=local"),
        stdin=f"{HEADER}acme/a,arc_eazy,0,\n",
        env={"OELLM_CACHE_DIR": str(tmp_path / "empty")},
    )
    assert "arc_eazy" not in rendered.stderr
    assert "indexing" not in rendered.stderr
