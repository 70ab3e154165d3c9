"""Maps of scores: tasks × models, and languages × models for each family of tasks."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from oellm.core import display
from oellm.metrics import model_names
from oellm.report.figures import scores as figure_scores
from oellm.report.figures.scores import Score, Setting
from oellm.report.figures.svg import INK
from oellm.tasks import languages, suites
from oellm.tasks.languages import Language

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

# Columns up to which there is room for values in the cells.
_MOST_WITH_VALUES = 24
# Inches: of a cell, with its value and without, and of a letter at most; of what is around panels.
_CELL, _NARROW_CELL, _CELL_HEIGHT, _LETTER = 0.43, 0.17, 0.2, 0.066
_TITLE_HEIGHT, _CAPTION_HEIGHT, _GAP, _EDGE = 0.26, 0.28, 0.16, 0.08
# The width from which on panels go below each other.
_WIDTH = 7.2
# Letters of the names of rows, columns and metrics.
_ROW, _COLUMN, _METRIC = 44, 28, 20
# From a light yellow to a dark blue: told apart by colour-blind readers, and in grey.
_COLOURS = "YlGnBu"
# The rank from which on white can be read better on it than black.
_DARK = 0.75


class Cell(NamedTuple):
    """One score of a map."""

    value: float
    # From 0, the worst of those that it is compared with, to 1, the best.
    rank: float
    partial: bool


class Panel(NamedTuple):
    """A map: names of its rows and columns, and cells by the places of these."""

    title: str
    caption: str
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[int, int], Cell]


def task_panels(scores: Sequence[Score]) -> list[Panel]:
    """Return the map of tasks × models, in which each task is compared with itself only."""
    found = figure_scores.of_whole_groups(scores)
    # The metric is behind each name, with its direction.
    titles = figure_scores.titles((s.setting for s in found), ("filter", "eval_suite"))
    tasks = list(dict.fromkeys(setting.task for setting in titles))
    columns = _columns(found)
    rows, cells = [], {}
    for place, setting in enumerate(sorted(titles, key=lambda each: tasks.index(each.task))):
        row = [score for score in found if score.setting == setting]
        metric = f", {_metric(setting, row)}"
        room = _ROW - display.text_width(metric)
        rows.append(display.shorten_middle(titles[setting], room) + metric)
        for score, cell in zip(row, _cells(row), strict=True):
            cells[place, columns.index(score.model)] = cell
    caption = "darker is better, within each row"
    return [Panel("", caption, rows, _column_names(columns, found), cells)] if cells else []


def language_panels(scores: Sequence[Score]) -> list[Panel]:
    """Return a map of languages × models for each family of tasks that has two languages or more.

    A family are tasks whose names differ in the language only.
    """
    known = suites.known((), os.environ).languages
    families: dict[Setting, dict[str, str]] = {}
    members: dict[Setting, list[Score]] = {}
    for score in figure_scores.of_whole_groups(scores):
        if not score.language:
            continue
        task = score.setting.task
        family = score.setting._replace(task=_family(task, score.language, known))
        # Of two tasks in one language, which their names do not tell apart, one is on its own.
        if families.setdefault(family, {}).setdefault(score.language, task) != task:
            family = score.setting
        members.setdefault(family, []).append(score)
    several = {
        family: found
        for family, found in members.items()
        if len({score.language for score in found}) > 1
    }
    shown = [score for found in several.values() for score in found]
    rows, columns = sorted({score.language for score in shown}), _columns(shown)
    titles, names = figure_scores.titles(several), _column_names(columns, shown)
    panels = []
    for family, found in several.items():
        places = [(rows.index(score.language), columns.index(score.model)) for score in found]
        cells = dict(zip(places, _cells(found), strict=True))
        caption = f"{_metric(family, found)}, darker is better"
        lines = [display.shorten_middle(language, _ROW) for language in rows]
        panels.append(Panel(titles[family], caption, lines, names, cells))
    return panels


def drawing(panels: Sequence[Panel]) -> Drawing:
    """Return the drawing of panels that have the same rows and columns, side by side."""
    from matplotlib.figure import Figure as Drawing

    layout = _layout(panels)
    n_lines = math.ceil(len(panels) / layout.per_line)
    overhang = max(layout.slant, layout.room - layout.width)
    figure_width = layout.left + (layout.per_line - 1) * layout.room + layout.width + overhang
    figure_height = n_lines * layout.line
    figure = Drawing(figsize=(figure_width, figure_height))
    for number, panel in enumerate(panels):
        down, across = divmod(number, layout.per_line)
        bottom = figure_height - down * layout.line - layout.above - layout.height
        axes = figure.add_axes(
            (
                (layout.left + across * layout.room) / figure_width,
                bottom / figure_height,
                layout.width / figure_width,
                layout.height / figure_height,
            )
        )
        _draw(axes, panel, layout, with_names=across == 0)
    return figure


class _Layout(NamedTuple):
    """Inches of what is in a figure of panels."""

    has_values: bool
    # Beside a panel, for the names of rows; above it, for those of columns, and for its title too.
    left: float
    slant: float
    above: float
    # Of a panel's cells.
    width: float
    height: float
    # From one panel to the next, to the right and down; and how many are side by side.
    room: float
    line: float
    per_line: int


def _layout(panels: Sequence[Panel]) -> _Layout:
    rows, columns = panels[0].rows, panels[0].columns
    has_values = len(columns) <= _MOST_WITH_VALUES
    left = 2 * _EDGE + _LETTER * max(map(display.text_width, rows))
    slant = _LETTER * max(map(display.text_width, columns)) * math.sqrt(0.5) + 2 * _EDGE
    above = slant + (_TITLE_HEIGHT if panels[0].title else 0)
    width = len(columns) * (_CELL if has_values else _NARROW_CELL)
    height = len(rows) * _CELL_HEIGHT
    # A panel of one column is narrower than what is written below it.
    room = max(width, _LETTER * max(len(_caption(panel)) for panel in panels)) + _GAP
    per_line = max(1, min(len(panels), int((_WIDTH - left) // room)))
    line = above + height + _CAPTION_HEIGHT
    return _Layout(has_values, left, slant, above, width, height, room, line, per_line)


def _draw(axes: Axes, panel: Panel, layout: _Layout, *, with_names: bool) -> None:
    import matplotlib
    from matplotlib.collections import PolyCollection

    n_rows, n_columns = len(panel.rows), len(panel.columns)
    axes.set_xlim(0, n_columns)
    axes.set_ylim(n_rows, 0)
    axes.set_axis_off()
    colours = matplotlib.colormaps[_COLOURS]
    corners = [[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)] for y, x in panel.cells]
    # The ends of the scale are left out: one is white, the other black.
    shades = [colours(0.08 + 0.8 * cell.rank) for cell in panel.cells.values()]
    axes.add_collection(PolyCollection(corners, facecolors=shades, linewidths=0))
    for (y, x), cell in panel.cells.items():
        text = value_text(cell.value) if layout.has_values else ""
        text += "*" if cell.partial else ""
        colour = "#ffffff" if cell.rank > _DARK else "#1a1a1a"
        if text:
            axes.text(
                x + 0.5, y + 0.5, text, color=colour, fontsize=7, ha="center", va="center_baseline"
            )
    for x, name in enumerate(panel.columns):
        style: dict[str, Any] = {"rotation": 45, "rotation_mode": "anchor", "fontsize": 8}
        axes.text(x + 0.5, -_EDGE / _CELL_HEIGHT, name, ha="left", va="baseline", **style)
    if with_names:
        # Distances are in the units of cells.
        beside = -_EDGE * n_columns / layout.width
        for y, name in enumerate(panel.rows):
            axes.text(beside, y + 0.5, name, fontsize=8, ha="right", va="center_baseline")
    title = display.shorten_middle(panel.title, int(layout.room / _LETTER))
    axes.text(0, -(layout.slant + _EDGE) / _CELL_HEIGHT, title, fontsize=9)
    axes.text(0, n_rows + 0.85, _caption(panel), fontsize=7, color=INK)


def value_text(value: float) -> str:
    """Return a value with three digits or so, as a cell has room for."""
    if abs(value) >= 1000:
        return display.format_thousands(float(f"{value:.3g}"))
    return f"{value:.{3 if abs(value) < 10 else 1}f}"


def _caption(panel: Panel) -> str:
    partial = any(cell.partial for cell in panel.cells.values())
    return panel.caption + ("; * some tasks missing" if partial else "")


def _cells(scores: Sequence[Score]) -> list[Cell]:
    """Return the cells of scores that are compared with each other."""
    values = [-score.value if score.higher_is_better is False else score.value for score in scores]
    worst, best = min(values), max(values)
    return [
        Cell(score.value, (value - worst) / (best - worst) if best > worst else 0.5, score.partial)
        for score, value in zip(scores, values, strict=True)
    ]


def _metric(setting: Setting, scores: Sequence[Score]) -> str:
    """Return the name of a metric with its direction."""
    arrow = {True: " ↑", False: " ↓", None: ""}[scores[0].higher_is_better]
    return display.shorten_middle(setting.metric, _METRIC) + arrow


def _columns(scores: Sequence[Score]) -> list[str]:
    return list(dict.fromkeys(score.model for score in scores))


def _column_names(columns: Sequence[str], scores: Sequence[Score]) -> list[str]:
    """Return what columns are called: a training run has its step behind its name."""
    by_model = {score.model: score for score in scores}
    runs = [by_model[model].run for model in columns]
    labels = model_names.model_labels(runs, _COLUMN)
    return [
        labels[run]
        + ("" if (step := by_model[model].step) is None else f" @{display.format_thousands(step)}")
        for model, run in zip(columns, runs, strict=True)
    ]


def _family(task: str, language: str, known: dict[str, Language]) -> str:
    """Return a task's name with `*` in place of its language, the last one that it spells."""
    spellings = [language.lower(), language.lower().partition("_")[0]]
    if language in known:
        spellings += languages.spellings(known[language])
    either = "|".join(map(re.escape, sorted(spellings, key=len, reverse=True)))
    found = list(re.finditer(rf"(?<![^\W_])(?:{either})(?![^\W_])", task, re.IGNORECASE))
    return f"{task[: found[-1].start()]}*{task[found[-1].end() :]}" if found else task
