"""Task suites: what a selection stands for, what a file may say, and how they are listed."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.errors import InputError, UsageError
from oellm.tasks import suite_listing
from oellm.tasks import suites as task_suites
from oellm.tasks.suite_files import KnownSuites, Suite
from support.golden_files import assert_golden
from support.processes import ROOT, Run, clean_environment
from support.terminal import lines_on_terminal

# The environment of a user without suites of their own.
NO_FILE = {"XDG_CONFIG_HOME": "/nonexistent"}
SHIPPED = task_suites.load_suites([], NO_FILE)
# A busy machine may take any time for an example.
PATIENT = settings(deadline=None, max_examples=50)
PAGE = (ROOT / "docs" / "SUITES.md").read_text(encoding="utf-8")
EXAMPLE = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0]


def listed(run: Run, *arguments: str | Path, **options: Any) -> list[dict[str, str]]:
    printed = run("oe-manifest", "--list", *arguments, **options).stdout
    return list(csv.DictReader(io.StringIO(printed), strict=True))


def refusal(run: Run, *arguments: str | Path) -> str:
    refused = run("oe-manifest", "--list", *arguments, status=2)
    assert refused.stdout == ""
    return refused.stderr.removeprefix("oe-manifest: ").removesuffix("\n")


def shown_to_people(home: Path, *arguments: str, width: int = 100) -> list[str]:
    """Return the lines that `oe-manifest --list` prints on a terminal."""
    environment = clean_environment(home)
    return lines_on_terminal("oe-manifest", "--list", *arguments, env=environment, width=width)


# Selections


@st.composite
def catalogues(draw: st.DrawFn) -> KnownSuites:
    """Draw suites a and b, of which every row may be in both, and the super-suite s of them."""
    codes = list(SHIPPED.languages)[:5]
    row = st.tuples(st.sampled_from(["t", "u", "v"]), st.sampled_from(["", *codes]))
    suites = {}
    for name in "ab":
        suites[name] = Suite(
            "",
            tuple(
                {"task_path": f"{task}_{code}", "task_group": name, "language": code}
                for task, code in draw(st.lists(row, unique=True, min_size=1))
            ),
        )
    return KnownSuites(SHIPPED.languages, {**suites, "s": Suite("", members=("a", "b"))})


def without_repetition(rows: list[Mapping[str, str]]) -> list[Mapping[str, str]]:
    names = [row["task_path"] for row in rows]
    return [row for position, row in enumerate(rows) if names.index(names[position]) == position]


@PATIENT
@given(catalogues(), st.data())
def test_a_bracket_keeps_the_rows_of_its_languages_in_any_spelling(
    catalogue: KnownSuites, data: st.DataObject
) -> None:
    both = [row for name in "ab" for row in catalogue.suites[name].rows]
    rows = {"a": list(catalogue.suites["a"].rows), "s": both, "all": both}
    for name, expected in rows.items():
        whole = task_suites.select_rows(name, catalogue)
        assert whole == without_repetition(expected)
        codes = sorted({row["language"] for row in expected if row["language"]})
        if not codes:
            continue
        wanted = data.draw(st.lists(st.sampled_from(codes), min_size=1))
        spelled = [data.draw(st.sampled_from(catalogue.languages[code])) for code in wanted]
        shown = [data.draw(st.sampled_from([text, text.upper(), f" {text} "])) for text in spelled]
        found = task_suites.select_rows(f"{name}[{'|'.join(shown)}]", catalogue)
        assert found == [row for row in whole if row["language"] in wanted]
        absent = data.draw(st.sampled_from([*set(catalogue.languages) - set(codes), "", "x"]))
        with pytest.raises(UsageError, match=f" language '{absent}'"):
            task_suites.select_rows(f"{name}[{'|'.join([*shown, absent])}]", catalogue)


@PATIENT
@given(st.text(alphabet="ab[]|, x"))
def test_any_text_selects_rows_or_is_refused(text: str) -> None:
    catalogue = KnownSuites(SHIPPED.languages, {"a": SHIPPED.suites["mgsm-eu"], "b": Suite("")})
    try:
        assert task_suites.select_rows(text, catalogue) or text.strip() == "b"
    except UsageError as error:
        assert str(error).startswith("--task_groups: ")


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (
            "oellm-multilingul",
            "unknown suite 'oellm-multilingul', did you mean oellm-multilingual? to see all "
            "suites: oe-manifest --list",
        ),
        ("zzz", "unknown suite 'zzz'; to see all suites: oe-manifest --list"),
        ("include[germn]", "include has no language 'germn', did you mean german?"),
        (
            "mgsm-eu[ita_Latn]",
            "mgsm-eu has no language 'ita_Latn'; it has eng_Latn, deu_Latn, spa_Latn, fra_Latn",
        ),
        (
            "oellm-multilingual[DEU]",
            "oellm-multilingual has no language 'DEU', did you mean deu_Latn?",
        ),
        ("reasoning[en]", "reasoning has no language 'en': its tasks have no language"),
        (
            "oellm-multilingual[heb]",
            "oellm-multilingual has no language 'heb', did you mean heb_Hebr?",
        ),
        (
            "mgsm-eu[irish]",
            "mgsm-eu has no language 'irish'; it has eng_Latn, deu_Latn, spa_Latn, fra_Latn",
        ),
        ("all[klingon]", "no suite has the language 'klingon'"),
        ("mgsm-eu[]", "mgsm-eu has no language ''; it has eng_Latn, deu_Latn, spa_Latn, fra_Latn"),
        ("mgsm-eu[de]]", "expected SUITE or SUITE[language|…], got 'mgsm-eu[de]]'"),
    ],
)
def test_a_selection_of_nothing_is_refused(selection: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        task_suites.select_rows(selection, SHIPPED)
    assert str(refused.value) == f"--task_groups: {message}"


def test_commas_in_brackets_separate_languages(run: Run) -> None:
    groups = "--task_groups=mgsm-eu[de, fr],include[deu_Latn|fra_Latn]"
    expected = listed(run, "--task_groups=mgsm-eu[de|fr]", "--task_groups=include[de|fr]")
    assert listed(run, groups) == expected != []


def test_a_file_says_why_a_suite_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"left_out": {"old": "its data is gone"}}')
    known = task_suites.load_suites([str(path)], NO_FILE)
    with pytest.raises(UsageError, match="there is no suite 'old': its data is gone"):
        task_suites.select_rows("old", known)


def test_everything_in_a_language_comes_under_the_names_of_the_suites(run: Run) -> None:
    found = listed(run, "--task_groups=all[gle_Latn]")
    assert [(row["task_group"], row["task_path"]) for row in found] == [
        ("sib200-eu", "sib200_gle_Latn"),
        ("flores-200-eu-to-eng", "flores200:gle_Latn-eng_Latn"),
        ("flores-200-eng-to-eu", "flores200:eng_Latn-gle_Latn"),
    ]
    assert {row["language"] for row in found} == {"gle_Latn"}


# Files


def test_the_example_of_the_page_is_a_file_of_suites(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine.json").write_text(EXAMPLE)
    found = listed(run, "--suites=x/mine.json", "--task_groups=weekly[dan_Latn|sv|icelandic]")
    cells = [(row["task_path"], row["n_shot"], row["language"]) for row in found]
    assert cells == [
        ("belebele_dan_Latn", "0", "dan_Latn"),
        ("belebele_swe_Latn", "0", "swe_Latn"),
        ("belebele_dan_Latn", "5", "dan_Latn"),
        ("belebele_swe_Latn", "5", "swe_Latn"),
        (f"{tmp_path}/x/tasks/saga.yaml", "", "isl_Latn"),
    ]
    assert {row["task_group"] for row in found} == {"nordic"}
    assert found[-1]["gen_kwargs"] == '{"max_gen_toks": 64}'


def test_a_later_file_replaces_suites_and_builds_on_those_before_it(
    run: Run, tmp_path: Path
) -> None:
    def suite(task: str) -> dict[str, Any]:
        return {"eval_suite": "other", "languages": ["new"], "tasks": [{"task": task}]}

    home = tmp_path / "config" / "oellm"
    home.mkdir(parents=True)
    language = {"new_Latn": {"alpha2": "xx", "name": "new"}}
    ours = {"include": suite("{alpha2}"), "mine": suite("{language}")}
    (home / "task-groups.json").write_text(json.dumps({"languages": language, "groups": ours}))
    later = {"mine": suite("{name}"), "weekly": {"suites": ["mine", "oellm-multilingual"]}}
    (tmp_path / "later.json").write_text(json.dumps({"groups": later}))
    options = {"env": {"XDG_CONFIG_HOME": str(tmp_path / "config")}}
    for arguments, expected in (
        (["--task_groups=all[new]"], ["xx", "new_Latn"]),
        (["--task_groups=oellm-multilingual[xx]"], ["xx"]),
        (["--task_groups=weekly[new]", "--suites=later.json"], ["new", "xx"]),
    ):
        found = listed(run, *arguments, **options)
        assert [row["task_path"] for row in found] == expected
        assert {(row["eval_suite"], row["n_shot"]) for row in found} == {("other", "")}


LANGUAGE = {"alpha2": "lb", "name": "luxembourgish"}


def one_task(**keys: Any) -> dict[str, Any]:
    return {"groups": {"mine": {"tasks": [{"task": "a"}, {"task": "b", **keys}]}}}


def suites(*names: str) -> dict[str, Any]:
    return {"suites": list(names)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"groups": {}\n"languages": {}}', ":2:1: expected JSON: Expecting ',' delimiter"),
        ('{"groups": {"a": 1, "a": 2}}', ": groups: an object has the key 'a' twice"),
        (b'{"groups": {"\xff": 1}}', ": expected UTF-8 text, got byte 0xff"),
        ('{"groups": {"\\ud800": 1}}', ": expected UTF-8 text, got '\\ud800'"),
        ("[" * 100_000, ": the JSON is nested too deeply"),
        ([], ": expected an object, got []"),
        ({"group": {}}, ": unknown key 'group', did you mean groups?"),
        ({"groups": {"all": suites("include")}}, ": groups.all: a suite cannot be called 'all'"),
        ({"groups": {"a[b": suites("include")}}, ": groups.a[b: a suite cannot be called 'a[b'"),
        ({"groups": {"a": {}}}, ": groups.a: expected either tasks or suites"),
        (
            {"groups": {"a": {"suites": ["include"], "languages": ["de"]}}},
            ": groups.a: unknown key 'languages'",
        ),
        ({"groups": {"a": {"tasks": []}}}, ": groups.a.tasks: expected a list of tasks, got []"),
        (
            {"groups": {"a": suites("include", "mgms-eu")}},
            ": groups.a.suites[1]: unknown suite 'mgms-eu', did you mean mgsm-eu?",
        ),
        (
            {"groups": {"a": suites("b"), "b": suites("include", "a")}},
            ": groups.a.suites[0]: the super-suite contains itself",
        ),
        (
            {"groups": {"include": suites("oellm-multilingual")}},
            ": groups.include.suites[0]: the super-suite contains itself",
        ),
        (one_task(n_shots=[0]), "{b}: unknown key 'n_shots', did you mean n_shot?"),
        (
            one_task(n_shot="5"),
            '{b}.n_shot: expected a list of non-negative integers, got "5"',
        ),
        (
            one_task(n_shot=[0, True]),
            "{b}.n_shot: expected a list of non-negative integers, got [0, true]",
        ),
        (one_task(task=""), '{b}.task: expected a text, got ""'),
        (
            one_task(task="b_{alpha}"),
            "{b}.task: unknown placeholder 'alpha', did you mean alpha2?",
        ),
        (
            one_task(task="b_{alpha2}"),
            "{b}.task: {alpha2} needs languages, and the suite has none",
        ),
        (
            one_task(language="deu_Lat"),
            "{b}.language: unknown language 'deu_Lat', did you mean deu_Latn?",
        ),
        (one_task(limit=1.5), "{b}.limit: expected a number of documents, or a fraction below 1"),
        (one_task(limit=[1]), "{b}.limit: expected a text, a number, true or false, got [1]"),
        (
            one_task(confirm_run_unsafe_code=True),
            "{b}.confirm_run_unsafe_code: only the command line can set it: "
            "--confirm_run_unsafe_code=true",
        ),
        (
            one_task(source="oellm-evil"),
            "{b}.source: unknown task source 'oellm-evil', did you mean ",
        ),
        (
            one_task(source="oellm-eval", include_path="tasks"),
            "{b}.source: expected either source or include_path",
        ),
        ({"sources": {"a": {"url": "b"}}}, ": sources.a: the key 'reference' is missing"),
        ({"sources": {"a": {"reference": ""}}}, ': sources.a.reference: expected a text, got ""'),
        (
            {"groups": {"a": {"in_all": "no", "tasks": [{"task": "a"}]}}},
            ': groups.a.in_all: expected true or false, got "no"',
        ),
        (
            {"groups": {"a": {"languages": ["de"], "tasks": [{"task": "a"}]}}},
            ": groups.a.languages: no task has a placeholder for deu_Latn",
        ),
        ({"languages": {"ltz_Latn": {}}}, ": languages.ltz_Latn: the key 'alpha2' is missing"),
        (
            {"languages": {"ltz_Latn": {**LANGUAGE, "name": "german"}}},
            ": languages.ltz_Latn: 'german' is already a spelling of deu_Latn",
        ),
        (
            {"languages": {"ltz_Latn": {**LANGUAGE, "alpha2": "l|b"}}},
            ": languages.ltz_Latn: expected letters, digits and underscores, got 'l|b'",
        ),
    ],
)
def test_a_mistake_in_a_file_is_refused_with_its_place(
    tmp_path: Path, content: Any, message: str
) -> None:
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    path = tmp_path / "my.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as refused:
        task_suites.load_suites([str(path)], NO_FILE)
    expected = message.replace("{b}", ": groups.mine.tasks[1]")
    assert str(refused.value).startswith(f"{path}{expected}")


def test_a_missing_or_bad_file_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(EXAMPLE.replace("[0, 5]", '"5"'))
    # The page shows this message.
    assert refusal(run, "--suites=mine.json") in PAGE
    assert refusal(run, "--suites=my.json") == "my.json: No such file or directory"
    assert refusal(run, "--suites=") == "--suites: expected a file, got nothing"


# Listing


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


def test_a_suite_names_the_source_of_its_tasks(run: Run, tmp_path: Path) -> None:
    mine = {
        "sources": {"lab": {"reference": "git+https://lab.example/tasks@main", "license": "MIT"}},
        "groups": {
            "apart": {"in_all": False, "source": "lab", "tasks": [{"task": "a"}]},
            "mixed": {"tasks": [{"task": "b", "source": "lab"}, {"task": "c"}]},
        },
    }
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    found = listed(run, "--suites=mine.json", "--task_groups=apart,mixed")
    lab = "git+https://lab.example/tasks@main"
    assert [(row["task_path"], row["include_path"]) for row in found] == [
        ("a", lab),
        ("b", lab),
        ("c", ""),
    ]
    everything = {
        row["task_path"] for row in listed(run, "--suites=mine.json", "--task_groups=all")
    }
    assert everything & {"a", "b", "c"} == {"b", "c"}


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
