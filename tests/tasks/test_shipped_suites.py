"""The suites in task-groups.json: what lm-eval has of them, and what the page says of them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from oellm.tasks import suite_listing, suites
from support.processes import ROOT

# As a user without suites of their own has them.
SHIPPED = suites.load_suites([], {"XDG_CONFIG_HOME": "/nonexistent"})
PAGE = (ROOT / "docs" / "SUITES.md").read_text(encoding="utf-8")


def table_below(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[0].splitlines()[2:]]


def test_the_page_lists_the_shipped_suites() -> None:
    told = [cells[:4] for cells in table_below("Shipped suites")]
    assert told == [
        [f"`{suite.suite}`", str(suite.tasks), suite.n_shot, suite.languages]
        for suite in suite_listing.list_suites(SHIPPED, 100)
    ]


@pytest.fixture(scope="module")
def index() -> Mapping[str, Any]:
    from lm_eval.tasks import TaskManager

    return TaskManager().task_index


def leaves(name: str, index: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the tasks that a task, group or tag stands for."""
    entry = index[name]
    if entry.kind.name in ("TASK", "PY_TASK"):
        yield entry
    elif entry.kind.name == "TAG":
        yield from (each for each in index.values() if name in each.tags)
    else:
        for member in entry.cfg["task"]:
            yield from leaves(member, index)


def metrics(entry: Any) -> set[str]:
    """Return the names of the metrics that a task reports."""
    if entry.kind.name == "TASK":
        # A function is written as the path of its file, a dot and its name.
        return {each["metric"].rpartition(".")[2] for each in entry.cfg["metric_list"]}
    path, _, name = entry.cfg["class"].rpartition(".")
    spec = importlib.util.spec_from_file_location("task", f"{path}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return set(getattr(module, name).aggregation(None))


@pytest.mark.slow
def test_lm_eval_has_every_shipped_task_and_its_metric(index: Mapping[str, Any]) -> None:
    rows = [row for suite in SHIPPED.suites.values() for row in suite.rows]
    assert len(rows) > 150
    for row in rows:
        assert row["eval_suite"] == "lm_eval"
        tasks = list(leaves(row["task_path"], index))
        assert tasks, row
        for task in tasks:
            assert row["primary_metric"] in metrics(task), (row, task.name)
            # Some tasks fix their shots at 0, whatever the row says.
            assert task.cfg.get("num_fewshot") != 0 or row["n_shot"] == "0", (row, task.name)


@pytest.mark.slow
def test_lm_eval_lacks_what_is_left_out_and_has_the_relatives(index: Mapping[str, Any]) -> None:
    for _, names, count, why, relatives in table_below("Left out"):
        patterns = re.findall(r"`(.*?)`", names)
        assert len(patterns) in (1, int(count))
        if why == "not in lm-eval":
            for pattern in patterns:
                expression = re.compile(re.sub(r"\\{\w+\\}", r"\\w+", re.escape(pattern)))
                assert not [name for name in index if expression.fullmatch(name)]
        assert set(re.findall(r"`(.*?)`", relatives)) <= index.keys()
    # Why the 3-shot rows of dclm-core-22 cannot run: they have a list instead of a text.
    assert index["agieval_lsat_ar"].cfg["doc_to_target"] == "{{gold}}"


def test_spellings_are_of_one_language_each() -> None:
    words = [word for each in SHIPPED.languages.values() for word in each.words()]
    assert len(words) == len(set(words))
