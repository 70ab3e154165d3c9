"""Score tables of other tools: oellm-eval's, and the dashboard's, which oe-collect also writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.golden_run import make_run
from support.processes import Run, rows_of

OELLM_EVAL = """model_name,task,n_shot,performance,metric_name
/run/iter_0001000,piqa,10,0.5125,acc_norm
/run/iter_0001000,mmlu,unknown,0.25,"acc,none"
/run/iter_0002000,piqa,10,0.547,acc_norm
"""
DASHBOARD = """checkpoint,task,n_shot,harness,backend,metric,filter,value
/run/iter_0001000,piqa,10,lm-eval-harness,hf,acc_norm,none,0.5125
/run/iter_0001000,flores200:deu_Latn-eng_Latn,0,lighteval,vllm,chrf++,,31.5
"""
COLUMNS = "model_path,step,task,n_shot,eval_suite,backend,metric,filter,value,is_primary"


def test_tables_of_oellm_eval_are_read(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "collected.csv"
    path.write_text(OELLM_EVAL)
    done = run("oe-collect", f"--columns={COLUMNS}", path)
    assert done.stdout.splitlines()[1:] == [
        "/run/iter_0001000,1000,piqa,10,,,acc_norm,,0.5125,true",
        "/run/iter_0001000,1000,mmlu,,,,acc,none,0.25,true",
        "/run/iter_0002000,2000,piqa,10,,,acc_norm,,0.547,true",
    ]
    # Older tables do not tell the metric; spreadsheets write a mark and other line ends.
    old = "\ufeff" + OELLM_EVAL.replace(",metric_name", "").replace(",acc_norm", "")
    path.write_text(old.replace(',"acc,none"', "").replace("\n", "\r\n"), newline="")
    done = run("oe-collect", "--columns=metric,value", path)
    assert done.stdout.splitlines()[1:] == [f"performance,{v}" for v in ("0.5125", "0.25", "0.547")]
    assert "0.547" in run("oe-pivot", stdin=OELLM_EVAL).stdout


def test_tables_of_the_dashboard_are_read_and_written(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "dashboard.csv"
    path.write_text(DASHBOARD)
    done = run("oe-collect", f"--columns={COLUMNS}", path)
    assert done.stdout.splitlines()[1:] == [
        "/run/iter_0001000,1000,piqa,10,lm_eval,hf,acc_norm,none,0.5125,true",
        "/run/iter_0001000,1000,flores200:deu_Latn-eng_Latn,0,lighteval,vllm,chrf++,,31.5,true",
    ]
    assert run("oe-collect", "--format=dashboard", path).stdout == DASHBOARD
    assert run("oe-pivot", path).stdout.splitlines()[1] == "/run/iter_0001000,0.5125,31.5"
    assert run("oe-collect", "--format=dashboard", stdin=DASHBOARD).stdout == DASHBOARD


def test_further_columns_of_the_dashboard_keep_their_meaning(run: Run) -> None:
    head, first, _ = DASHBOARD.splitlines()
    table = (
        f"{head},stderr,n_samples,is_group,results_file,result_time\n"
        f"{first},0.01,1000,True,/x/results.json,1790894863.5\n"
        f"{first.replace('lm-eval-harness', 'Evalchemy')},,,,,\n"
    )
    columns = "eval_suite,stderr,n_samples,aggregate,finished,run_dir"
    assert run("oe-collect", f"--columns={columns}", stdin=table).stdout.splitlines()[1:] == [
        "lm_eval,0.01,1000,reported,2026-10-01T22:47:43+00:00,/x/results.json",
        "evalchemy,,,,,",
    ]


def test_a_model_has_one_name_however_tables_spell_it(run: Run, tmp_path: Path) -> None:
    hub = "/c/hub/models--o--m/snapshots/0123abc"
    names = ["/runs/a/", "/runs//a", hub, "o/m,revision=main,dtype=auto", "run a, b"]
    columns = "--columns=model_path,model_revision"
    expected = ["/runs/a,", "/runs/a,", "o/m,0123abc", "o/m,", '"run a, b",']
    for head, rest in (
        ("model_name,task,n_shot,performance", "arc,0,0.5"),
        (DASHBOARD.splitlines()[0], "arc,0,lm-eval-harness,hf,acc,none,0.5"),
    ):
        table = "".join(f'"{name}",{rest}\n' for name in names)
        done = run("oe-collect", columns, stdin=f"{head}\n{table}")
        assert done.stdout.splitlines()[1:] == expected
    result = {"results": {"arc": {"acc,none": 0.5}}, "configs": {"arc": {}}, "config": {}}
    path = tmp_path / "results_1.json"
    path.write_text(json.dumps(result))
    for name, line in zip(names[:4], expected, strict=False):
        done = run("oe-collect", columns, f"--model={name}", path)
        assert done.stdout.splitlines()[1:] == [line]


def test_one_metric_of_each_evaluation_is_primary(run: Run) -> None:
    head, first, _ = DASHBOARD.splitlines()
    other = first.replace("acc_norm", "acc")
    names = ["piqa", "unknown_task"]
    lines = [line.replace("piqa", name) for name in names for line in (other, first)]
    table = "\n".join([head, *lines, lines[0]]) + "\n"
    done = run("oe-collect", "--columns=task,metric,is_primary", stdin=table)
    # The suites name acc_norm for piqa; of an unknown task the first one counts.
    assert done.stdout.splitlines()[1:] == [
        "piqa,acc,false",
        "piqa,acc_norm,true",
        "unknown_task,acc,true",
        "unknown_task,acc_norm,false",
        "piqa,acc,false",
    ]
    asked = run("oe-collect", "--columns=is_primary", "--metric=acc", stdin=table).stdout
    assert asked.split()[1:] == ["true", "false", "true", "false", "false"]


def test_results_become_a_table_of_the_dashboard(run: Run, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    scores = rows_of(run("oe-collect", run_dir).stdout)
    done = run("oe-collect", "--format=dashboard", run_dir)
    table = rows_of(done.stdout)
    assert done.stdout.splitlines()[0] == DASHBOARD.splitlines()[0]
    for score, row in zip(scores, table, strict=True):
        assert row["harness"] == "lm-eval-harness"
        assert row["checkpoint"] == score["model_path"]
        for name in ("task", "n_shot", "backend", "metric", "filter", "value"):
            assert row[name] == score[name]


def test_scores_without_shots_are_counted_for_the_dashboard(run: Run) -> None:
    done = run("oe-collect", "--format=dashboard", stdin=OELLM_EVAL)
    assert done.stderr == (
        "oe-collect: 1 score without a number of shots, which the dashboard needs\n"
    )
    refused = run("oe-collect", "--format=dashboard", "--columns=task", stdin="", status=2)
    assert refused.stderr == "oe-collect: --columns: --format=dashboard has columns of its own\n"
    assert "'dashboard'" in run("oe-pivot", "--format=dashboard", stdin="", status=2).stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/m,piqa,ten,0.5,acc", ":2: n_shot: expected an integer, got 'ten'"),
        ("/m,piqa,1,,acc", ":2: value: expected a value, got none"),
        (",piqa,1,0.5,acc", ":2: model_path: expected a value, got none"),
        ("/m,piqa,1,nan,acc", ":2: value: expected a number, got 'nan'"),
    ],
)
def test_bad_cells_of_a_table_are_named(run: Run, line: str, message: str) -> None:
    table = f"{OELLM_EVAL.splitlines()[0]}\n{line}\n"
    done = run("oe-collect", stdin=table, status=2)
    assert done.stderr == f"oe-collect: stdin{message}\n"
