"""oe-report: the contents of the page as text, and the inputs of the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jinja2
import pytest

from oellm.report import runs as report_runs
from oellm.report.runs import UnreadableRun
from support.golden_files import GOLDEN
from support.golden_run import FAILED, PROSE, make_run
from support.processes import ROOT, Run, clean_environment
from support.report_pages import boards, many, page, parsed, score
from support.score_lines import HOSTILE_MODEL, HOSTILE_TASK, LARGE, LINES, SMALL, records
from support.terminal import on_terminal

RECORDS = records(LINES)
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script></style>&amp;"]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_each_cell_is_its_record() -> None:
    (board,) = boards(page(RECORDS))
    primary = [record for record in RECORDS if record.is_primary]
    texts = set()
    for record in primary:
        shots = f"{record.task} {record.n_shot}-shot, {record.metric}"
        suite = f", {record.eval_suite}"
        arrow = " ↓" if record.higher_is_better is False else ""
        cell = board.column(f"{shots}{suite}{arrow}")[record.model_path]
        assert float(cell.attributes["data-v"]) == record.value
        error = "" if record.stderr is None else f"±{record.stderr:.3f} "
        assert cell.text.endswith(f"{error}n={record.n_samples}")
        texts.add(cell.text.partition("±")[0].partition("n=")[0].strip())
        assert str(record.value) in cell.attributes["title"]
    assert {"0.250", "0.333", "0.625†", "12.50", "10.00"} <= texts
    # All other cells are marked as empty.
    shown = [cell for cells in board.rows.values() for cell in cells if "none" not in cell.classes]
    assert len(shown) == len(primary) + len(board.rows)
    assert len(board.rows) == 3


def test_parts_of_groups_follow_their_group_and_partial_numbers_are_marked() -> None:
    (board,) = boards(page(RECORDS))
    names = [head.attributes.get("data-name", "").strip() for head in board.heads]
    place = names.index("mmlu")
    assert names[place + 1 : place + 4] == ["mmlu_art", "mmlu_law", "mmlu_tax"]
    assert ["member" in head.classes for head in board.heads].count(True) == 3
    assert [head.text[-1] for head in board.heads if head.all("button", title="parts of mmlu")] == [
        "3"
    ]
    cells = board.column("mmlu 5-shot, acc, lm_eval")
    assert ["partial" in cells[model].classes for model in (SMALL, LARGE)] == [False, True]
    assert (cells[LARGE].text[:6], cells[LARGE].classes) == ("0.625†", ["partial"])


def test_the_average_is_over_complete_columns() -> None:
    found = [
        *(score("a", task, value) for task, value in (("t", 0.2), ("u", 0.4), ("v", 0.9))),
        *(score("b", task, value) for task, value in (("t", 0.3), ("u", 0.1))),
        *(score(model, "w", 7.5) for model in "ab"),
        *(score(model, "x", 0.5, higher_is_better=False) for model in "ab"),
    ]
    root = page(found)
    (board,) = boards(root)
    average = board.column("average of 2 columns")
    assert {model: cell.text for model, cell in average.items()} == {"a": "0.300", "b": "0.200"}
    details = root.one("details").text
    assert details.startswith("The average covers 2 of 5 columns: those in which every model has")
    assert details.endswith("better.t, u")


def test_colours_and_the_best_follow_the_direction_and_the_noise() -> None:
    found = [
        *(score(model, "up", value) for model, value in zip("abc", (0.1, 0.5, 0.9), strict=True)),
        *(
            score(model, "down", value, higher_is_better=False)
            for model, value in zip("abc", (1, 5, 9), strict=True)
        ),
        # The values differ by less than their standard errors.
        *(score(m, "same", v) for m, v in zip("abc", (0.5, 0.501, 0.502), strict=True)),
        *(score(model, "unknown", 0.5, higher_is_better=None) for model in "abc"),
    ]
    (board,) = boards(page(found))

    def classes(head: str) -> list[str]:
        return [" ".join(cell.classes) for cell in board.column(head).values()]

    assert classes("up 0-shot, acc") == ["q0", "q4", "q8 best"]
    assert classes("down 0-shot, acc ↓") == ["q8 best", "q4", "q0"]
    assert classes("same 0-shot, acc") == ["q4", "q4", "q4 best"]
    assert classes("unknown 0-shot, acc") == [""] * 3


def test_results_with_another_limit_have_their_own_table() -> None:
    found = [score("m", "t", 0.5), score("m", "t", 0.25, limit=10), score("m", "t", 1, limit=0.5)]
    root = page(found)
    assert [board.column("t 0-shot, acc")["m"].text[:5] for board in boards(root)] == [
        "0.500",
        "1.000",
        "0.250",
    ]
    assert [head.text for head in root.one("section", id="leaderboard").all("h3")] == [
        "Full results",
        "Limited results limit 0.5 of the documents",
        "Limited results limit 10 documents",
    ]


def test_the_newest_of_several_results_is_shown_and_the_others_are_named() -> None:
    old, new = ({"finished": f"202{n}-01-01T00:00:00Z", "run_dir": f"/run/{n}"} for n in (5, 6))
    root = page([score("m", "t", 0.5, **new), score("m", "t", 0.25, **old)])
    cell = boards(root)[0].column("t 0-shot, acc")["m"]
    assert cell.text.startswith("0.500+1")
    assert cell.attributes["title"].endswith("; also 0.25 (/run/5)")


def test_names_are_text_whatever_they_look_like() -> None:
    found = [
        score(name, f"t{name}", 0.5, metric=name, filter=name, run_dir=name) for name in HOSTILE
    ]
    runs = [UnreadableRun(name, name) for name in HOSTILE]
    root = page([*found, *RECORDS], runs, title=HOSTILE[0])
    assert [len(root.all(tag)) for tag in ("script", "style", "img")] == [1, 1, 0]
    assert not [node for node in root.all("") if any(name[:2] == "on" for name in node.attributes)]
    (board,) = boards(root)
    assert {*HOSTILE, HOSTILE_MODEL, LARGE, SMALL} == set(board.rows)
    assert {board.rows[name][0].text for name in HOSTILE} == set(HOSTILE)
    assert HOSTILE_TASK in {head.attributes.get("data-name", "").strip() for head in board.heads}
    assert root.one("title").text == root.one("h1").text == HOSTILE[0]
    policy = root.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


def test_long_names_are_cut_in_the_middle_if_they_stay_distinct() -> None:
    long = [f"org/{'x' * 60}-{end}" for end in "ab"]
    same = [f"org/{'x' * 40}{middle}{'y' * 40}" for middle in "ab"]
    (board,) = boards(page([score(model, "t", 0.5) for model in (*long, *same)]))
    shown = {model: cells[0].text for model, cells in board.rows.items()}
    assert [len(shown[model]) for model in long] == [48, 48]
    assert {f"org/{shown[model]}" for model in same} == set(same)
    assert {board.rows[model][0].attributes["title"] for model in long} == set(long)


def test_a_language_is_a_column() -> None:
    codes = ("deu_Latn", "fra_Latn")
    found = [score("m", f"belebele_{code}", 0.5, language=code) for code in codes]
    root = page([*found, score("m", "mono", 0.5, language="deu_Latn")])
    languages = root.one("section", id="languages")
    assert [head.text for head in languages.all("h3")] == ["belebele_* 0-shot, acc"]
    (board,) = boards(languages)
    assert [head.attributes["data-name"] for head in board.heads[-2:]] == [
        f"belebele_* {code}" for code in codes
    ]


def test_a_page_without_results_says_so() -> None:
    root = page([])
    assert "There is no result yet." in root.one("section", id="leaderboard").text
    assert [section.attributes["id"] for section in root.all("section")] == ["leaderboard"]


def test_a_run_shows_failures_software_and_times(run_dir: Path, tmp_path: Path) -> None:
    record = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps(record | {"name": "weekly"}))
    # The result of one row is gone, so it is neither done nor failed.
    (run_dir / "results" / f"{PROSE}.json").unlink()
    elsewhere = tmp_path / "other.json"
    elsewhere.write_text("{}")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    said: list[str] = []
    paths = map(str, (run_dir, "/nowhere/run", elsewhere, broken))
    root = page([], list(report_runs.read_runs(paths, said.append)))
    unfinished = root.one("section", id="unfinished")
    assert "2 of 3 rows without a result, 1 failed." in unfinished.text
    assert unfinished.one("h3").text == f"weekly {run_dir}"
    cells = [[cell.text for cell in row.all("td")] for row in unfinished.one("tbody").all("tr")]
    assert [(row[0], row[1]) for row in cells] == [("1", "failed"), ("1", "lost")]
    assert "lm-eval has no task, group or tag 'no_such_task'" in cells[0][2]
    assert [
        row[3].endswith(f" {task}, 0-shot")
        for row, task in zip(cells, (FAILED, "oellm_prose"), strict=True)
    ]
    facts = root.one("section", id="runs")
    terms = [node.text for node in facts.all("dt")]
    values = dict(zip(terms, (node.text for node in facts.all("dd")), strict=True))
    assert values["rows"] == "1 of 3 done"
    assert values["cluster"] == "local"
    assert "lm_eval 0.4.13, torch" in values["versions"]
    assert values["GPU-hours"] == "unknown: the workers left no heartbeat (0.021 planned)"
    assert values["time"].startswith("start ")
    unknown = [node.text for node in facts.all("li") if node.all("code")]
    assert unknown[0] == "/nowhere/run not on the machine that made this page"
    assert unknown[1] == f"{elsewhere} not a run directory of oellm: only its scores are known"
    assert unknown[2].startswith(f"{broken} {broken}/run.json: expected JSON: ")
    assert said == [unknown[2].removeprefix(f"{broken} ")]


@pytest.mark.slow
def test_records_on_stdin_and_their_run_give_the_same_page(run: Run, run_dir: Path) -> None:
    made = [run("oe-report", run_dir)]
    made.append(run("oe-report", stdin=run("oe-collect", run_dir).stdout))
    pages = {done.stdout.partition("<section")[2] for done in made}
    assert (len(pages), {done.stderr for done in made}) == (1, {"oe-report: scores: limit 4\n"})
    root = parsed(made[0].stdout)
    assert [section.attributes["id"] for section in root.all("section")] == [
        "leaderboard",
        "unfinished",
        "runs",
    ]
    assert len(boards(root)[0].rows) == 1


def test_a_page_is_written_whole_or_not_at_all(run: Run, run_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "report.html"
    target.parent.mkdir()
    target.write_text("of last time")
    bad = "model_path,task,metric,value\nm,t,acc,x\n"
    refused = run("oe-report", f"--output={target}", stdin=bad, status=2)
    assert refused.stderr == "oe-report: stdin:2: value: expected a number, got 'x'\n"
    assert target.read_text() == "of last time"
    # A damaged result does not hide the rest of the run.
    (run_dir / "results" / f"{PROSE}.json").write_text("{")
    done = run("oe-report", f"--output={target}", "--title=A & B", run_dir, status=1)
    assert f"{PROSE}.json: left out, it is not JSON" in done.stderr
    assert (done.stdout, parsed(target.read_text()).one("h1").text) == ("", "A & B")
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


def test_a_terminal_gets_no_page(tmp_path: Path) -> None:
    done = on_terminal("oe-report", env=clean_environment(tmp_path))
    message = "oe-report: stdout is a terminal: give --output FILE, or > FILE\n"
    assert (done.returncode, done.stderr) == (2, message)


@pytest.fixture
def without_matplotlib(tmp_path: Path) -> dict[str, str]:
    """Make a directory of all packages except matplotlib, for a Python without others."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(jinja2.__file__).parents[1].iterdir():
        if not path.name.startswith(("matplotlib", "mpl_toolkits", "__pycache__")):
            (packages / path.name).symlink_to(path)
    return {"PYTHONPATH": f"{packages}:{ROOT / 'lib'}"}


