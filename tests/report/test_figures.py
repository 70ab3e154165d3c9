"""Figures: they show what the records say, treat names as data, and can be saved anywhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from itertools import chain, groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.errors import InputError
from oellm.manifest import checkpoint_names, model_spec
from oellm.metrics.records import MetricRecord
from oellm.report.figures import figures
from oellm.tasks import suites
from support.golden_files import assert_golden
from support.processes import ROOT, clean_environment

if os.environ.get("CI") != "true":
    pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"
KNOWN = suites.load_suites((), {}).languages
# The first colour of a line.
BLUE = "#0072b2"
HOSTILE = "<script>alert(1) $x^2$ 50%_\n\"'&amp;\x00\ud800 猫ελ"
SHOWN = "<script>alert(1) $x^2$ 50%_ \"'&amp;\ufffd\ufffd 猫ελ"


def record(model: str, task: str, value: float, **others: Any) -> MetricRecord:
    spec = model_spec.ModelSpec.parse(model)
    step = checkpoint_names.training_step(spec.path, dict(spec.arguments).get("revision", ""))
    known: dict[str, Any] = {
        "model_path": model,
        "step": step,
        "task": task,
        "value": value,
        "n_shot": 5,
    }
    known |= {"metric": "acc", "filter": "none", "higher_is_better": True, "is_primary": True}
    return MetricRecord(**{**known, **others})


def run_of(name: str, values: list[float], task: str = "arc", **others: Any) -> list[Any]:
    return [
        record(f"/evals/{name}/iter_{1000 * number:07d}", task, value, **others)
        for number, value in enumerate(values, 1)
    ]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def points(path: ElementTree.Element) -> list[tuple[float, float]]:
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.attrib["d"])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def paths(svg: str, **attributes: str) -> list[ElementTree.Element]:
    """Return the paths of a curve with these attributes, without those of the legend."""
    return [
        path
        for path in ElementTree.fromstring(svg).iter(f"{SVG}path")
        if "clip-path" in path.attrib and attributes.items() <= path.attrib.items()
    ]


def test_lines_bands_and_ticks_are_where_the_records_say() -> None:
    values, stderrs = [0.25, 0.5, 0.375, 0.75], [0.01, 0.0625, 0.02, 0.05]
    found = [
        each._replace(stderr=stderr)
        for each, stderr in zip(run_of("a", values), stderrs, strict=True)
    ]
    # The records are not in the order of their steps.
    [figure] = figures.draw_curves(reversed(found))
    [line] = paths(figure.svg, stroke=BLUE)
    [band] = paths(figure.svg, fill=BLUE)
    drawn = points(line)
    assert len(drawn) == 4
    per_step = (drawn[3][0] - drawn[0][0]) / 3000
    per_value = (drawn[3][1] - drawn[0][1]) / (values[3] - values[0])

    def x(step: float) -> float:
        return drawn[0][0] + per_step * (step - 1000)

    def y(value: float) -> float:
        return drawn[0][1] + per_value * (value - values[0])

    assert per_step > 0 > per_value
    expected = [(x(1000 * n), y(value)) for n, value in enumerate(values, 1)]
    assert drawn == [pytest.approx(point, abs=0.02) for point in expected]
    limits = {
        (round(x(1000 * n)), round(y(value + sign * stderr)))
        for n, (value, stderr) in enumerate(zip(values, stderrs, strict=True), 1)
        for sign in (-1, 1)
    }
    assert {(round(a), round(b)) for a, b in points(band)} == limits
    labels = {e.text: e.attrib for e in ElementTree.fromstring(figure.svg).iter(f"{SVG}text")}
    assert float(labels["2k"]["x"]) == pytest.approx(x(2000), abs=0.02)
    rise = float(labels["0.6"]["y"]) - float(labels["0.4"]["y"])
    assert rise == pytest.approx(0.2 * per_value, abs=0.02)
    assert {"training step", "acc  (↑ better)", "a", "± 1 standard error"} <= set(labels)
    assert figure[:2] == ("curve-arc-5-shot", "arc (5-shot)")


def test_runs_share_a_figure_and_settings_do_not() -> None:
    found = [
        *run_of("a", [0.1, 0.2, 0.3]),
        *run_of("b", [0.3, 0.4]),
        *run_of("c", [0.5]),
        record("org/base", "arc", 0.6),
        *run_of("a", [0.2, 0.4], limit=10.0),
        *run_of("a", [0.2, 0.4], n_shot=0, metric="bits", higher_is_better=False),
        *run_of("a", [0.2, 0.4], is_primary=False, metric="f1"),
        *run_of("a", [0.2, 0.4], task="Arc"),
        record("org/base", "alone", 0.6),
        *run_of("a", [0.3, float("nan")], task="damaged"),
    ]
    drawn = {figure.title: figure for figure in figures.draw_curves(found)}
    assert list(drawn) == [
        *("arc (5-shot, acc)", "arc (5-shot, acc, limit 10)", "arc (0-shot, bits)"),
        "Arc (5-shot)",
    ]
    assert {"a", "b", "c", "org/base"} <= set(texts(drawn["arc (5-shot, acc)"].svg))
    assert "org/base" not in texts(drawn["Arc (5-shot)"].svg)
    assert "bits  (↓ better)" in texts(drawn["arc (0-shot, bits)"].svg)
    names = [figure.name.lower() for figure in drawn.values()]
    assert len(set(names)) == len(names)


def test_a_run_has_its_newest_score_and_partial_aggregates_are_hollow() -> None:
    old = run_of("a", [0.9, 0.9, 0.9], finished="2026-01-01T00:00:00Z")
    new = run_of("a", [0.2, 0.4, 0.6], finished="2026-01-02T00:00:00Z", aggregate="partial")
    [hollow] = figures.draw_curves([*new, *old])
    [whole] = figures.draw_curves([each._replace(aggregate="derived") for each in new])
    assert points(paths(hollow.svg, stroke=BLUE)[0]) == points(paths(whole.svg, stroke=BLUE)[0])

    def hollows(svg: str) -> int:
        uses = ElementTree.fromstring(svg).iter(f"{SVG}use")
        return sum(u.attrib.get("fill-opacity") == "0" and u.get("stroke") == BLUE for u in uses)

    assert (hollows(hollow.svg), hollows(whole.svg)) == (3, 0)
    assert "some tasks missing" in texts(hollow.svg)
    assert "some tasks missing" not in texts(whole.svg)


def test_a_legend_names_the_first_and_last_of_many_runs_and_counts_many_baselines() -> None:
    found = list(chain.from_iterable(run_of(f"r{n}", [0.1, 0.2 + n / 90]) for n in range(30)))
    [figure] = figures.draw_curves([*found, *(record(f"org/m{n}", "arc", 0.3) for n in range(6))])
    assert {"first of 30 runs: r0", "last of 30 runs: r29", "6 baselines not shown"} <= set(
        texts(figure.svg)
    )
    assert "r1" not in texts(figure.svg)
    lines = [path for path in paths(figure.svg, fill="none") if len(points(path)) == 2]
    assert len({line.attrib["stroke"] for line in lines} - {"currentColor"}) == 30


@pytest.mark.slow
def test_names_are_data_and_figures_share_a_page(tmp_path: Path) -> None:
    languages = [
        record(HOSTILE, f"{HOSTILE}_{code}", 0.5, language=code)
        for code in ("deu_Latn", "fra_Latn", HOSTILE)
    ]
    found = [
        *run_of("a", [0.1, 0.2], task=HOSTILE, metric=HOSTILE),
        *run_of("a", [0.1, 0.2], task="x" * 900),
        record(HOSTILE, HOSTILE, 0.5, metric=HOSTILE, filter=HOSTILE),
        record(HOSTILE, "x" * 900, 0.5),
        *languages,
    ]
    language_map = figures.draw_language_map(found, KNOWN)
    assert language_map
    drawn = [*figures.draw_curves(found), language_map]
    assert len(drawn) == 3
    written = figures.save_figures(found, tmp_path, KNOWN, ["svg"])
    assert [path.name for path in written] == [
        *(f"{figure.name}.svg" for figure in drawn),
        "tasks.svg",
    ]
    contents = [*(figure.svg for figure in drawn), written[-1].read_text()]
    elements = [e for content in contents for e in ElementTree.fromstring(content).iter()]
    ids = [e.attrib["id"] for e in elements if "id" in e.attrib]
    assert ids and len(set(ids)) == len(ids)
    assert {e.tag.removeprefix(SVG) for e in elements} == {
        *("svg", "g", "defs", "path", "use", "text", "clipPath", "rect")
    }
    links = [v for e in elements for k, v in e.attrib.items() if "href" in k or "url(" in v]
    assert links and {re.sub(r"^(url\()?#|\)$", "", link) for link in links} <= set(ids)
    assert not any(key == "style" or key.startswith("on") for e in elements for key in e.attrib)
    # The model is a baseline or a column. Long names are cut in the middle.
    assert all(SHOWN[:12] in text for text in ["".join(texts(content)) for content in contents])
    assert f"{SHOWN} (5-shot)" in texts(drawn[0].svg) and SHOWN in texts(drawn[1].svg)
    assert "<script" not in "".join(contents)
    # Figures are transparent, for light pages and dark ones.
    assert not any("#fff" in figure.svg for figure in drawn[:2])


def test_languages_have_a_panel_for_each_family_of_tasks() -> None:
    tasks = [
        *(("belebele_deu_Latn", "deu_Latn"), ("belebele_fra_Latn", "fra_Latn")),
        *(("xnli_de", "deu_Latn"), ("xnli_fr", "fra_Latn"), ("xnli_zz", "zzz_Latn")),
        *(("include_german", "deu_Latn"), ("arc", "")),
    ]
    found = [
        record(model, task, place / 10 + number / 100, language=language)
        for place, model in enumerate(("org/m", "/r/a/iter_0001000", "/r/a/iter_0020000"))
        for number, (task, language) in enumerate(tasks)
    ]
    figure = figures.draw_language_map(found, KNOWN)
    assert figure
    there = texts(figure.svg)
    # Only last steps count. A family of one language has no panel, nor has a task without one.
    cells = sorted(text for text in there if re.fullmatch(r"0\.\d{3}", text))
    assert cells == sorted(f"{p / 10 + n / 100:.3f}" for p in (0, 2) for n in range(4))
    assert {"belebele_* (5-shot)", "xnli_* (5-shot)", "org/m", "a @20k", "deu_Latn"} <= set(there)
    assert figures.draw_language_map(found[:1], KNOWN) is None


def test_tasks_are_compared_with_themselves_and_members_stay_in_their_group(
    tmp_path: Path,
) -> None:
    found = [
        record("org/m", "mmlu", 0.5, aggregate="partial"),
        record("org/m", "mmlu_law", 0.111, group="mmlu"),
        record("org/m", "bits", 0.25, metric="bits", higher_is_better=False),
        record("org/n", "bits", 0.75, metric="bits", higher_is_better=False),
        record("org/n", "bits", 1234.5, metric="bits", higher_is_better=False, limit=10.0),
        record("org/m", "part_1", 0.875, group="derived_later"),
    ]
    [path] = figures.save_figures(found, tmp_path, KNOWN, ["svg"])
    svg = path.read_text()
    there = texts(svg)
    rows = {"bits (5-shot), bits ↓", "bits (5-shot, limit 10), bits ↓", "mmlu (5-shot), acc ↑"}
    assert {"0.500*", "0.875", "1.23k", *rows} <= set(there)
    assert "0.111" not in there
    # The lower value is better, and is white on dark.
    by_text = {e.text: e.attrib for e in ElementTree.fromstring(svg).iter(f"{SVG}text")}
    assert by_text["0.250"]["fill"] == "#ffffff"
    assert by_text["0.750"]["fill"] == "#1a1a1a"
    assert figures.save_figures([], tmp_path, KNOWN) == []


def test_figures_are_saved_and_an_impossible_directory_is_named(tmp_path: Path) -> None:
    found = run_of("a", [0.1, 0.2])
    written = figures.save_figures(found, tmp_path / "a" / "b", KNOWN)
    assert [path.name for path in written] == [
        *("curve-arc-5-shot.svg", "curve-arc-5-shot.png", "tasks.svg", "tasks.png")
    ]
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == sorted(
        path.name for path in written
    )
    assert written[1].read_bytes().startswith(b"\x89PNG\r\n")
    root = ElementTree.parse(written[0]).getroot()
    # A file has its own size, font and colours.
    assert root.attrib["width"].endswith("pt") and "sans-serif" in root.attrib["font-family"]
    assert "currentColor" not in written[0].read_text()
    with pytest.raises(InputError, match=r"curve-arc-5-shot.png: cannot be made: .*"):
        figures.save_figures(found, written[1], KNOWN)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text() | st.text("aA-. \u00e9/", max_size=150), max_size=6))
def test_file_names_are_plain_and_distinct(tasks: list[str]) -> None:
    names = figures.FileNames()
    found = [names.choose("curve", task) for task in [*tasks, *(t.upper() for t in tasks)]]
    assert all(re.fullmatch(r"curve[A-Za-z0-9._-]{0,95}", name) for name in found)
    # In ids of a figure two hyphens follow its name.
    assert not any("--" in name for name in found)
    assert len({name.lower() for name in found}) == len(found)


DRAW = """
import json, sys, tempfile
from oellm.metrics.records import MetricRecord
from oellm.report.figures import figures
found = [MetricRecord(**each) for each in json.load(sys.stdin)]
for figure in figures.draw_curves(found):
    print(figure.svg)
