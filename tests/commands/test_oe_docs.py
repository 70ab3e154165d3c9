"""oe-docs in a pipe, and on a terminal with and without a pager."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from oellm.manuals.topics import list_topics
from support.processes import BIN, ROOT, Run, clean_environment
from support.skipping import require_program
from support.terminal import converse, end, lines_on_terminal


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    names = ("PAGER", "LESS", "COLUMNS")
    environment = clean_environment(tmp_path, {"TERM": "xterm"})
    return {name: value for name, value in environment.items() if name not in names}


@pytest.fixture
def less() -> None:
    require_program("less", installer="install-terminal-programs")


def test_the_list_has_every_page_with_what_it_is_about(run: Run) -> None:
    lines = run("oe-docs").stdout.splitlines()
    topics = list_topics()
    assert lines[: len(topics)] == [
        f"{name:{lines[0].index(topics[0].about)}}{about}" for name, _, about in topics
    ]
    assert all(topic.about for topic in topics)
    pages = {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")}
    assert pages - {topic.path for topic in topics} == {"docs/README.md"}


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("results", "Results"),
        ("docs/RESULTS.md", "Results"),
        ("oe-fetch", "oe-fetch"),
        ("fetch", "oe-fetch"),
        ("global_benchmark", "Global Benchmarks"),
        ("global-benchmark", "global-benchmark"),
    ],
)
def test_a_topic_has_several_spellings(run: Run, name: str, heading: str) -> None:
    assert run("oellm", "docs", name).stdout.startswith(f"{heading}\n{'=' * len(heading)}\n\n")


def test_an_unknown_topic_is_an_error_of_two_lines(run: Run) -> None:
    done = run("oe-docs", "fetchh", status=2)
    assert done.stderr == "oe-docs: unknown topic 'fetchh', did you mean fetch?\nsee oellm docs\n"


def test_passages_are_shown_with_their_places(run: Run) -> None:
    lines = run("oellm", "docs", "--search", "NODE excludes").stdout.splitlines()
    assert (
        "schema · Totals of a run: in the list of runs, and in the format json of oe-status"
        in lines
    )
    assert "`excluded_nodes`  text  Nodes that oe-submit excludes, because jobs end there" in lines
    assert run("oe-docs", "--search=aftercorr", "submit").stdout.startswith("oe-submit\n\n")
    none = run("oe-docs", "--search=aftercorr", "fetch", status=1)
    assert none.stderr == "oe-docs: no passage has all of these words: aftercorr\n"
    assert "expected words" in run("oe-docs", "--search= ", status=2).stderr


@pytest.mark.parametrize("pager", ["", "cat", "no-such-pager -x", "cat -"])
def test_a_page_reaches_the_terminal_without_a_pager(env: dict[str, str], pager: str) -> None:
    lines = lines_on_terminal("oe-docs", "oe-docs", env=env | {"PAGER": pager})
    assert lines[0] == "\x1b[1moe-docs\x1b[0m"
    assert "Output: text." in lines


@pytest.mark.parametrize("width", [80, 120])
def test_a_page_has_the_width_of_the_terminal(env: dict[str, str], width: int) -> None:
    lines = lines_on_terminal(
        *("oe-docs", "security"), env=env | {"PAGER": "", "TERM": "dumb"}, width=width
    )
    assert "\x1b" not in "".join(lines)
    longest = max(len(line) for line in lines if not line.startswith("    "))
    assert width - 5 < longest <= width


def test_other_pagers_get_the_whole_text(env: dict[str, str], tmp_path: Path) -> None:
    pager = f'echo "$LESS"; wc -l > {tmp_path}/lines'
    assert lines_on_terminal("oe-docs", "design", env=env | {"PAGER": pager}) == ["FRX"]
    own = env | {"PAGER": pager, "LESS": "i"}
    assert lines_on_terminal("oe-docs", "design", env=own) == ["i"]
    plain = subprocess.run(
        [BIN / "oe-docs", "design"], env=env, capture_output=True, check=True
    ).stdout
    assert int((tmp_path / "lines").read_text()) == plain.count(b"\n")


def test_a_pager_that_reads_nothing_is_no_error(env: dict[str, str]) -> None:
    assert lines_on_terminal("oe-docs", "design", env=env | {"PAGER": "false"}) == []


def test_less_shows_a_long_page_until_q(env: dict[str, str], less: None, tmp_path: Path) -> None:
    shown = converse("oe-docs", "design", env=env, cwd=tmp_path)
    shown.expect("This page fixes")
    # Ctrl-C is for less, which goes on.
    shown.sendintr()
    shown.send("G")
    shown.expect("END")
    shown.send("q")
    assert end(shown) == 0
    assert "interrupted" not in shown.before
