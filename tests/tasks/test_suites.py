"""Task suites: what a selection stands for, what a file may say, and how they are listed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.errors import UsageError
from oellm.tasks import suites as task_suites
from oellm.tasks.suite_files import KnownSuites, Suite
from support.processes import Run
from support.suites import SHIPPED, listed

# A busy machine may take any time for an example.
PATIENT = settings(deadline=None, max_examples=50)


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


def test_everything_in_a_language_comes_under_the_names_of_the_suites(run: Run) -> None:
    found = listed(run, "--task_groups=all[gle_Latn]")
    assert [(row["task_group"], row["task_path"]) for row in found] == [
        ("sib200-eu", "sib200_gle_Latn"),
        ("flores-200-eu-to-eng", "flores200:gle_Latn-eng_Latn"),
        ("flores-200-eng-to-eu", "flores200:eng_Latn-gle_Latn"),
    ]
    assert {row["language"] for row in found} == {"gle_Latn"}
