"""Pivots: which scores share a line, which requests are refused, and what tables mark."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.collect.pivots import pivot, pivot_table
from oellm.collect.pivots.averages import Scope
from oellm.collect.pivots.pivot import SCORE, PivotRequest
from oellm.collect.pivots.pivot_table import Sheet, SheetStyle
from oellm.core import tables
from oellm.core.markup import ScoreCell
from oellm.errors import UsageError
from oellm.metrics.selection import RecordSelection
from support.golden_files import assert_golden
from support.pivots import SHOWN, grid, objects, record, sheet
from support.processes import Run, clean_environment
from support.score_lines import LARGE, LINES, SMALL, line, metric, records
from support.terminal import on_terminal

TEXT = "".join(LINES)


@pytest.mark.parametrize("layout", [*tables.TABLES, "csv", "json"])
def test_each_format_is_golden(layout: str) -> None:
    style = SheetStyle(layout in tables.TABLES, with_stderr=True, averages=Scope.ALL)
    found = sheet(records(LINES), style=style)
    stream = io.StringIO()
    tables.write_rows(found.rows, list(found.types), layout, stream)
    assert_golden(f"pivot.{layout}", stream.getvalue())


def test_the_command_pivots_and_reports_empty_cells(run: Run) -> None:
    options = ["--partial", "--stderr", "--average", "--format=markdown"]
    done = run("oe-pivot", *options, stdin=TEXT)
    assert_golden("pivot.markdown", done.stdout)
    assert_golden("pivot.stderr", done.stderr)
    chosen = ["--rows=step", "--filter=task=mmlu_*", "--filter=group=mmlu"]
    done = run("oe-pivot", *chosen, stdin=TEXT)
    assert done.stdout.splitlines() == [
        "step,mmlu_art (5),mmlu_law (5),mmlu_tax (5)",
        "1000,0.5,0.5,",
        "10000,0.5,,0.5",
    ]
    assert done.stderr == "oe-pivot: empty cells: 2 of 6\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--columns=task"], "unknown option --columns, did you mean --cols?"),
        (["--primary"], "unknown option --primary"),
        (["--cols="], "--cols: expected columns of metric records, got ''"),
        (["--cols=tsk"], "--cols: unknown column 'tsk', did you mean task?"),
        (
            ["--rows=task", "--cols=model_path", "--average"],
            "--average: expected tasks in the columns of the matrix, not in its rows",
        ),
        (
            ["--metric=acc_nrm"],
            "no score to show in 18 records: none is of a primary metric; there are acc,",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    run: Run, options: list[str], message: str
) -> None:
    refused = run("oe-pivot", *options, stdin=TEXT, status=2)
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"oe-pivot: {message}")


def test_rows_and_columns_are_columns_of_records() -> None:
    for rows, cols, reason in (
        ("", None, "--rows: expected columns"),
        ("task", None, "--rows and --cols: task is in both"),
    ):
        with pytest.raises(UsageError, match=reason):
            PivotRequest.parse(rows, cols, RecordSelection.parse({}, "", primary_only=False))


def test_scores_that_are_not_comparable_share_no_column() -> None:
    found = [
        record("a", "arc", 1),
        record("b", "arc", 2, metric="acc_norm"),
        record("a", "code", 3, n_shot=None, eval_suite="lm_eval"),
        record("b", "code", 4, n_shot=None, eval_suite="bigcode_eval"),
        record("a", "gsm8k", 5, filter="strict"),
        record("b", "gsm8k", 6, filter="flexible"),
        record("a", "arc", 7, n_shot=25),
    ]
    assert grid(sheet(found)) == [
        [
            *("model_path", "arc (0) acc", "arc (0) acc_norm", "code lm_eval"),
            *("code bigcode_eval", "gsm8k (0) strict", "gsm8k (0) flexible", "arc (25)"),
        ],
        ["a", 1, None, 3, None, 5, None, 7],
        ["b", None, 2, None, 4, None, 6, None],
    ]
    assert grid(sheet(found, "task", "model_path"))[:4] == [
        ["task", "n_shot", "metric", "filter", "eval_suite", "a", "b"],
        ["arc", 0, "acc", "none", "lm_eval", 1, None],
        ["arc", 0, "acc_norm", "none", "lm_eval", None, 2],
        ["code", None, "acc", "none", "lm_eval", 3, None],
    ]
    # Without the task in rows or columns, the columns still tell the scores apart.
    assert grid(sheet(found[:3], "model_path", "n_shot")) == [
        ["model_path", "0-shot acc", "0-shot acc_norm", "no n_shot"],
        ["a", 1, None, 3],
        ["b", None, 2, None],
    ]


def test_languages_and_models_make_a_map() -> None:
    found = [
        record(model, f"belebele_{code}", value, language=code)
        for model, code, value in (("a", "deu", 1), ("a", "fra", 2), ("b", "deu", 3))
    ]
    assert grid(sheet(found, "language", "model_path")) == [
        ["language", "a", "b"],
        ["deu", 1, 3],
        ["fra", 2, None],
    ]
    assert grid(sheet(found, "model_path", "language"))[0] == ["model_path", "deu", "fra"]


def test_all_metrics_count_if_an_axis_has_the_metric() -> None:
    found = [record("a", "arc", 1), record("a", "arc", 2, metric="f1", is_primary=False)]
    assert grid(sheet(found)) == [["model_path", "arc (0)"], ["a", 1]]
    by_metric = sheet(found, cols="task,metric")
    assert grid(by_metric) == [["model_path", "arc (0) acc", "arc (0) f1"], ["a", 1, 2]]


def test_limits_are_not_mixed(run: Run) -> None:
    limited = line(SMALL, metric("arc", 0.5), limit="4")
    refused = run("oe-pivot", stdin=TEXT + limited, status=2)
    assert refused.stderr == (
        "oe-pivot: expected scores of one limit, got several; limits and their numbers of scores: "
        "none (12), 4 (1); choose with --filter limit= or --filter limit=4, "
        "or add limit to --rows or --cols\n"
    )
    done = run("oe-pivot", "--filter=limit=4", stdin=TEXT + limited)
    assert done.stdout == f"model_path,arc (0)\n{SMALL},0.5\n"
    both = [record("a", "arc", 1), record("a", "arc", 2, limit=4)]
    apart = sheet(both, cols="task,limit")
    assert grid(apart) == [["model_path", "arc (0) no limit", "arc (0) 4"], ["a", 1, 2]]


def test_two_scores_for_one_cell_are_refused(run: Run) -> None:
    lines = [line("a/b", metric("arc", 0.5), run_dir=place) for place in ("/one[1]", "/two")]
    # Two equal records count as one.
    same = run("oe-pivot", stdin=lines[0] * 2)
    assert same.stdout == "model_path,arc (0)\na/b,0.5\n"
    refused = run("oe-pivot", "--all", stdin="".join(lines), status=2)
    assert refused.stderr == (
        "oe-pivot: two scores for one cell (a/b, arc (0)); they differ in run_dir: "
        "choose with --filter 'run_dir=/one[[]1]' for example, or add run_dir to --rows or "
        "--cols\n"
    )
    chosen = "run_dir=/one[[]1]"
    mended = run("oe-pivot", "--all", f"--filter={chosen}", stdin="".join(lines))
    assert mended.stdout == same.stdout


def test_the_best_score_is_marked_if_the_direction_is_known() -> None:
    values = {
        "up": (0.5, 0.25, 0.5),
        "down": (3, 1, 2),
        "unknown": (1, 2, 3),
        "alone": (1, None, None),
    }
    directions = {"up": True, "down": False, "unknown": None, "alone": True}
    found = [
        record(model, task, value, higher_is_better=directions[task])
        for task, of_models in values.items()
        for model, value in zip("abc", of_models, strict=True)
        if value is not None
    ]
    marked = {("a", "up"), ("c", "up"), ("b", "down")}
    in_columns, in_rows = set(), set()
    for one in objects(sheet(found, style=SHOWN)):
        in_columns |= {(one["model_path"], task) for task in values if best(one[f"{task} (0)"])}
    for one in objects(sheet(found, "task", "model_path", SHOWN)):
        in_rows |= {(model, one["task"]) for model in "abc" if best(one[model])}
    assert in_columns == in_rows == marked


def best(cell: ScoreCell | None) -> bool:
    return cell is not None and cell.is_best


def test_notes_name_groups_without_a_score() -> None:
    members = [record("a", f"mmlu_{name}", 0.5, group="mmlu") for name in ("law", "art")]
    matrix = pivot.make_matrix([*members, record("a", "arc", 0.5)], PivotRequest())
    assert matrix.notes == [
        "left out because the group has no score: mmlu; --filter 'group=*' shows its tasks"
    ]
    with pytest.raises(UsageError, match="no score to show in 2 records: left out because"):
        pivot.make_matrix(members, PivotRequest())


@pytest.mark.parametrize(
    ("models", "runs"),
    [
        (("/r/anneal_120k", "/r/anneal_130k"), 1),
        (("run a, b", "run a, b"), 1),
        (("/a/iter_120", "/b/iter_130"), 2),
    ],
)
def test_notes_count_the_training_runs_of_steps(models: tuple[str, str], runs: int) -> None:
    found = [record(name, "arc", 1, step=s) for name, s in zip(models, (120, 130), strict=True)]
    matrix = pivot.make_matrix(found, PivotRequest(rows=("step",)))
    assert any("training runs" in note for note in matrix.notes) == (runs > 1)


@pytest.mark.parametrize(
    ("models", "shown"),
    [
        ([SMALL, LARGE], ["tiny/iter_0001000", "tiny/iter_0010000"]),
        (["/evals/models/tiny", "org/tiny"], ["tiny", "org/tiny"]),
        (["/a/b", "/c/d"], ["…/b", "…/d"]),
    ],
)
def test_tables_show_short_names_of_models(models: list[str], shown: list[str]) -> None:
    found = [record(model, "arc", 1) for model in models]
    assert [one["model_path"] for one in objects(sheet(found, style=SHOWN))] == shown
    assert [one["model_path"] for one in objects(sheet(found))] == models
    assert list(sheet(found, "task", "model_path", SHOWN).types)[2:] == shown


# Few names, so that cells collide, and names that the pivot itself uses.
NAMES = st.sampled_from(["a", "b", "a (0)", "average", "model_path", "a stderr", "x/y"])
SCORES = st.dictionaries(
    st.tuples(
        NAMES,
        NAMES,
        st.sampled_from([None, 0, 5]),
        st.sampled_from(["acc", "f1", "stderr"]),
        st.sampled_from(["none", "strict"]),
        st.sampled_from(["lm_eval", "other"]),
    ),
    st.tuples(st.floats(-100, 100), st.none() | st.floats(0, 1)),
    min_size=1,
    max_size=12,
)


@given(SCORES, st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_pivot_can_be_undone(scores: dict[tuple[Any, ...], Any], across: bool) -> None:
    found = [
        record(model, task, value, stderr=error, **dict(zip(SCORE[1:], others, strict=True)))
        for (model, task, *others), (value, error) in scores.items()
    ]
    rows, cols = ("task", "model_path") if across else ("model_path", "task")
    matrix = pivot.make_matrix(
        found, PivotRequest.parse(rows, cols, RecordSelection.parse({}, "", primary_only=False))
    )
    printed = pivot_table.make_sheet(matrix, SheetStyle(for_people=False, with_stderr=True))
    width = len(printed.types) - 2 * len(matrix.cols.keys)
    undone = {}
    lines = list(csv.reader(_csv(printed).splitlines()))
    assert len(set(lines[0])) == len(lines[0]) == len(printed.types)
    for row, cells in zip(matrix.rows.keys, lines[1:], strict=True):
        for place, col in enumerate(matrix.cols.keys):
            value, error = cells[width + 2 * place : width + 2 * place + 2]
            if value:
                told = dict(zip(matrix.rows.columns, row, strict=True))
                told |= dict(zip(matrix.cols.columns, col, strict=True))
                key = tuple(told[column] for column in ("model_path", *SCORE))
                undone[key] = (float(value), float(error) if error else None)
    assert undone == scores
    # The names of rows are distinct.
    assert len({tuple(cells[:width]) for cells in lines[1:]}) == len(lines) - 1


def _csv(printed: Sheet) -> str:
    stream = io.StringIO()
    tables.write_rows(printed.rows, list(printed.types), "csv", stream)
    return stream.getvalue()


def test_json_lines_of_a_pivot_have_null_for_empty_cells(run: Run) -> None:
    done = run("oe-pivot", "--format=jsonl", stdin=TEXT)
    last = json.loads(done.stdout.splitlines()[-1])
    assert [head for head, value in last.items() if value is not None] == [
        "model_path",
        "hellaswag (5)",
    ]


def test_a_pivot_that_is_wider_than_the_terminal_says_what_fits(tmp_path: Path) -> None:
    header = "model_path,task,metric,value\n"
    saved = tmp_path / "wide.csv"
    saved.write_text(header + "".join(f"m,a_task_number_{n},acc,0.5\n" for n in range(12)))
    env = clean_environment(tmp_path)
    done = on_terminal("oe-pivot", saved, env=env, is_stderr=True)
    swapped = ("--rows=task", "--cols=model_path")
    assert " ".join(swapped) in done.stdout
    done = on_terminal("oe-pivot", *swapped, saved, env=env, is_stderr=True)
    assert "wider than the terminal" not in done.stdout