@pytest.mark.slow
def test_without_matplotlib_the_page_has_no_figures_and_a_message_says_so(
    run: Run, without_matplotlib: dict[str, str], tmp_path: Path
) -> None:
    text = "".join(f"{json.dumps(record._asdict())}\n" for record in many(8, 4))
    # -S: without the site-packages of this Python.
    command = (sys.executable, "-S", ROOT / "commands" / "oe_report.py")
    done = run(*command, stdin=text, env=without_matplotlib)
    assert done.stderr == (
        "oe-report: the page has no figures: these need matplotlib (pip install 'oellm[report]')\n"
    )
    root = parsed(done.stdout)
    assert (len(boards(root)[0].rows), root.all("figure")) == (8, [])
    figures = tmp_path / "figures"
    refused = run(*command, "--figures", figures, stdin=text, env=without_matplotlib, status=3)
    message = "oe-report: --figures needs matplotlib: pip install 'oellm[report]'\n"
    assert (refused.stdout, refused.stderr, figures.exists()) == ("", message, False)


@pytest.mark.slow
def test_curves_are_on_the_page_and_in_files(run: Run, tmp_path: Path) -> None:
    text = "".join(f"{json.dumps(record._asdict())}\n" for record in many(8, 4))
    figures = tmp_path / "figures"
    done = run("oe-report", f"--figures={figures}", stdin=text)
    curves = parsed(done.stdout).one("section", id="curves").all("figure")
    assert [len(figure.all("svg")) for figure in curves] == [1, 1]
    names = {(path.stem.partition("-")[0], path.suffix) for path in figures.iterdir()}
    assert names == {(name, suffix) for name in ("curve", "tasks") for suffix in (".svg", ".png")}


