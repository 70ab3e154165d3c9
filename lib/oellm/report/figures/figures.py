"""Figures of metric records, for a page or for a paper.

matplotlib draws them. In a page they are SVG whose text is text, in the font and the colour of the
page around it, on no background, so that they suit a light page and a dark one. Figures refer to
nothing outside themselves, and the same records give the same bytes.

All functions raise MachineError if matplotlib is missing.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from oellm.core import atomic, display
from oellm.errors import InputError
from oellm.metrics.records import MetricRecord
from oellm.report.figures import curves, heat_maps, svg
from oellm.report.figures.scores import (
    FigureScore,
    read_scores,
    select_last_steps,
    setting_titles,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from oellm.tasks.languages import Language

# The longest title of a figure, in letters.
_TITLE = 120


class PageFigure(NamedTuple):
    """A figure for a page.

    Attributes:
        name: a file name without its suffix; the names of a report differ not only in capitals.
        svg: `<svg>…</svg>`, with ids that start with `name`.
    """

    name: str
    title: str
    svg: str


class _PlannedFigure(NamedTuple):
    """A figure that is not drawn yet."""

    name: str
    title: str
    draw: Callable[[], Drawing]


def draw_curves(records: Iterable[MetricRecord]) -> Iterator[PageFigure]:
    """Yield a figure of scores over training steps for each setting.

    A setting has one if a training run has two steps or more in it. All runs are in one figure, in
    the same colours in all figures; models without a step are horizontal lines. Members of groups
    have figures of their own: leave out records with a `group` if you do not want those.
    """
    for plan in _plan_curves(read_scores(records)):
        yield _draw_for_page(plan)


def draw_language_map(
    records: Iterable[MetricRecord], languages: Mapping[str, Language]
) -> PageFigure | None:
    """Return a map of languages × models, with a panel for each family of tasks.

    The names of a family's tasks differ only in the language (`belebele_*`); scores of different
    tasks are not averaged. `languages` are those known, by their codes. Of a training run the last
    step counts. Returns None if no family has two languages.
    """
    plan = _plan_language_map(read_scores(records), languages)
    return _draw_for_page(plan) if plan else None


def save_figures(
    records: Iterable[MetricRecord],
    directory: str | Path,
    languages: Mapping[str, Language],
    formats: Sequence[str] = ("svg", "png"),
) -> list[Path]:
    """Write all figures as files, SVG or PNG on white, and return their paths.

    These are the curves, the map of languages × models, and one of tasks × models. Text in SVG is
    text, so that it can be edited and set in a paper's own font. Raises InputError if the directory
    cannot be made.
    """
    root = Path(directory)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", os.fspath(directory)) from None
    scores = read_scores(records)
    maps = (_plan_language_map(scores, languages), _plan_task_map(scores))
    return [
        path
        for plan in (*_plan_curves(scores), *(plan for plan in maps if plan))
        for path in _write_files(plan, root, formats)
    ]


def _plan_curves(scores: Sequence[FigureScore]) -> Iterator[_PlannedFigure]:
    charts = list(curves.make_charts(scores))
    titles = setting_titles(chart.setting for chart in charts)
    names = FileNames()
    for chart in charts:
        title = display.shorten_middle(titles[chart.setting], _TITLE)
        draw = functools.partial(curves.draw_chart, chart, title, all_charts=charts)
        yield _PlannedFigure(names.choose("curve", titles[chart.setting]), title, draw)


def _plan_language_map(
    scores: Sequence[FigureScore], languages: Mapping[str, Language]
) -> _PlannedFigure | None:
    panels = heat_maps.make_language_panels(select_last_steps(scores), languages)
    draw = functools.partial(heat_maps.draw_panels, panels)
    return _PlannedFigure("languages", "Languages × models", draw) if panels else None


def _plan_task_map(scores: Sequence[FigureScore]) -> _PlannedFigure | None:
    panels = heat_maps.make_task_panels(select_last_steps(scores))
    draw = functools.partial(heat_maps.draw_panels, panels)
    return _PlannedFigure("tasks", "Tasks × models", draw) if panels else None


def _draw_for_page(plan: _PlannedFigure) -> PageFigure:
    with svg.drawing_style():
        content = svg.render_element(plan.draw(), plan.name, plan.title)
    return PageFigure(plan.name, plan.title, content)


def _write_files(plan: _PlannedFigure, directory: Path, formats: Sequence[str]) -> Iterator[Path]:
    with svg.drawing_style():
        drawing = plan.draw()
        for form in formats:
            path = directory / f"{plan.name}.{form}"
            if form == "svg":
                content = svg.render_file(drawing, plan.name, plan.title)
            else:
                content = svg.render_png(drawing)
            atomic.write_file(path, content)
            yield path


# The longest name of a file without its suffix, in characters.
_LONGEST_NAME = 100


class FileNames:
    """Chooses file names that every file system takes; no two differ in capitals alone."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def choose(self, kind: str, text: str = "") -> str:
        """Return `kind-text` with `-` for all but plain letters, digits, dots and underscores."""
        plain = re.sub(r"[^A-Za-z0-9._]+", "-", f"{kind} {text}").strip("-.")
        plain = plain[:_LONGEST_NAME].rstrip("-.")
        name, number = plain, 1
        while name.lower() in self._taken:
            number += 1
            ending = f"-{number}"
            name = plain[: _LONGEST_NAME - len(ending)] + ending
        self._taken.add(name.lower())
        return name