with tempfile.TemporaryDirectory() as directory:
    for path in figures.save_figures(found, directory, {}):
        sys.stdout.flush()
        sys.stdout.buffer.write(path.read_bytes())
"""


def draw(found: list[Any], home: Path, *flags: str, **environment: str) -> Any:
    import json

    return subprocess.run(
        [sys.executable, *flags, "-c", DRAW],
        input=json.dumps([each._asdict() for each in found]).encode(),
        capture_output=True,
        env=clean_environment(home, {"PYTHONPATH": str(ROOT / "lib"), **environment}),
        check=False,
    )


def outline(svg: str) -> str:
    """Return the elements of an SVG, a line each, with `N` for numbers and `ID` for digests."""
    lines = []

    def add(element: ElementTree.Element, depth: int) -> None:
        attributes = " ".join(f'{key}="{value}"' for key, value in sorted(element.attrib.items()))
        text = f"{element.tag.removeprefix(SVG)} {attributes} {element.text or ''}".strip()
        text = re.sub("--[mp][0-9a-f]+", "--ID", text)
        number = r"-?[0-9]+(\.[0-9]+)?"
        lines.append("  " * depth + re.sub(rf"(?<![\w#.-]){number}( {number})*", "N", text))
        for child in element:
            add(child, depth + 1)

    add(ElementTree.fromstring(svg), 0)
    return "".join(f"{line}\n" for line, _ in groupby(lines))


def test_the_rewritten_svg_is_golden() -> None:
    """Fails if another matplotlib writes SVG that figures/svg.py does not know."""
    found = [
        *run_of("a", [0.1, 0.2, 0.3], stderr=0.01),
        record("org/m", "arc", 0.3),
        *(record("org/m", f"x_{code}", 0.5, language=code) for code in ("deu_Latn", "fra_Latn")),
    ]
    [curve] = figures.draw_curves(found)
    language_map = figures.draw_language_map(found, KNOWN)
    assert language_map
    assert_golden("figures.txt", outline(curve.svg) + outline(language_map.svg))


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path) -> None:
    # -S: without site-packages, and so without matplotlib.
    done = draw(run_of("a", [0.1, 0.2]), tmp_path, "-S")
    message = "oellm.errors.MachineError: figures need matplotlib: pip install 'oellm[report]'"
    assert done.stderr.decode().splitlines()[-1] == message


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes_and_no_warnings(tmp_path: Path) -> None:
    found = [*run_of("猫", [0.1, 0.2], task="猫", stderr=0.1), record("org/m", "猫", 0.3)]
    # The user's style does not count, and the home may be read-only.
    (tmp_path / "matplotlibrc").write_text("font.size: 40\nno.such.key: 1\n")
    plain = draw(found, tmp_path, PYTHONHASHSEED="1")
    other = draw(
        found,
        tmp_path,
        PYTHONHASHSEED="2",
        MPLCONFIGDIR="/proc/none",
        MATPLOTLIBRC=str(tmp_path / "matplotlibrc"),
    )
    assert (plain.returncode, plain.stderr, other.stderr) == (0, b"", b"")
    assert plain.stdout == other.stdout


@pytest.mark.slow
def test_three_runs_of_200_checkpoints_on_60_tasks_are_small_and_quick() -> None:
    found = [
        each
        for task in range(60)
        for run in "abc"
        for each in run_of(
            f"experiment-{run}",
            [0.5 + (step * 7919 % 200) / 1000 for step in range(200)],
            task=f"task_{task}",
            stderr=0.0123,
        )
    ]
    start = time.monotonic()
    drawn = list(figures.draw_curves(found))
    assert time.monotonic() - start < 20
    assert len(drawn) == 60
    assert sum(len(figure.svg.encode()) for figure in drawn) < 2_500_000
