"""The suites in task-groups.json: what lm-eval has of them, and what the page says of them."""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
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
    told = [cells[:5] for cells in table_below("Shipped suites")]
    assert told == [
        [f"`{suite.suite}`", str(suite.tasks), suite.n_shot, suite.framework, suite.languages]
        for suite in suite_listing.list_suites(suite_listing.Listing(SHIPPED))
    ]


# Facts about OpenEuroLLM's suites: suite, task, shots, framework, metric and language as it spells
# them. The last two are empty if it does not say.
COMMUNITY = list(csv.DictReader(Path(__file__).with_name("community_suites.csv").open()))
# Names of tasks that lm-eval 0.4.13 spells otherwise.
RENAMED = {"include_base_44_north macedonian": "include_base_44_north_macedonian"}
# Spellings of languages that are no words of ours; Norwegian is Bokmål.
SPELLED = {
    "no": "nob_Latn",
    "ekk_latn": "est_Latn",
    "fra_latn_fran": "fra_Latn",
    "por_latn_port": "por_Latn",
    "spa_latn_spai": "spa_Latn",
}


def test_every_evaluation_of_the_community_is_a_row_under_its_names() -> None:
    codes = {word: one.code for one in SHIPPED.languages.values() for word in one.words()}
    codes |= {code.lower(): code for code in SHIPPED.languages} | SPELLED
    frameworks = {"lm-eval-harness": "lm_eval"}
    found = {}
    for name in dict.fromkeys(row["suite"] for row in COMMUNITY):
        found[name] = [
            (row["task_path"], row["n_shot"], row["eval_suite"])
            for row in suites.select_rows(name, SHIPPED)
        ]
    expected: dict[str, list[tuple[str, str, str]]] = {}
    for row in COMMUNITY:
        task = RENAMED.get(row["task"], row["task"])
        suite = frameworks.get(row["framework"], row["framework"])
        of_suite = expected.setdefault(row["suite"], [])
        of_suite += [(task, shots, suite) for shots in row["n_shots"].split()]
        ours = next(
            one for one in suites.select_rows(row["suite"], SHIPPED) if one["task_path"] == task
        )
        assert row["metric"] in ("", ours["primary_metric"]), row
        assert row["language"] == "" or codes[row["language"]] == ours["language"], row
    assert {name: sorted(rows) for name, rows in found.items()} == {
        name: sorted(rows) for name, rows in expected.items()
    }


def test_all_is_what_the_community_evaluates() -> None:
    rows = suites.select_rows("all", SHIPPED)
    names = {RENAMED.get(row["task"], row["task"]) for row in COMMUNITY}
    assert {row["task_path"] for row in rows} == names
    assert len(names) == 438
    assert len(suites.select_rows("all[deu_Latn]", SHIPPED)) == 22
    assert len(suites.select_rows("oellm-multilingual", SHIPPED)) == 144


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
            if isinstance(member, dict):
                # A group that is defined inside its group.
                for each in member["task"]:
                    yield from leaves(each, index)
            else:
                yield from leaves(member, index)


def metrics(entry: Any) -> set[str]:
    """Return the names of the metrics that a task reports."""
    if entry.kind.name == "TASK":
        # A function is written as the path of its file, a dot and its name.
        if "metric_list" not in entry.cfg:
            from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

            return set(DEFAULT_METRIC_REGISTRY[entry.cfg["output_type"]])
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
    rows = [
        row
        for suite in SHIPPED.suites.values()
        for row in suite.rows
        if row["eval_suite"] == "lm_eval" and "include_path" not in row
    ]
    assert len(rows) > 150
    for row in rows:
        tasks = list(leaves(row["task_path"], index))
        assert tasks, row
        for task in tasks:
            assert row["primary_metric"] in metrics(task), (row, task.name)
            # Some tasks fix their shots at 0, whatever the row says.
            assert task.cfg.get("num_fewshot") != 0 or row["n_shot"] in ("", "0"), (row, task.name)


@pytest.mark.slow
def test_lm_eval_lacks_the_tasks_of_the_source(index: Mapping[str, Any]) -> None:
    of_source = {
        row["task_path"]
        for suite in SHIPPED.suites.values()
        for row in suite.rows
        if "include_path" in row
    }
    assert len(of_source) > 200
    assert of_source.isdisjoint(index)
    # Why the 3-shot row of dclm-core-22 cannot run: it has a list instead of a text.
    assert index["agieval_lsat_ar"].cfg["doc_to_target"] == "{{gold}}"


def test_spellings_are_of_one_language_each() -> None:
    words = [word for each in SHIPPED.languages.values() for word in each.words()]
    assert len(words) == len(set(words))
