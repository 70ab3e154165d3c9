"""Scores of one name and several things: results of other contents, tables of several tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.golden_run import CHOICE, make_run
from support.processes import Run, rows_of

OLD, NEW = "2020-01-02T03:04:05+00:00", "2020-01-03T03:04:05+00:00"
DIGEST, OTHER = "0123456789abcdef", "fedcba9889abcdef"


def edit(run_dir: Path, finished: str = NEW, **keys: Any) -> Path:
    """Change our record of a run's result; None deletes a key. Return the path of the result."""
    path = run_dir / "results" / f"{CHOICE}.json"
    result = json.loads(path.read_text())
    result["oellm"] |= {"timing": {"finished": finished}, **keys}
    for key in [key for key, value in keys.items() if value is None]:
        del result["oellm"][key]
    path.write_text(json.dumps(result, indent=2))
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return two runs of the same rows; the second one is newer."""
    older, newer = make_run(tmp_path / "older"), make_run(tmp_path / "newer")
    edit(older, OLD)
    edit(newer)
    return older, newer


def choices(printed: str) -> list[str]:
    return [row["run_dir"] for row in rows_of(printed) if row["metric"] == "acc"]


def test_results_of_equal_contents_are_one_evaluation(run: Run, pair: tuple[Path, Path]) -> None:
    older, newer = pair
    for path, finished in ((older, OLD), (newer, NEW)):
        edit(path, finished, contents={"model": DIGEST})
    done = run("oe-collect", newer, older)
    assert choices(done.stdout) == [str(newer)]
    assert "is a newer result of the same row" in done.stderr


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({"contents": {"model": DIGEST}}, {"contents": {"model": OTHER}}, "weights changed"),
        (
            {"contents": {"task_version": "1.0"}},
            {"contents": {"task_version": "2.0"}},
            "task oellm_choice: version 1.0 → 2.0",
        ),
        (
            {"tasks": {"oellm_choice": {"version": "1.0", "hash": "a"}}},
            {"tasks": {"oellm_choice": {"version": "1.0", "hash": "b"}}},
            "task oellm_choice: documents or prompts changed",
        ),
        # Results of earlier versions have the digests in their provenance.
        (
            {"contents": None, "provenance": {"model": {"sample_sha256": "a"}}},
            {"contents": None, "provenance": {"model": {"sample_sha256": "b"}}},
            "weights changed",
        ),
    ],
)
def test_results_of_other_contents_are_two_lines_and_status_1(
    run: Run, pair: tuple[Path, Path], before: Any, after: Any, reason: str
) -> None:
    older, newer = pair
    path = edit(older, OLD, **before)
    edit(newer, **after)
    done = run("oe-collect", older, newer, status=1)
    assert choices(done.stdout) == [str(older), str(newer)]
    assert f"oe-collect: {path}: printed beside {newer}" in done.stderr
    assert f"not of the same: {reason}\n" in done.stderr


def test_a_result_from_the_future_is_not_the_newest(run: Run, pair: tuple[Path, Path]) -> None:
    older, newer = pair
    path = edit(older, "2999-01-01T00:00:00+00:00")
    done = run("oe-collect", older, newer)
    assert choices(done.stdout) == [str(newer)]
    assert f"{path}: finished in the future (2999-01-01T00:00:00+00:00)" in done.stderr


def native(directory: Path, model: str, value: float, **keys: Any) -> Path:
    """Write a result of lm-eval."""
    directory.mkdir(exist_ok=True)
    path = directory / f"results_{model}.json"
    scores = {"alias": "hellaswag", "acc,none": value, "acc_stderr,none": 0.005}
    result = {
        "results": {"hellaswag": scores},
        "configs": {"hellaswag": {"task": "hellaswag"}},
        "n-shot": {"hellaswag": 0},
        "n-samples": {"hellaswag": {"original": 10042, "effective": 10042}},
        "higher_is_better": {"hellaswag": {"acc": True}},
        "config": {"model": "hf", "model_args": f"pretrained=acme/{model}"},
        "date": 1760000000.0,
        **keys,
    }
    path.write_text(json.dumps(result))
    return path


def test_two_versions_of_a_task_are_marked_and_not_compared(run: Run, tmp_path: Path) -> None:
    a = native(tmp_path / "a", "a", 0.5, versions={"hellaswag": 1.0})
    b = native(tmp_path / "b", "b", 0.58, versions={"hellaswag": 2.0})
    table = run("oe-pivot", "--format=table", a, b)
    assert "not comparable, task version 1.0 and 2.0: hellaswag (0)" in table.stderr
    assert table.stdout.splitlines()[2:] == [
        "a              0.5000 (a)",
        "b              0.5800 (b)",
        "",
        "(a) task version 1.0",
        "(b) task version 2.0",
    ]
    assert "<b>" not in run("oe-pivot", "--format=html", a, b).stdout
    (compared,) = rows_of(run("oe-compare", a, b).stdout)
    assert (compared["verdict"], compared["p_value"]) == ("not comparable", "")
    assert compared["remark"] == "task version 1.0 → 2.0"
    page = run("oe-report", a, b).stdout
    assert "task version 1.0" in page
    # Equal versions are compared as ever.
    b = native(tmp_path / "b", "b", 0.58, versions={"hellaswag": 1})
    (compared,) = rows_of(run("oe-compare", a, b).stdout)
    assert compared["verdict"] == "better"
    assert "not comparable" not in run("oe-pivot", a, b).stderr


def test_one_line_with_scores_of_several_weights_is_told(run: Run, tmp_path: Path) -> None:
    header = "model_path,task,n_shot,eval_suite,metric,filter,value,is_primary,model_digest\n"
    lines = [f"/m/a,t{n},0,lm_eval,acc,none,0.5,true,{digest}\n" for n, digest in enumerate("ab")]
    text = header + "".join(line.replace("true,a", f"true,{DIGEST}") for line in lines)
    done = run("oe-pivot", stdin=text.replace("true,b", f"true,{OTHER}"))
    assert "several models under one name: /m/a: weights changed between them" in done.stderr
    done = run("oe-pivot", "--rows=model_path,model_digest", stdin=text)
    assert "several models" not in done.stderr
