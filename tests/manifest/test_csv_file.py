"""Reading a manifest: what is accepted, and the place that each error names."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm import cli
from oellm.errors import ExitStatus, InputError
from oellm.manifest import csv_file, locations
from oellm.manifest import rows as manifest
from oellm.manifest.rows import Row
from support.processes import Run

HEADER = "model_path,task_path,n_shot"
# A busy machine may take any time for an example.
PATIENT = settings(deadline=None)


def read(path: Path, content: str | bytes) -> list[Row]:
    """Read a manifest from a file, as the commands do."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with cli.open_input(str(path)) as stream:
        return list(csv_file.read_rows(stream, "jobs.csv"))


def message(path: Path, content: str | bytes) -> str:
    with pytest.raises(InputError) as error:
        read(path, content)
    assert error.value.status == ExitStatus.USAGE
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "jobs.csv: expected a CSV header, got nothing: did the command before fail?"),
        (
            "model_path,n_shot\na/b,5\n",
            "jobs.csv:1: task_path: required column is missing; the header is 'model_path,n_shot'",
        ),
        (
            "oe-manifest: no such directory\n",
            "jobs.csv:1: model_path: required column is missing; "
            "the header is 'oe-manifest: no such directory'",
        ),
        (f"{HEADER},n_shot\n", "jobs.csv:1: n_shot: the column occurs twice in the header"),
        (f"{HEADER}\na/b,t\n", "jobs.csv:2: expected 3 cells as in the header, got 2"),
        (f"{HEADER}\n\n\na/b,t,5,x\n", "jobs.csv:4: expected 3 cells as in the header, got 4"),
        (f'{HEADER}\na/b,"t,5\na/b,t,5\n', "jobs.csv:2: expected CSV: unexpected end of data"),
        (f'{HEADER}\na/b,"t"x,5\n', "jobs.csv:2: expected CSV: ',' expected after '\"'"),
        (f"{HEADER}\n,t,5\n", "jobs.csv:2: model_path: expected a value, got an empty cell"),
        (f"{HEADER}\n  ,t,5\n", "jobs.csv:2: model_path: expected a value, got an empty cell"),
        (f"{HEADER}\na/b,,5\n", "jobs.csv:2: task_path: expected a value, got an empty cell"),
        (
            f'{HEADER}\n"a/b,float16",t,5\n',
            "jobs.csv:2: model_path: expected key=value after the model's path, got 'float16'",
        ),
        # The error names the line of the bad row, not that of a good row before it.
        (
            f'{HEADER}\na/b,"t\n\nu",5\n\n"a/b\n",t,five\n',
            "jobs.csv:6: n_shot: expected a non-negative integer, got 'five'",
        ),
        (
            f'{HEADER}\r\na/b,"t\r\nu",5\r\na/b,t,five\r\n',
            "jobs.csv:4: n_shot: expected a non-negative integer, got 'five'",
        ),
        (
            f"{HEADER}\na/b,t\0,5\n",
            # Python 3.10's csv refuses it itself.
            ("jobs.csv:2: task_path: expected UTF-8 text without NUL", "jobs.csv:2: expected CSV"),
        ),
        (f"{HEADER}\na/b,t,5\n".encode("utf-16"), "jobs.csv:1: expected UTF-8 text, got byte 0xff"),
        (
            f"{HEADER}\na/b,t,5\n".encode() + b"a/b,t\xe9,5\n",
            "jobs.csv:3: expected UTF-8 text, got byte 0xe9",
        ),
        # The byte is far behind the block that is decoded first, and after line ends in cells.
        (
            f'{HEADER}\na/b,"t\nu",5\n'.encode() + b"a/b,t,5\n" * 2_000 + b"\xff",
            "jobs.csv:2004: expected UTF-8 text, got byte 0xff",
        ),
    ],
)
def test_a_bad_manifest_is_refused_with_its_place(
    tmp_path: Path, content: str | bytes, expected: str | tuple[str, ...]
) -> None:
    assert message(tmp_path / "f", content).startswith(expected)


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        ("n_shot", "five", "a non-negative integer"),
        ("n_shot", "-1", "a non-negative integer"),
        ("n_shot", "1.5", "a non-negative integer"),
        ("n_shot", "\u0665", "a non-negative integer"),
        ("limit", "0", "a number of documents, or a fraction below 1"),
        ("limit", "-3", "a number of documents, or a fraction below 1"),
        ("limit", "nan", "a number of documents, or a fraction below 1"),
        ("limit", "inf", "a number of documents, or a fraction below 1"),
        ("limit", "1.5", "a number of documents, or a fraction below 1"),
        ("limit", "all", "a number of documents, or a fraction below 1"),
        ("batch_size", "-1", "a positive integer, auto or auto:N"),
        ("batch_size", "auto:0", "a positive integer, auto or auto:N"),
        ("eval_suite", "lm eval", "one word"),
        ("eval_id", "0123456789abcdeg", "16 hexadecimal digits"),
        ("eval_id", "0123456789abcde", "16 hexadecimal digits"),
        ("shard", "x", "a non-negative integer"),
        ("fewshot_as_multiturn", "2", "true or false"),
        ("gen_kwargs", "a=1,", "key=value,key=value"),
        ("seed", "-1", "one seed, or four separated by commas"),
    ],
)
def test_a_bad_cell_is_refused_with_line_and_column(
    tmp_path: Path, column: str, text: str, expected: str
) -> None:
    row = {"model_path": "a/b", "task_path": "t", "n_shot": "", column: ""}
    rows = [row, {**row, column: text}]
    stream = io.StringIO(newline="")
    csv.DictWriter(stream, row).writeheader()
    csv.DictWriter(stream, row).writerows(rows)
    found = message(tmp_path / "f", stream.getvalue())
    assert found == f"jobs.csv:3: {column}: expected {expected}, got {text!r}"


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    plain = f'{HEADER},note\na/b,t,5,"x, ""y"""\n\nc/d,u,,\u00e9\n'
    expected = [
        {"model_path": "a/b", "task_path": "t", "n_shot": "5", "note": 'x, "y"'},
        {"model_path": "c/d", "task_path": "u", "n_shot": "", "note": "\u00e9"},
    ]
    for content in (plain, "\ufeff" + plain, plain.replace("\n", "\r\n"), plain.rstrip("\n")):
        rows = read(tmp_path / "f", content)
        assert [row.cells for row in rows] == expected
        assert [row.line for row in rows] == [2, 4]


