"""Formats of tables: each reads back as it was written, whatever characters names have."""

from __future__ import annotations

import html.parser
import io
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.core import schema, tables
from oellm.core.display import parse_time
from oellm.core.markup import MARKUPS, ScoreCell
from oellm.errors import InputError
from oellm.metrics.records import column_names
from support.golden_files import GOLDEN, assert_golden
from support.processes import Run, clean_environment
from support.score_lines import HOSTILE_MODEL, HOSTILE_TASK, LINES, records
from support.terminal import on_terminal

# Without line ends and control characters, which the layouts replace.
# A column that has nothing but "none" is left out.
NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1).filter(
    lambda name: name != "none"
)
# The LaTeX commands for special characters; all others stand for themselves.
LATEX = {
    **{f"\\{character}": character for character in "&%$#_{}"},
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    "{[}": "[",
    "{*}": "*",
    "-{}": "-",
}
LATEX_TOKEN = re.compile("|".join([*map(re.escape, LATEX), r"[^&%$#_{}\\~^<>|\[*\n]"]))


WIDE = """\
import sys
from oellm.core import tables
columns = ["model", "task", "value", "n_samples", "arguments"]
rows = [[f"model-{n}" * 4, "hellaswag", n / 4, 10 ** n, "max_gen_toks=300"] for n in range(3)]
tables.write_rows(rows, columns, "table", sys.stdout, spare=["nothing", "n_samples", "value"])
"""


def shown_at(width: int, home: Path) -> list[str]:
    env = clean_environment(home)
    done = on_terminal(sys.executable, "-c", WIDE, env=env, width=width)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_table_gives_up_what_a_narrow_terminal_has_no_room_for(tmp_path: Path) -> None:
    whole = shown_at(200, tmp_path)
    assert whole[0].split() == ["model", "task", "value", "n_samples", "arguments"]
    # What all rows have in common goes above, the widest first, and only as far as needed.
    lines = shown_at(len(whole[1]) - 1, tmp_path)
    assert lines[:2] == ["arguments: max_gen_toks=300", ""]
    assert lines[2].split() == ["model", "task", "value", "n_samples"]
    lines = shown_at(42, tmp_path)
    assert lines[:3] == ["task: hellaswag", "arguments: max_gen_toks=300", ""]
    assert lines[3].split() == ["model", "value"]
    assert lines[-1] == "Not shown on a terminal this narrow: n_samples"
    assert shown_at(28, tmp_path)[-1].endswith("narrow: n_samples, value")


def written(found: list[dict[str, Any]], columns: list[str], layout: str) -> str:
    stream = io.StringIO()
    rows, counts = tables.select_values(found, columns), schema.count_columns("metric")
    tables.write_rows(rows, columns, layout, stream, counts=counts)
    return stream.getvalue()


