"""Comparisons: which records are paired, by which method, and what the messages say."""

from __future__ import annotations

import json
import math
import re
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oellm.collect.comparison import (
    ComparisonRecord,
    Verdict,
    column_names,
    compare_records,
    shorten_models,
)
from oellm.core import schema
from oellm.errors import InputError
from oellm.frameworks.lm_eval.metrics import normalise_metrics
from oellm.manifest.rows import Row
from oellm.metrics import records as metric_records
from oellm.metrics import scored_rows
from oellm.metrics.records import MetricRecord
from oellm.metrics.scored_rows import ScoredRow
from oellm.runs import run_directory
from oellm.runs.result_store import ResultStore
from support.processes import DEMO_TASKS, Run, make_tiny_model
from support.scored_documents import (
    record,
    record_of,
    samples_of,
    write_groups,
    write_samples,
)

OLD = [1, 0, 1, 0, 1, 1, 0, 0, 1, 0]
NEW = [1, 1, 1, 1, 1, 1, 1, 1, 0, 1]


def side(run_dir: Path, values: list[int], **settings: Any) -> list[MetricRecord]:
    """Write samples to a run directory; return the record of their mean."""
    write_samples(run_dir, samples_of(values))
    return [record_of(values, run_dir=str(run_dir), model_path=run_dir.name, **settings)]


def one(
    records_a: list[MetricRecord], records_b: list[MetricRecord], **options: bool
) -> ComparisonRecord:
    (found,) = compare_records(records_a, records_b, **options).records
    return found


def test_the_same_documents_are_paired(tmp_path: Path) -> None:
    a, b = side(tmp_path / "step1", OLD), side(tmp_path / "step2", NEW)
    found = one(a, b)
    assert column_names() == list(schema.table("comparison"))
    assert (found.model_a, found.model_b, found.n_shot) == ("step1", "step2", 5)
    assert (found.value_a, found.value_b, found.n_samples) == (0.5, 0.9, 10)
    # Five documents differ by 1, one by -1: test_significance.py has the calculation.
    assert found.difference == pytest.approx(0.4)
    assert found.stderr == pytest.approx(0.2211083)
    assert (found.method, found.verdict, found.remark) == ("paired", "same", "")
    back = one(b, a)
    assert back.difference == -found.difference
    assert (back.stderr, back.p_value) == (found.stderr, found.p_value)
    itself = one(a, a)
    assert (itself.difference, itself.p_value, itself.verdict) == (0, 1, "same")


def test_without_samples_the_standard_errors_count() -> None:
    a = [record(value=0.5, stderr=0.03, n_samples=300)]
    b = [record(value=0.62, stderr=0.04, n_samples=300)]
    found = one(a, b)
    assert (found.method, found.stderr, found.remark) == ("independent", 0.05, "")
    # z is 2.4.
    assert found.p_value == pytest.approx(0.0163951, abs=1e-7)
    assert found.verdict == "better"
    nothing = one(a, [record(value=0.62, stderr=None, n_samples=300)])
    assert (nothing.method, nothing.stderr, nothing.p_value) == ("", None, None)
    assert (nothing.verdict, nothing.n_samples) == ("unknown", 300)


@pytest.mark.parametrize(
    ("higher", "change", "verdict"),
    [
        (True, 0.5, "better"),
        (True, -0.5, "worse"),
        (False, 0.5, "worse"),
        (False, -0.5, "better"),
        (None, 0.5, "different"),
        (True, 0.05, "same"),
    ],
)
def test_the_verdict_follows_the_direction(
    higher: bool | None, change: float, verdict: str
) -> None:
    a, b = (record(value=value, higher_is_better=higher) for value in (1.0, 1.0 + change))
    assert one([a], [b]).verdict == verdict
    assert [each.value for each in Verdict] == schema.table("comparison")["verdict"]["choices"]


def test_other_documents_are_not_paired(tmp_path: Path) -> None:
    a, b = side(tmp_path / "a", OLD), side(tmp_path / "b", NEW)
    lines = samples_of(NEW)
    lines[3]["target_hash"] = "mended"
    write_samples(tmp_path / "b", lines)
    found = one(a, b)
    assert (found.method, found.p_value, found.verdict) == ("", None, "not comparable")
    assert found.remark == "1 of 10 documents only in A, 1 of 10 only in B"
    # What a document says counts, not its place or number.
    moved = [{**line, "doc_id": number} for number, line in enumerate(samples_of(NEW)[::-1])]
    write_samples(tmp_path / "b", moved)
    assert one(a, b).method == "paired"
    shutil.rmtree(tmp_path / "b")
    found = one(a, b)
    assert (found.method, found.remark) == ("independent", "B: no samples")


def test_samples_cut_off_anywhere_are_not_paired(tmp_path: Path) -> None:
    ones = [1] * 4
    a, b = side(tmp_path / "a", ones), side(tmp_path / "b", ones)
    path = tmp_path / "b" / "samples" / f"{b[0].eval_id}.jsonl"
    content = path.read_bytes()
    for place in range(0, len(content) - 1, 7):
        path.write_bytes(content[:place])
        found = one(a, b)
        assert (found.method, found.difference) == ("independent", 0)
        assert re.search("no samples|no sample|only in A", found.remark)


