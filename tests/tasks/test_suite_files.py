"""Files of suites: what they may say, and that mistakes are told with their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oellm.errors import InputError, UsageError
from oellm.tasks import suites as task_suites
from support.processes import Run
from support.suites import EXAMPLE, NO_FILE, PAGE, listed, refusal


def test_a_file_says_why_a_suite_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"left_out": {"old": "its data is gone"}}')
    known = task_suites.load_suites([str(path)], NO_FILE)
    with pytest.raises(UsageError, match="there is no suite 'old': its data is gone"):
        task_suites.select_rows("old", known)


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