def test_rows_without_a_result_are_grouped_by_reason(run: Run, tmp_path: Path) -> None:
    manifest = "model_path,task_path,n_shot,experiment\n"
    manifest += "".join(f"acme/a{number},arc_easy,0,mix\n" for number in range(120))
    rendered = run("oe-render", "--cluster=local", stdin=manifest)
    run_dir = json.loads(rendered.stdout)["run_dir"]
    (facts,) = report_runs.read_runs([run_dir], lambda _: None)
    assert isinstance(facts, report_runs.RunFacts)
    (group,) = facts.unfinished
    assert (group.number, group.state, group.reason) == (120, "not submitted", "not submitted")
    cells = page([], [facts]).one("section", id="unfinished").one("tbody").all("td")
    assert [cell.text for cell in cells[:3]] == ["120", "not submitted", "not submitted"]
    assert cells[3].one("summary").text == "a0 arc_easy, …"
    assert "… and 20 more" in cells[3].text


def test_it_reads_whatever_oe_collect_reads(run: Run, run_dir: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.csv"
    saved.write_text(run("oe-collect", run_dir).stdout)
    lines = (GOLDEN / "contract" / "results.jsonl").read_text()
    table = (
        "checkpoint,task,n_shot,harness,backend,metric,filter,value\n/m/a,piqa,10,x,hf,acc,,0.5\n"
    )
    for done in (
        run("oe-report", saved),
        run("oe-report", stdin=saved.read_text()),
        run("oe-report", stdin=json.dumps({"run_dir": str(run_dir)})),
        # One of its rows had failed.
        run("oe-report", stdin=lines, status=1),
    ):
        assert "oellm_choice" in parsed(done.stdout).text
    assert "piqa" in parsed(run("oe-report", stdin=table).stdout).text


def test_values_of_the_users_own_columns_have_their_name(run: Run) -> None:
    table = "model_path,task,metric,value,recipe\na/b,quiz,acc,0.5,3\n"
    written = run("oe-report", stdin=table).stdout
    assert written.startswith("<!DOCTYPE html>\n")
    assert [name.text for name in parsed(written).all("span", **{"class": "own"})] == ["recipe: 3"]
