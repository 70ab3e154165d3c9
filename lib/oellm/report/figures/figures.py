"""Figures of metric records, for a page or for a paper.

Each is drawn by matplotlib and comes as SVG: text is text, in the font and the colour of the page
around it, on no background, so that it goes with a light page and a dark one. Nothing in a figure
is looked up elsewhere, and the same records give the same bytes.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from oellm.core import atomic, display
from oellm.errors import InputError
from oellm.metrics import model_names
from oellm.metrics.records import MetricRecord
from oellm.report.figures import curves as figure_curves
from oellm.report.figures import heat_maps
from oellm.report.figures import scores as figure_scores
from oellm.report.figures import svg as figure_rendering
from oellm.report.figures.scores import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

# Letters of a model's name in a legend.
_LABEL = 44
# And of a figure's title for a page.
_TITLE = 120


class Figure(NamedTuple):
    """A figure for a page."""

    # Of a file without its suffix; no two of a report differ in capitals only.
    name: str
    title: str
    # `<svg>…</svg>`, with ids that start with `name`.
    svg: str


class _Plan(NamedTuple):
    """A figure that has a name and is not drawn yet."""

    name: str
    title: str
    draw: Callable[[], Drawing]


def curves(records: Iterable[MetricRecord]) -> Iterator[Figure]:
    """Yield a figure of scores over training steps for each task as it was evaluated.

    Of primary metrics, where a training run has two steps or more; all runs in one figure, in the
    same colours everywhere, models without a step as horizontal lines. Members of groups have
    figures of their own: leave out records with a `group` where those are not wanted.
    Raises MachineError where matplotlib is missing, like all functions here.
    """
    for plan in _curves(figure_scores.scores(records)):
        yield _figure(plan)


def language_map(records: Iterable[MetricRecord]) -> Figure | None:
    """Return a map of languages × models, with a panel for each family of tasks.

    A family are tasks whose names differ in the language only (`belebele_*`): scores of different
    tasks are not averaged. Of a training run the last step counts. None where no family has two
    languages.
    """
    plan = _language_map(figure_scores.scores(records))
    return _figure(plan) if plan else None


def heat_map(records: Iterable[MetricRecord]) -> Figure | None:
    """Return a map of tasks × models, each task in colours from its worst score to its best.

    Of a training run the last step counts; of a group that has a score, its members do not. None
    where there are no scores.
    """
    plan = _heat_map(figure_scores.scores(records))
    return _figure(plan) if plan else None


def save(
    records: Iterable[MetricRecord], directory: str | Path, formats: Sequence[str] = ("svg", "png")
) -> list[Path]:
    """Write all figures as files, SVG or PNG on white, and return their paths.

    In SVG text is text, too, so that it can be edited and set in a paper's own font. Raises
    InputError where the directory cannot be made.
    """
    root = Path(directory)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", os.fspath(directory)) from None
    scores = figure_scores.scores(records)
    maps = (_language_map(scores), _heat_map(scores))
    return [
        path
        for plan in (*_curves(scores), *(plan for plan in maps if plan))
        for path in _write(plan, root, formats)
    ]


def _curves(scores: Sequence[Score]) -> Iterator[_Plan]:
    charts = list(figure_curves.charts(scores))
    titles = figure_scores.titles(chart.setting for chart in charts)
    runs = list(dict.fromkeys(run for chart in charts for run in chart.lines))
    baselines = [score.model for chart in charts for score in chart.baselines]
    labels = model_names.model_labels([*runs, *baselines], _LABEL)
    names = FileNames()
    for chart in charts:
        title = display.shorten_middle(titles[chart.setting], _TITLE)
        draw = functools.partial(figure_curves.drawing, chart, title, runs, labels)
        yield _Plan(names.name("curve", titles[chart.setting]), title, draw)


def _language_map(scores: Sequence[Score]) -> _Plan | None:
    panels = heat_maps.language_panels(figure_scores.of_last_steps(scores))
    draw = functools.partial(heat_maps.drawing, panels)
    return _Plan("languages", "Languages × models", draw) if panels else None


def _heat_map(scores: Sequence[Score]) -> _Plan | None:
    panels = heat_maps.task_panels(figure_scores.of_last_steps(scores))
    draw = functools.partial(heat_maps.drawing, panels)
    return _Plan("tasks", "Tasks × models", draw) if panels else None


def _figure(plan: _Plan) -> Figure:
    with figure_rendering.style():
        svg = figure_rendering.svg_element(plan.draw(), plan.name, plan.title)
    return Figure(plan.name, plan.title, svg)


def _write(plan: _Plan, directory: Path, formats: Sequence[str]) -> Iterator[Path]:
    with figure_rendering.style():
        drawing = plan.draw()
        for form in formats:
            path = directory / f"{plan.name}.{form}"
            if form == "svg":
                content = figure_rendering.svg_file(drawing, plan.name, plan.title)
            else:
                content = figure_rendering.png(drawing)
            atomic.write_file(path, content)
            yield path


# Characters of a file's name, without its suffix.
_LONGEST_NAME = 100


class FileNames:
    """Names of files that every file system takes, no two the same but for capitals."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def name(self, kind: str, text: str = "") -> str:
        """Return `kind-text` with what is not a plain letter, digit, dot or underscore as `-`."""
        plain = re.sub(r"[^A-Za-z0-9._]+", "-", f"{kind} {text}").strip("-.")
        plain = plain[:_LONGEST_NAME].rstrip("-.")
        name, number = plain, 1
        while name.lower() in self._taken:
            number += 1
            ending = f"-{number}"
            name = plain[: _LONGEST_NAME - len(ending)] + ending
        self._taken.add(name.lower())
        return name
