"""How suites are listed, in a pipe and on a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from oellm.tasks import suite_listing
from support.golden_files import assert_golden
from support.processes import Run, clean_environment
from support.suites import SHIPPED, listed, refusal, shown_to_people


def test_a_suite_is_listed_in_a_pipe_and_on_a_terminal(run: Run, tmp_path: Path) -> None:
    shown = run("oe-manifest", "--list", "--task_groups=mgsm-eu").stdout
    assert_golden("list.csv", shown)
    assert_golden(
        "list.table", "\n".join(shown_to_people(tmp_path, "--task_groups=mgsm-eu")) + "\n"
    )


def test_without_a_selection_the_pipe_has_the_rows_of_all_suites(run: Run) -> None:
    found = listed(run)
    plain = {name: suite for name, suite in SHIPPED.suites.items() if suite.rows}
    expected = [row for suite in plain.values() for row in suite.rows]
    further = dict.fromkeys(("include_path", "gen_kwargs", "limit"), "")
    assert found == [further | dict(row) for row in expected]
    assert list(found[0]) == [*suite_listing.ROW_COLUMNS, *further]


def test_words_find_rows_by_language_and_by_name(run: Run, tmp_path: Path) -> None:
    everything = listed(run)
    wanted: dict[str, Callable[[dict[str, str]], bool]] = {
        "deu": lambda row: row["language"] == "deu_Latn",
        "GERMAN lighteval": lambda row: (
            (row["language"], row["eval_suite"]) == ("deu_Latn", "lighteval")
        ),
        "belebele": lambda row: "belebele" in row["task_group"] + row["task_path"],
        "exact polymath": lambda row: "polymath" in row["task_path"],
    }
    for words, is_wanted in wanted.items():
        found = listed(run, *words.split())
        further = dict.fromkeys(everything[0], "")
        assert [further | row for row in found] == list(filter(is_wanted, everything)) != []
    assert refusal(run, "deu", "zzz") == "--list: no row of a suite has 'deu' and 'zzz'"
    lines = shown_to_people(tmp_path, "belebele", "deu")
    assert [line.split()[:5] for line in lines[2:] if line.startswith("b")] == [
        ["belebele-eu-5-shot", "1", "5", "lm_eval", "de"],
        ["belebele-eu-cf", "1", "0", "lighteval", "de"],
    ]


def test_the_terminal_has_a_line_or_more_for_each_suite_and_fits(tmp_path: Path) -> None:
    for width in (80, 100, 130):
        lines = shown_to_people(tmp_path, width=width)
        assert max(map(len, lines)) <= width
        names = [line.split()[0] for line in lines[2:] if not line.startswith(" ")]
        assert names == list(SHIPPED.suites)
    assert max(map(len, shown_to_people(tmp_path, "--task_groups=all", width=80))) <= 80


def test_a_suite_with_the_default_shots_of_its_tasks_leaves_the_list_readable(
    tmp_path: Path,
) -> None:
    suite = {"description": "What we look at every week, " * 3, "tasks": [{"task": "a"}]}
    own = tmp_path / "own.json"
    groups = {"mine": suite, "both": {"suites": ["mine", "open-sci-0.01"]}}
    own.write_text(json.dumps({"groups": groups}))
    lines = shown_to_people(tmp_path, f"--suites={own}", width=80)
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines[2:] if not line.startswith(" ")]
    assert names == [*SHIPPED.suites, *groups]


def test_listing_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = ("lm_eval", "datasets", "huggingface_hub", "torch")
    program = "import sys, oe_manifest; oe_manifest.main(['--list']); "
    program += f"assert not sys.modules.keys() & {set(heavy)}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env=clean_environment(tmp_path),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