class TableReader(html.parser.HTMLParser):
    """Reads the texts of a table's cells, row by row, and the set of all tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self._is_in_cell = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._is_in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._is_in_cell = self._is_in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._is_in_cell:
            self.rows[-1][-1] += data


def markdown_cells(row: str) -> list[str]:
    """Return the texts between the unescaped pipes of a row."""
    cells = [""]
    for token in re.findall(r"\\[!-/:-@\[-`{-~]|.", row):
        if token == "|":
            cells.append("")
        else:
            cells[-1] += token[-1]
    return [cell.strip() for cell in cells[1:-1]]


def latex_cells(row: str) -> list[str]:
    cells = row.removesuffix(r" \\").split(" & ")
    tokens = [LATEX_TOKEN.findall(cell) for cell in cells]
    assert list(map("".join, tokens)) == cells
    # LaTeX would make a dash of two hyphens.
    assert not any(pair == ("-", "-") for cell in tokens for pair in itertools.pairwise(cell))
    return ["".join(LATEX.get(token, token) for token in cell) for cell in tokens]


@pytest.mark.parametrize("layout", ["json", "latex", "html"])
def test_each_format_is_golden(layout: str) -> None:
    lines = (GOLDEN / "contract" / "results.jsonl").read_text().splitlines()
    done = [line for line in lines if json.loads(line)["oellm"]["status"] == "done"]
    columns = schema.shown_columns("metric")
    assert_golden(
        f"records.{layout}", written([each._asdict() for each in records(done)], columns, layout)
    )


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_names_read_back_as_they_were(rows: list[tuple[str, str]]) -> None:
    found = [{"model_path": model, "a|b_<i>": task} for model, task in rows]
    columns = list(found[0])
    expected = [[cell.strip() for cell in row] for row in (columns, *rows)]
    in_html = TableReader(written(found, columns, "html"))
    assert in_html.rows == [columns, *map(list, rows)]
    assert in_html.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    markdown = written(found, columns, "markdown").splitlines()
    assert list(map(markdown_cells, [markdown[0], *markdown[2:]])) == expected
    latex = written(found, columns, "latex").removesuffix("\n").split("\n")
    shown = [latex_cells(row) for row in (latex[2], *latex[4:-2])]
    assert [[cell.strip() for cell in row] for row in shown] == expected


def test_no_name_ends_a_line_or_reaches_the_terminal() -> None:
    name = "a\x1b[2Jb\x01\r\nc\x85d"
    rows = [{"model_path": name, "task": "t"}]
    for layout, lines in (("table", 3), ("markdown", 3), ("latex", 7)):
        text = written(rows, ["model_path", "task"], layout)
        assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text) == []
        assert text.count("\n") == lines, layout


@pytest.mark.parametrize(
    ("layout", "shown"),
    [
        ("table", "0.6667* ± 0.0100"),
        ("markdown", r"**0.6667**\* ± 0.0100"),
        ("latex", r"\textbf{0.6667}* $\pm$ 0.0100"),
        ("html", "<b>0.6667</b>* ± 0.0100"),
    ],
)
def test_scores_are_marked(layout: str, shown: str) -> None:
    assert MARKUPS[layout].score(ScoreCell(2 / 3, 0.01, is_best=True, is_partial=True)) == shown
    assert MARKUPS[layout].score(ScoreCell(2 / 3)) == "0.6667"


def test_numbers_are_short_in_tables_and_whole_elsewhere() -> None:
    found = [{"value": 1 / 3, "n_shot": 5, "seen": True}, {"value": 1, "n_shot": None, "seen": 0}]
    assert written(found, list(found[0]), "csv").splitlines() == [
        "value,n_shot,seen",
        "0.3333333333333333,5,true",
        "1,,0",
    ]
    table = written(found, ["value", "n_shot"], "table").splitlines()
    assert [line.split() for line in table[2:]] == [["0.3333", "5"], ["1.0000"]]
    assert json.loads(written(found, list(found[0]), "json")) == found
    assert json.loads(written([], ["value"], "json")) == []
    assert written([], ["value"], "html").count("value") == 1


@pytest.mark.slow
def test_parquet_has_the_columns_of_the_schema(run: Run) -> None:
    import pyarrow.parquet

    done = run("oe-collect", "--format=parquet", "--partial", stdin="".join(LINES))
    table = pyarrow.parquet.read_table(io.BytesIO(done.stdout.encode("utf-8", "surrogateescape")))
    expected = [{name: r.value_in(name) for name in column_names()} for r in records(LINES)]
    for each in expected:
        each["finished"] = parse_time(each["finished"])
    assert table.to_pylist() == expected
    names = {"integer": "int64", "number": "double", "boolean": "bool"}
    names["time"] = "timestamp[ms, tz=UTC]"
    assert {field.name: str(field.type) for field in table.schema} == {
        column: names.get(spec["type"], "string") for column, spec in schema.table("metric").items()
    }


def test_parquet_needs_pyarrow_and_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('not here')\n")
    without = {"PYTHONPATH": str(tmp_path)}
    lacking = run("oe-collect", "--format=parquet", stdin=LINES[0], env=without, status=3)
    assert "--format=parquet needs pyarrow" in lacking.stderr
    done = on_terminal("oe-collect", "--format=parquet", env=clean_environment(tmp_path))
    assert (done.returncode, done.stderr) == (
        2,
        "oe-collect: --format=parquet: stdout is a terminal; redirect it to a file\n",
    )


def test_parquet_refuses_a_value_of_another_type() -> None:
    found = [("mmlu", "five")]
    with pytest.raises(InputError, match="n_shot: expected values of type int64"):
        tables.write_parquet(found, {"task": "text", "n_shot": "integer"}, io.BytesIO())


def test_hostile_names_reach_a_page_as_text(run: Run) -> None:
    done = run("oe-collect", "--format=html", "--columns=model_path,task", stdin="".join(LINES))
    page = TableReader(done.stdout)
    assert "script" not in page.tags
    shown = {cell for row in page.rows for cell in row}
    # Names of models lack what all models share.
    assert {HOSTILE_MODEL.removeprefix("/evals/models/"), HOSTILE_TASK} < shown
