"""Columns of a manifest that oellm does not know reach records, tables and the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from oellm.manifest.rows import Row, eval_id
from support.golden_run import CHOICE, CONTRACT, make_run
from support.processes import Run, rows_of


@pytest.fixture
def run_dirs(tmp_path: Path) -> list[Path]:
    """Return two runs of two models, each with a column of its own and one that both have."""
    found = []
    for name, own in (("a", "tokens"), ("b", "value")):
        run_dir = make_run(tmp_path / name)
        path = run_dir / "results" / f"{CHOICE}.json"
        result = json.loads(path.read_text())
        path.unlink()
        cells = {k: v for k, v in result["oellm"]["row"].items() if k != "eval_id"}
        cells |= {"model_path": f"acme/{name}", "experiment": f"mix {name}", own: "7"}
        cells["eval_id"] = result["oellm"]["eval_id"] = eval_id(Row(cells))
        result["oellm"]["row"] = cells
        (path.parent / f"{cells['eval_id']}.json").write_text(json.dumps(result, indent=2))
        with open(run_dir / "jobs.csv", "w", newline="") as stream:
            writer = csv.DictWriter(stream, [*cells, "shard"], lineterminator="\n")
            writer.writeheader()
            writer.writerow({**cells, "shard": "0"})
        found.append(run_dir)
    return found


def test_they_are_columns_of_records_in_all_formats(run: Run, run_dirs: list[Path]) -> None:
    done = run("oe-collect", "--metric=acc", "--primary", *run_dirs)
    first, second = rows_of(done.stdout)
    # The columns of several runs are united; the name of a metric column gets a prefix.
    assert list(first)[-3:] == ["experiment", "tokens", "manifest_value"]
    assert (first["experiment"], first["tokens"], first["manifest_value"]) == ("mix a", "7", "")
    assert (second["experiment"], second["tokens"], second["manifest_value"]) == ("mix b", "", "7")
    assert second["value"] == "0.5"
    text = "oe-collect: the manifest's column value is called manifest_value in records\n"
    assert text in done.stderr
    lines = run("oe-collect", "--format=jsonl", *run_dirs).stdout.splitlines()
    assert json.loads(lines[0])["experiment"] == "mix a"
    for layout in ("table", "markdown", "latex", "html"):
        assert "mix a" in run("oe-collect", f"--format={layout}", *run_dirs).stdout
    for layout in ("csv", "jsonl", "json"):
        saved = run("oe-collect", f"--format={layout}", *run_dirs).stdout
        assert run("oe-collect", f"--format={layout}", stdin=saved).stdout == saved
        again = run("oe-collect", "--columns=experiment,tokens", stdin=saved).stdout
        assert rows_of(again)[0] == {"experiment": "mix a", "tokens": "7"}


def test_they_can_be_filtered_sorted_and_compared(run: Run, run_dirs: list[Path]) -> None:
    some = run("oe-collect", "--filter=experiment=mix b", *run_dirs)
    assert {row["model_path"] for row in rows_of(some.stdout)} == {"acme/b"}
    some = run("oe-collect", "--filter=tokens>6.5", *run_dirs)
    assert {row["model_path"] for row in rows_of(some.stdout)} == {"acme/a"}
    ordered = run("oe-collect", "--sort=-experiment", *run_dirs)
    assert rows_of(ordered.stdout)[0]["model_path"] == "acme/b"
    pivot = run("oe-pivot", "--rows", "experiment", *run_dirs)
    assert [row["experiment"] for row in rows_of(pivot.stdout)] == ["mix a", "mix b"]
    (compared,) = rows_of(run("oe-compare", *run_dirs).stdout)
    assert (compared["experiment_a"], compared["experiment_b"]) == ("mix a", "mix b")
    assert "mix a" in run("oe-report", *run_dirs).stdout
    for command in (("oe-collect", "--sort=experimant"), ("oe-pivot", "--rows=experimant")):
        refused = run(*command, *run_dirs, status=2)
        assert "unknown column 'experimant', did you mean experiment?" in refused.stderr


def test_a_column_that_comes_later_is_said(run: Run) -> None:
    first = '{"model_path": "m", "task": "t", "metric": "acc", "value": 1}\n'
    second = '{"model_path": "m", "task": "u", "metric": "acc", "value": 1, "mix": "a"}\n'
    done = run("oe-collect", stdin=first + second)
    assert "oe-collect: left out, only later records have these columns: mix\n" in done.stderr
    # CSV without a header for it cannot lose anything.
    assert run("oe-collect", stdin=(CONTRACT / "metrics.csv").read_text()).stderr == ""
