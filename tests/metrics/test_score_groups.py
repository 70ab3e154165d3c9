"""Groups of scores: which records stand for their tasks, and which can be compared."""

from __future__ import annotations

from oellm.metrics.model_names import ModelName
from oellm.metrics.score_groups import ScoreSetting, group_scores, select_primary
from support.report_pages import score


def test_primary_records_stand_for_their_tasks() -> None:
    primary = score("m", "arc", 0.5)
    other = score("m", "arc", 0.6, metric="f1", is_primary=False)
    assert select_primary([other, primary]) == [primary]


def test_the_first_record_counts_if_none_says_whether_it_is_primary() -> None:
    undecided = [
        score("m", "arc", 0.5, is_primary=None),
        score("m", "arc", 0.6, metric="f1", is_primary=None),
        score("m", "arc", 0.7, filter="strict", is_primary=None),
        score("m", "arc", 0.5, n_shot=25, is_primary=None),
        score("n", "arc", 0.5, is_primary=None),
        score("m", "arc", 0.5, model_revision="abc", is_primary=None),
        score("m", "arc", 0.5, run_dir="/other", is_primary=None),
    ]
    assert select_primary(undecided) == [undecided[0], *undecided[3:]]


def test_scores_are_grouped_by_setting_and_model_and_the_newest_comes_first() -> None:
    old, new, undated = (
        score("m", "arc", value, finished=finished)
        for value, finished in ((0.1, "2025-01-01"), (0.2, "2026-01-01"), (0.3, ""))
    )
    limited = score("m", "arc", 0.4, limit=10.0)
    revision = score("m", "arc", 0.5, model_revision="abc")
    groups = group_scores([undated, old, new, limited, revision])
    whole, with_limit = (ScoreSetting.of_record(record) for record in (old, limited))
    assert list(groups) == [whole, with_limit]
    assert groups[whole] == {ModelName("m"): [new, old, undated], ModelName("m", "abc"): [revision]}
    assert groups[with_limit] == {ModelName("m"): [limited]}
