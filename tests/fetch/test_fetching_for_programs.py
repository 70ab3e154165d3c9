"""oe-fetch for frameworks that are programs, each in its own environment, from a loopback hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.code_rows import serve_human_eval, write_evalplus
from support.frameworks import framework_environment, reciting_model
from support.hub import Hub
from support.model_directories import write_model
from support.processes import Run, rows_of

HEADER = "model_path,task_path,n_shot,eval_suite,include_path,limit,gen_kwargs\n"
_ENVIRONMENTS = {
    "bigcode_eval": "bigcode_eval",
    "evalplus": "evalplus-generate",
    "evalplus-evaluate": "evalplus-evaluate",
}


@pytest.fixture
def fetch(run: Run, hub: Hub, tmp_path: Path) -> Callable[..., tuple[list[dict[str, str]], str]]:
    """Return how to fetch a manifest in these environments: what is printed, and the messages."""
    options = ["--cluster=local", f"--set=hf_home={tmp_path}/hf"]
    for key, name in _ENVIRONMENTS.items():
        options.append(f"--set=venvs.{key}={framework_environment(name)}")
    variables = hub.environment

    def call(rows: str, *more: str, status: int = 0) -> tuple[list[dict[str, str]], str]:
        done = run("oe-fetch", *options, *more, stdin=rows, status=status, env=variables)
        return rows_of(done.stdout), done.stderr

    return call


@pytest.mark.slow
def test_several_frameworks_get_what_they_need_and_what_is_missing_is_named(
    fetch: Callable[..., tuple[list[dict[str, str]], str]], hub: Hub, tmp_path: Path
) -> None:
    serve_human_eval(hub, tmp_path / "human_eval")
    (own := tmp_path / "own").mkdir()
    write_evalplus(own / "HumanEvalPlus.jsonl", limit=5)
    model = reciting_model()
    rows = HEADER + (
        f"{model},humaneval,,bigcode_eval,,12,\n"
        f"{model},humaneval,,bigcode_eval,,,n_samples=5\n"
        f"{model},humaneval,,evalplus,{own},,\n"
        f"{model},humaneval,,evalplus,,,\n"
    )
    missing, told = fetch(rows, "--check", status=1)
    assert [row["limit"] + row["eval_suite"] for row in missing] == [
        *("12bigcode_eval", "bigcode_eval", "evalplus")
    ]
    assert all(row["remedy"].startswith("oe-fetch --cluster=local ") for row in missing)
    assert "HumanEvalPlus.jsonl.gz is not in the cache" in missing[2]["reason"]
    assert "stdin:2,3: task_path: humaneval: the cache does not have all of it" in told
    fetched, told = fetch(rows, status=1)
    # The last row needs a file that no hub has.
    assert "stdin:5: task_path: humaneval: DownloadError: cannot download https://" in told
    assert "oe-fetch: task humaneval of bigcode_eval can start (1 of 1)" in told
    (commit,) = {row["dataset_revision"] for row in fetched if row["eval_suite"] != "evalplus"}
    assert commit.startswith("openai_humaneval@")
    assert [row["n_docs"] for row in fetched] == ["12", "164", "5"]
    assert len({row["task_digest"] for row in fetched}) == 2
    # Offline, the same is known, and nothing is asked for again.
    hub.stop()
    lines = rows.splitlines(keepends=True)
    again, _ = fetch("".join(lines[:4]))
    assert again == fetched
    assert fetch("".join(lines[:4]), "--check") == (
        [],
        "oe-fetch: task humaneval of bigcode_eval can start (1 of 1)\n"
        "oe-fetch: task humaneval of evalplus can start (1 of 1)\n"
        "oe-fetch: 3 of 3 rows can start\n",
    )


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("humaneval,,evalplus,,,temprature=1", "gen_kwargs: evalplus has no setting 'temprature'"),
        ("humaneval,5,bigcode_eval,,,", "n_shot: bigcode_eval has no setting for it"),
        ("humaneval,,bigcodeval,,,", "eval_suite: expected one of "),
    ],
)
def test_what_a_program_would_ignore_is_refused_before_anything_is_fetched(
    run: Run, tmp_path: Path, row: str, problem: str
) -> None:
    model = write_model(tmp_path / "model")
    done = run("oe-fetch", "--cluster=local", stdin=f"{HEADER}{model},{row}\n", status=2)
    assert done.stderr.startswith(f"oe-fetch: stdin:2: {problem}")
    assert done.stdout == ""


def test_the_environment_of_a_second_stage_must_be_there(run: Run, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    image = "--set=images.evalplus-evaluate=x.sif"
    options = ("--cluster=local", "--set=container_runtime=apptainer", image)
    rows = f"{HEADER}{model},humaneval,,evalplus,,,\n"
    for more in ((), ("--check",)):
        done = run("oe-fetch", *options, *more, stdin=rows, status=3)
        assert done.stderr.endswith(
            "x.sif: no such image; set images_directory or images.evalplus-evaluate\n"
        )


def test_a_task_is_checked_without_the_cells_that_only_its_evaluation_needs(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "bigcodebench.jsonl").write_text('{"task_id": "BigCodeBench/0"}\n')
    # bigcodebench has no backend by default, so a whole row must name one.
    cells = f"any/model,bigcodebench-complete,,bigcodebench,{tmp_path}"
    rows = f"model_path,task_path,n_shot,eval_suite,include_path\n{cells}\n"
    told = json.loads(run("oe-run-task", "--check_tasks", stdin=rows).stdout)
    assert told["n_docs"] == 1
    assert "backend" in run("oe-run-task", stdin=rows, status=2).stderr