def test_a_group_is_paired_over_the_documents_of_its_tasks(tmp_path: Path) -> None:
    sides = []
    for name, values in (("a", OLD), ("b", NEW)):
        write_groups(tmp_path / name, {"both": ["x", "y"]})
        lines = samples_of(values[:4], task="x") + samples_of(values[4:], task="y")
        write_samples(tmp_path / name, lines)
        at = {"run_dir": str(tmp_path / name), "group": "both"}
        group = {**at, "group": "", "aggregate": "reported"}
        parts = [record_of(values[:4], task="x", **at), record_of(values[4:], task="y", **at)]
        sides.append([*parts, record_of(values, task="both", **group)])
    found = compare_records(*sides).records
    assert [(r.task, r.n_samples, r.method) for r in found] == [
        ("x", 4, "paired"),
        ("y", 6, "paired"),
        ("both", 10, "paired"),
    ]
    assert found[2].stderr == pytest.approx(0.2211083)
    # A mean of means: the score of a group whose tasks all have the same weight.
    sides[0][2] = sides[0][2]._replace(value=(0.5 + 0.5) / 2 + 0.01)
    (*_, unweighted) = compare_records(*sides).records
    assert unweighted.method == "independent"
    assert unweighted.remark == "A: the score is not a mean over the documents"


def test_only_exact_matches_are_compared() -> None:
    a = [
        record(),
        record(task="boolq", limit=10),
        record(task="copa", n_shot=0),
        record(task="mmlu", aggregate="partial"),
    ]
    b = [record(), record(task="boolq"), record(task="copa"), record(task="piqa")]
    found = compare_records(a, b)
    assert [r.task for r in found.records] == ["arc_easy"]
    assert found.messages == [
        "not compared, 2 only in A: acme/tiny boolq acc,none n_shot=5 limit=10; "
        "acme/tiny copa acc,none n_shot=0",
        "not compared, 3 only in B: acme/tiny boolq acc,none n_shot=5; "
        "acme/tiny copa acc,none n_shot=5; acme/tiny piqa acc,none n_shot=5",
        "not compared, 1 partial: their members are not known",
        "0 of 1 differences are significant at 5 %; chance alone gives up to 0.05; "
        "after Holm's correction 0; 1 of them without pairs of documents",
    ]
    nothing = compare_records(a[1:2], b[1:2])
    assert nothing.records == []
    assert nothing.messages[-1] == "A and B have no metric of the same task, shots and limit"


def test_primary_metrics_are_compared_unless_all_are_asked_for() -> None:
    a = [record(), record(metric="f1", is_primary=False), record(metric="mcc", is_primary=False)]
    b = [record(is_primary=False), record(metric="f1", is_primary=False)]
    found = compare_records(a, b)
    assert [r.metric for r in found.records] == ["acc"]
    assert len(found.messages) == 1
    found = compare_records(a, b, every=True)
    assert [r.metric for r in found.records] == ["acc", "f1"]
    assert found.messages[0] == "not compared, 1 only in A: acme/tiny arc_easy mcc,none n_shot=5"


def test_models_match_by_name_or_if_each_side_has_one() -> None:
    a, b = record(model_path="m/iter_1000"), record(model_path="m/iter_10000")
    found = one([a], [b])
    assert (found.model_a, found.model_b) == ("m/iter_1000", "m/iter_10000")
    shared = compare_records([a, b], [b])
    assert [r.model_a for r in shared.records] == ["m/iter_10000"]
    assert shared.messages[0].startswith("not compared, 1 only in A: m/iter_1000 ")


