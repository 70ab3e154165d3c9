"""Scores of groups in lm-eval results: reported, derived and partial."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.frameworks.lm_eval.groups import Groups, TaskScore, pool_scores
from oellm.frameworks.lm_eval.metrics import normalise_metrics
from oellm.metrics.scored_rows import MetricScore
from support.golden_files import GOLDEN

Native = dict[str, Any]

SUBGROUPS = {"stem": 19, "humanities": 13, "social_sciences": 12, "other": 13}


@pytest.fixture
def mmlu() -> Native:
    """A result shaped like mmlu in lm-eval 0.4.13, with 57 tasks and 4 subgroups."""
    tasks = {f"mmlu_{g}": [f"mmlu_{g}_{i}" for i in range(n)] for g, n in SUBGROUPS.items()}
    leaves = [task for members in tasks.values() for task in members]
    sizes = {task: 100 + 7 * place for place, task in enumerate(leaves)}
    scores = {
        task: {"alias": task, "sample_len": sizes[task], "acc,none": place / 57}
        | {"acc_stderr,none": 0.01 + place / 1000}
        for place, task in enumerate(leaves)
    }
    above = {name: {"alias": name, "acc,none": 0.5, "acc_stderr,none": 0.01} for name in tasks}
    above["mmlu"] = {"alias": "mmlu", "acc,none": 0.625, "acc_stderr,none": 0.004}
    return {
        "results": {**scores, **above},
        "groups": above,
        "group_subtasks": {"mmlu": list(tasks), **tasks},
        "n-shot": dict.fromkeys([*leaves, *tasks], 5),
        "n-samples": {task: {"original": n, "effective": n} for task, n in sizes.items()},
        "higher_is_better": {task: {"acc": True} for task in [*leaves, *tasks]},
    }


def by_task(found: list[MetricScore]) -> dict[str, MetricScore]:
    return {score.task: score for score in found}


def without_scores(native: Native, *groups: str) -> Native:
    """Return a result in which lm-eval gives no score for these groups."""
    changed = copy.deepcopy(native)
    for group in groups:
        changed["results"][group] = {"alias": group}
    return changed


def test_mmlu_takes_all_but_its_scores_from_its_57_tasks(mmlu: Native) -> None:
    found = by_task(normalise_metrics(mmlu, "mmlu"))
    assert len(found) == 62
    documents = sum(count["effective"] for count in mmlu["n-samples"].values())
    assert found["mmlu"].to_json() == {
        "task": "mmlu",
        "group": "",
        "n_shot": 5,
        "metric": "acc",
        "filter": "none",
        "value": 0.625,
        "stderr": 0.004,
        "higher_is_better": True,
        "n_samples": documents,
        "aggregate": "reported",
    }
    kinds = [score.aggregate for score in found.values()]
    assert (kinds.count(""), kinds.count("reported")) == (57, 5)
    assert {score.group for task, score in found.items() if task != "mmlu"} == {"mmlu"}


def test_shots_that_differ_are_not_told(mmlu: Native) -> None:
    mmlu["n-shot"]["mmlu_stem_3"] = 0
    found = by_task(normalise_metrics(mmlu, "mmlu"))
    assert [found[name].n_shot for name in ("mmlu", "mmlu_stem", "mmlu_other")] == [
        None,
        None,
        5,
    ]


@pytest.mark.parametrize("lost", ["entry", "score", "NaN"])
def test_a_missing_member_makes_its_groups_partial(mmlu: Native, lost: str) -> None:
    if lost == "entry":
        del mmlu["results"]["mmlu_stem_3"]
    else:
        mmlu["results"]["mmlu_stem_3"]["acc,none"] = float("nan") if lost == "NaN" else None
    found = by_task(normalise_metrics(mmlu, "mmlu"))
    kinds = {name: found[name].aggregate for name in mmlu["group_subtasks"]}
    assert kinds.pop("mmlu") == kinds.pop("mmlu_stem") == "partial"
    assert set(kinds.values()) == {"reported"}
    others = [name for name in mmlu["n-samples"] if name != "mmlu_stem_3"]
    weights = {name: mmlu["n-samples"][name]["effective"] for name in others}
    total = sum(weights[name] * mmlu["results"][name]["acc,none"] for name in others)
    assert found["mmlu"].value == pytest.approx(total / sum(weights.values()))
    assert found["mmlu"].n_samples == sum(weights.values())


@pytest.mark.parametrize("name", ["lm_eval-0.4.13-group-and-task", "lm_eval-0.4.8-group"])
def test_what_is_derived_is_what_lm_eval_reports(name: str) -> None:
    (path,) = (GOLDEN / "native" / name).glob("results_*.json")
    native = json.loads(path.read_text())
    reported = by_task(normalise_metrics(native, "mini"))
    changed = without_scores(native, "mini", "mini_stem")
    derived = {m.task: m for m in normalise_metrics(changed, "mini") if m.metric == "acc"}
    for group in ("mini", "mini_stem"):
        assert derived[group].to_json() == reported[group].to_json() | {
            "aggregate": "derived",
            "value": pytest.approx(reported[group].value, abs=1e-15),
            "stderr": pytest.approx(reported[group].stderr, abs=1e-15),
        }


def test_nothing_is_derived_where_numbers_of_documents_are_unknown(mmlu: Native) -> None:
    del mmlu["n-samples"]
    found = by_task(normalise_metrics(without_scores(mmlu, "mmlu"), "mmlu"))
    assert "mmlu" not in found
    assert found["mmlu_stem"].aggregate == "reported"
    assert found["mmlu_stem"].n_samples is None


def test_a_tag_gets_the_score_that_lm_eval_does_not_give(mmlu: Native) -> None:
    names = ["mmlu_stem_1", "mmlu_other_2"]
    mmlu["results"] = {name: mmlu["results"][name] for name in names}
    del mmlu["group_subtasks"]
    found = by_task(normalise_metrics(mmlu, "my_tag"))
    assert [score.group for score in found.values()] == ["my_tag", "my_tag", ""]
    assert found["my_tag"].aggregate == "derived"
    assert found["my_tag"].n_samples == sum(found[name].n_samples or 0 for name in names)


def test_groups_known_from_indentation_are_those_of_group_subtasks() -> None:
    """lm-eval 0.4.1 shows by indentation what 0.4.2 lists as group_subtasks."""
    found = []
    for name in ("lm_eval-0.4.1-group", "lm_eval-0.4.2-group"):
        native = json.loads((GOLDEN / "native" / name / "results.json").read_text())
        found.append({group: sorted(m) for group, m in Groups(native).members.items()})
    assert (
        found[0]
        == found[1]
        == {
            "mini": ["mini_law", "mini_stem"],
            "mini_stem": ["mini_algebra", "mini_geometry"],
        }
    )


def test_a_group_that_holds_itself_ends() -> None:
    values = {"acc,none": 0.5, "acc_stderr,none": 0.1}
    native = {
        "results": {"a": values, "b": values, "leaf": values},
        "group_subtasks": {"a": ["b", "leaf"], "b": ["a"]},
        "n-samples": {"leaf": {"effective": 4}},
    }
    assert {score.task for score in normalise_metrics(native, "a")} == {"a", "b", "leaf"}


SIZES = st.integers(2, 1000)
ERRORS = st.floats(0, 1)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.floats(0, 1), ERRORS, SIZES), min_size=1, max_size=8))
def test_pooling_is_lm_evals(tasks: list[tuple[float, float, int]]) -> None:
    from lm_eval.api.metrics import aggregate_subtask_metrics, pooled_sample_stderr

    values, errors, sizes = map(list, zip(*tasks, strict=True))
    score = pool_scores([(TaskScore(value, error), size) for value, error, size in tasks])
    assert score.value == pytest.approx(aggregate_subtask_metrics(values, sizes))
    assert score.stderr == pytest.approx(pooled_sample_stderr(errors, sizes))


def test_an_unknown_error_of_a_task_leaves_that_of_its_group_unknown() -> None:
    assert pool_scores([(TaskScore(0.5, None), 4), (TaskScore(1.0, 0.1), 4)]) == TaskScore(
        0.75, None
    )
    assert pool_scores([(TaskScore(0.5, 0.1), 1), (TaskScore(1.0, 0.1), 1)]) == TaskScore(
        0.75, None
    )