def test_a_row_is_passed_on_before_the_next_one_is_read() -> None:
    lines = iter([f"{HEADER}\n", "a/b,t,5\n", "a/b,t,five\n"])
    rows = csv_file.read_rows(lines, "jobs.csv")
    assert next(rows)["n_shot"] == "5"
    assert next(lines) == "a/b,t,five\n"


def test_a_command_names_the_place_and_prints_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(f"{HEADER}\na/b,t,5\na/b,t,five\n")
    text = "n_shot: expected a non-negative integer, got 'five'"
    for source, arguments, stdin in (
        ("jobs.csv", ["jobs.csv"], ""),
        ("stdin", [], b"\xef\xbb\xbf" + (tmp_path / "jobs.csv").read_bytes()),
    ):
        refused = run("oe-render", "--cluster=local", *arguments, stdin=stdin, status=2)
        assert (refused.stdout, refused.stderr) == ("", f"oe-render: {source}:3: {text}\n")


# Everything that a cell may hold: no NUL, and no half of a surrogate pair, which UTF-8 lacks.
TEXT = st.text("ab ,;\"'\\\r\n\t\x1a\u00e9\u2028\ufeff\U0001f600", max_size=8)
CELLS = st.fixed_dictionaries(
    {
        "model_path": TEXT.map(lambda text: "/m/" + text.replace(",", "")),
        "task_path": TEXT.map(lambda text: text + "t"),
        "n_shot": st.sampled_from(["", "5"]),
        "system_instruction": TEXT,
        'a column, "that" nobody knows': TEXT,
    }
)