def test_tables_show_models_without_their_common_directories() -> None:
    a = record(model_path="/scratch/runs/tiny/iter_1000")
    b = record(model_path="/scratch/runs/tiny/iter_2000,dtype=float16")
    (found,) = shorten_models([one([a], [b])])
    assert (found.model_a, found.model_b) == ("tiny/iter_1000", "tiny/iter_2000,dtype=float16")
    assert shorten_models([]) == []


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [record()], "A: expected metric records, got none"),
        (
            [record(model_path="x"), record(model_path="y")],
            [record(model_path="z")],
            "expected a model that A and B share, or one in each; A has 2, B has 1: choose with "
            "--filter_a model_path=… and --filter_b model_path=…",
        ),
        (
            [record()],
            [record(), record(run_dir="/other", model_revision="abc", value=0.7)],
            "B: expected acme/tiny arc_easy acc,none n_shot=5 once, got it twice, with different "
            "model_revision, run_dir: choose with --filter_b",
        ),
        (
            [record(extra={"mix": "a"}), record(extra={"mix": "b"})],
            [record()],
            "A: expected acme/tiny arc_easy acc,none n_shot=5 once, got it twice, with different "
            "mix: choose with --filter_a",
        ),
        (
            [record(), record()],
            [record()],
            "A: expected acme/tiny arc_easy acc,none n_shot=5 once, got it twice, with different "
            "scores: choose with --filter_a",
        ),
    ],
)
def test_an_ambiguous_side_is_an_error(
    a: list[MetricRecord], b: list[MetricRecord], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        compare_records(a, b)
    assert str(caught.value) == message


def test_many_comparisons_are_corrected_for_chance() -> None:
    # Three of sixty scores change, with z = 2.5, 2.0 and -4.0.
    steps = {"t7": 0.25, "t8": 0.2, "t9": -0.4}
    tasks = [f"t{number}" for number in range(60)]
    error = {"stderr": 0.1 / math.sqrt(2), "n_samples": 100}
    a = [record(task=task, **error) for task in tasks]
    b = [record(task=task, value=0.5 + steps.get(task, 0.0), **error) for task in tasks]
    found = compare_records(a, [*b[::-1]])
    assert [r.task for r in found.records] == tasks
    assert found.messages == [
        "3 of 60 differences are significant at 5 %; chance alone gives up to 3; "
        "after Holm's correction 1; 60 of them without pairs of documents"
    ]
    corrected = {r.task: r.p_holm for r in found.records if r.task in steps}
    assert corrected["t9"] == pytest.approx(60 * 6.334248e-05, rel=1e-6)
    assert corrected["t7"] == pytest.approx(59 * 0.0124193, rel=1e-5)
    assert corrected["t8"] == 1
    b[0] = b[0]._replace(stderr=None, value=0.6)
    assert compare_records(a, b).messages[0].startswith("3 of 59 differences")
    assert compare_records(a, b).messages[0].endswith("; 1 could not be tested")


def collected(run_dir: Path) -> Iterator[MetricRecord]:
    run = run_directory.load_run(run_dir)
    for row in run.rows():
        result = ResultStore(run.path).valid_result(row["eval_id"])
        assert result is not None
        scored = scored_rows.read_scored_row(result, str(run_dir))
        yield from metric_records.make_metric_records(scored, metric_records.PrimaryMetrics({}))


@pytest.mark.slow
def test_two_real_models_and_a_result_of_lm_eval(run: Run, tmp_path: Path) -> None:
    models = [tmp_path / "iter_1000", tmp_path / "iter_2000"]
    for model in models:
        make_tiny_model(model, int(model.name[5:]))
    rows = run(
        *("oe-manifest", "--models", ",".join(map(str, models)), f"--include_path={DEMO_TASKS}"),
        *("--tasks=oellm_choice,oellm_copy,oellm_prose", "--n_shot=0", "--log_samples=true"),
    ).stdout
    rendered = run("oe-render", "--cluster=local", stdin=rows).stdout
    run_dir = Path(json.loads(run("oe-submit", stdin=rendered).stdout)["run_dir"])
    records = list(collected(run_dir))
    a, b = ([r for r in records if r.model_path == str(model)] for model in models)
    found = {(r.task, r.metric): r for r in compare_records(a, b, every=True).records}
    assert {key: r.method for key, r in found.items()} == {
        ("oellm_choice", "acc"): "paired",
        ("oellm_choice", "acc_norm"): "paired",
        ("oellm_copy", "exact_match"): "paired",
        ("oellm_prose", "bits_per_byte"): "",
    }
    for of_a, of_b in zip(a, b, strict=True):
        computed = found[of_a.task, of_a.metric]
        if computed.method:
            pairs = zip(plain_values(of_a), plain_values(of_b), strict=True)
            differences = [y - x for x, y in pairs]
            n = len(differences)
            assert computed.n_samples == n
            assert computed.difference == pytest.approx(statistics.fmean(differences))
            stderr = statistics.stdev(differences) / math.sqrt(n)
            assert computed.stderr == pytest.approx(stderr)
    assert any(computed.stderr for computed in found.values())

    native = native_result(run, models[1], tmp_path / "native")
    ours = [record for record in b if record.task == "oellm_choice"]
    same = compare_records(ours, native, every=True).records
    assert [(r.metric, r.method, r.verdict) for r in same] == [
        ("acc", "paired", "same"),
        ("acc_norm", "paired", "same"),
    ]


def plain_values(record: MetricRecord) -> list[float]:
    path = Path(record.run_dir) / "samples" / f"{record.eval_id}.jsonl"
    lines = sorted(map(json.loads, path.open()), key=lambda line: line["doc_id"])
    return [line[record.metric] for line in lines]


def native_result(run: Run, model: Path, directory: Path) -> list[MetricRecord]:
    """Return the records of a result that lm-eval itself writes."""
    run(
        *(sys.executable, "-m", "lm_eval", "run", "--model=hf", f"--model_args=pretrained={model}"),
        *("--tasks=oellm_choice", "--num_fewshot=0", f"--include_path={DEMO_TASKS}"),
        *("--device=cpu", "--log_samples", f"--output_path={directory}"),
    )
    (path,) = directory.rglob("results_*.json")
    row = Row({"model_path": str(model), "task_path": "oellm_choice", "n_shot": "0"})
    normalised = normalise_metrics(json.loads(path.read_text()), "oellm_choice")
    scored = ScoredRow(row, normalised, "", str(path))
    return list(metric_records.make_metric_records(scored, metric_records.PrimaryMetrics({})))