@PATIENT
@given(st.lists(CELLS, min_size=1, max_size=4))
def test_rows_are_the_same_after_they_were_written_and_read(rows: list[dict[str, str]]) -> None:
    written = io.StringIO(newline="")
    writer = csv_file.ManifestWriter(written)
    for cells in rows:
        writer.write(Row(cells))
    stream = io.TextIOWrapper(
        io.BytesIO(written.getvalue().encode()), encoding="utf-8-sig", newline=""
    )
    assert [dict(row.cells) for row in csv_file.read_rows(stream, "jobs.csv")] == rows


def test_local_paths_become_absolute_and_names_and_model_arguments_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    paths = {"./m,dtype=float16": f"{tmp_path}/m,dtype=float16", "here": f"{tmp_path}/here"}
    for path, expected in {**paths, "/m": "/m", "acme/m,revision=x": "acme/m,revision=x"}.items():
        row = Row({"model_path": path, "task_path": "./t.yaml", "n_shot": ""}, "jobs.csv", 2)
        cells = {"model_path": expected, "task_path": f"{tmp_path}/t.yaml", "n_shot": ""}
        assert locations.locate_row(row) == Row(cells, "jobs.csv", 2)


@pytest.mark.parametrize("text", ['{"until": "\\ud83d"}', '{"\\udcff": "x"}'])
def test_json_in_a_cell_cannot_escape_forbidden_characters(text: str) -> None:
    with pytest.raises(InputError, match="gen_kwargs: expected UTF-8 text without NUL"):
        manifest.check_row(Row({"model_path": "a/b", "task_path": "t", "gen_kwargs": text}))


def test_a_long_cell_is_read_and_an_endless_one_is_refused_by_its_line(tmp_path: Path) -> None:
    head = f"{HEADER},system_instruction\na/b,t,5,\n"
    longest = 1024 * 1024
    *_, row = read(tmp_path / "f", f"{head}a/b,t,5,{'x' * longest}\n")
    assert len(row["system_instruction"]) == longest
    expected = f"expected CSV: a cell has more than {longest} characters; is a quote missing?"
    for cell in ("x" * (longest + 1), '"x' + "\na/b,t,5," * longest):
        assert message(tmp_path / "f", f"{head}a/b,t,5,{cell}\n") == f"jobs.csv:3: {expected}"


@pytest.mark.parametrize("text", ["a\0b", "a\udcffb", "\ud83d"])
@pytest.mark.parametrize("column", ["model_path", "system_instruction", "note"])
def test_a_cell_that_no_file_could_hold_is_refused(column: str, text: str) -> None:
    row = Row({"model_path": "a/b", "task_path": "t", column: text}, "jobs.csv", 7)
    with pytest.raises(InputError) as error:
        manifest.check_row(row)
    expected = f"jobs.csv:7: {column}: expected UTF-8 text without NUL, got {text!r}"
    assert str(error.value) == expected


def test_a_cell_without_a_column_is_not_lost_in_writing() -> None:
    writer = csv_file.ManifestWriter(io.StringIO())
    writer.write(Row({"model_path": "a/b"}))
    with pytest.raises(ValueError, match="'limit'"):
        writer.write(Row({"model_path": "a/b", "limit": "5"}))


def test_json_in_a_cell_has_each_key_once() -> None:
    row = Row({"model_path": "a/b", "task_path": "t", "gen_kwargs": '{"a": 1, "a": 2}'})
    with pytest.raises(InputError, match=r"gen_kwargs: .* an object has the key 'a' twice"):
        manifest.check_row(row)
