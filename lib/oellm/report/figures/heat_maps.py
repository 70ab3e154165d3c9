"""Heat maps of scores: tasks × models, and languages × models for each family of tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from oellm.core import display
from oellm.metrics.model_names import ModelName, fit_names
from oellm.metrics.score_groups import ScoreSetting
from oellm.report.figures.scores import FigureScore, drop_members, setting_titles
from oellm.report.figures.svg import INK
from oellm.tasks.languages import Language, mark_language

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

# The largest number of columns that leaves room for values in the cells.
_MOST_WITH_VALUES = 24
# Inches: a cell with and without its value, the widest letter, and the parts around a panel.
_CELL, _NARROW_CELL, _CELL_HEIGHT, _LETTER = 0.43, 0.17, 0.2, 0.066
_TITLE_HEIGHT, _CAPTION_HEIGHT, _GAP, _EDGE = 0.26, 0.28, 0.16, 0.08
# The width of a figure, in inches. Panels that do not fit beside each other go below.
_WIDTH = 7.2
# The longest names of rows, columns and metrics, in letters.
_ROW, _COLUMN, _METRIC = 44, 28, 20
# From light yellow to dark blue, which colour-blind readers and black-and-white prints tell apart.
_COLOURS = "YlGnBu"
# From this rank on, white text is easier to read than black.
_DARK = 0.75


class MapCell(NamedTuple):
    """One score of a map.

    Attributes:
        rank: from 0, the worst of the scores that it is compared with, to 1, the best.
    """

    value: float
    rank: float
    is_partial: bool


class MapPanel(NamedTuple):
    """A map: the names of its rows and columns, and cells by row and column."""

    title: str
    caption: str
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[int, int], MapCell]


def make_task_panels(scores: Sequence[FigureScore]) -> list[MapPanel]:
    """Return the map of tasks × models, in which each task is compared only with itself."""
    shown = drop_members(scores)
    # Titles lack the metric, which is behind each of them with its direction.
    titles = setting_titles((each.setting for each in shown), ("filter", "eval_suite"))
    tasks = list(dict.fromkeys(setting.task for setting in titles))
    columns = _columns(shown)
    rows, cells = [], {}
    for place, setting in enumerate(sorted(titles, key=lambda each: tasks.index(each.task))):
        row = [score for score in shown if score.setting == setting]
        metric = f", {_metric(setting, row)}"
        room = _ROW - display.text_width(metric)
        rows.append(display.shorten_middle(titles[setting], room) + metric)
        for score, cell in zip(row, _cells(row), strict=True):
            cells[place, columns.index(score.model)] = cell
    caption = "darker is better, within each row"
    if not cells:
        return []
    names = _column_names(columns, shown)
    return [MapPanel(title="", caption=caption, rows=rows, columns=names, cells=cells)]


def make_language_panels(
    scores: Sequence[FigureScore], known: Mapping[str, Language]
) -> list[MapPanel]:
    """Return a map of languages × models for each family of tasks with two languages or more.

    The names of a family's tasks differ only in the language. `known` has languages by their codes.
    """
    families: dict[ScoreSetting, dict[str, str]] = {}
    members: dict[ScoreSetting, list[FigureScore]] = {}
    for score in drop_members(scores):
        if not score.language:
            continue
        task = score.setting.task
        family = score.setting._replace(task=mark_language(task, score.language, known))
        # A second task of the family in the same language stays out of the family.
        if families.setdefault(family, {}).setdefault(score.language, task) != task:
            family = score.setting
        members.setdefault(family, []).append(score)
    several = {
        family: of_family
        for family, of_family in members.items()
        if len({score.language for score in of_family}) > 1
    }
    shown = [score for of_family in several.values() for score in of_family]
    rows, columns = sorted({score.language for score in shown}), _columns(shown)
    titles, names = setting_titles(several), _column_names(columns, shown)
    panels = []
    for family, of_family in several.items():
        places = [(rows.index(score.language), columns.index(score.model)) for score in of_family]
        cells = dict(zip(places, _cells(of_family), strict=True))
        caption = f"{_metric(family, of_family)}, darker is better"
        lines = [display.shorten_middle(language, _ROW) for language in rows]
        panels.append(
            MapPanel(title=titles[family], caption=caption, rows=lines, columns=names, cells=cells)
        )
    return panels


def draw_panels(panels: Sequence[MapPanel]) -> Drawing:
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


class _PanelLayout(NamedTuple):
    """The layout of a figure of panels; lengths are inches.

    Attributes:
        has_values: whether cells show their values.
        left: the room beside a panel for the names of rows.
        slant: the room above a panel for the names of columns.
        above: the same with the room for a title.
        width: the width of a panel's cells.
        height: the height of a panel's cells.
        room: from one panel to the next on the right.
        line: from one panel to the next below.
        per_line: the number of panels side by side.
    """

    has_values: bool
    left: float
    slant: float
    above: float
    width: float
    height: float
    room: float
    line: float
    per_line: int


def _layout(panels: Sequence[MapPanel]) -> _PanelLayout:
    rows, columns = panels[0].rows, panels[0].columns
    has_values = len(columns) <= _MOST_WITH_VALUES
    left = 2 * _EDGE + _LETTER * max(map(display.text_width, rows))
    slant = _LETTER * max(map(display.text_width, columns)) * math.sqrt(0.5) + 2 * _EDGE
    above = slant + (_TITLE_HEIGHT if panels[0].title else 0)
    width = len(columns) * (_CELL if has_values else _NARROW_CELL)
    height = len(rows) * _CELL_HEIGHT
    # The caption below a panel of one column is wider than the panel.
    room = max(width, _LETTER * max(len(_caption(panel)) for panel in panels)) + _GAP
    per_line = max(1, min(len(panels), int((_WIDTH - left) // room)))
    line = above + height + _CAPTION_HEIGHT
    return _PanelLayout(
        has_values=has_values,
        left=left,
        slant=slant,
        above=above,
        width=width,
        height=height,
        room=room,
        line=line,
        per_line=per_line,
    )


def _draw(axes: Axes, panel: MapPanel, layout: _PanelLayout, *, with_names: bool) -> None:
    import matplotlib
    from matplotlib.collections import PolyCollection

    n_rows, n_columns = len(panel.rows), len(panel.columns)
    axes.set_xlim(0, n_columns)
    axes.set_ylim(n_rows, 0)
    axes.set_axis_off()
    colours = matplotlib.colormaps[_COLOURS]
    corners = [[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)] for y, x in panel.cells]
    # Without the ends of the scale, which are white and black.
    shades = [colours(0.08 + 0.8 * cell.rank) for cell in panel.cells.values()]
    axes.add_collection(PolyCollection(corners, facecolors=shades, linewidths=0))
    for (y, x), cell in panel.cells.items():
        text = _format_value(cell.value) if layout.has_values else ""
        text += "*" if cell.is_partial else ""
        colour = "#ffffff" if cell.rank > _DARK else "#1a1a1a"
        if text:
            axes.text(
                x + 0.5, y + 0.5, text, color=colour, fontsize=7, ha="center", va="center_baseline"
            )
    for x, name in enumerate(panel.columns):
        style: dict[str, Any] = {"rotation": 45, "rotation_mode": "anchor", "fontsize": 8}
        axes.text(x + 0.5, -_EDGE / _CELL_HEIGHT, name, ha="left", va="baseline", **style)
    if with_names:
        # Coordinates are in units of cells.
        beside = -_EDGE * n_columns / layout.width
        for y, name in enumerate(panel.rows):
            axes.text(beside, y + 0.5, name, fontsize=8, ha="right", va="center_baseline")
    title = display.shorten_middle(panel.title, int(layout.room / _LETTER))
    axes.text(0, -(layout.slant + _EDGE) / _CELL_HEIGHT, title, fontsize=9)
    axes.text(0, n_rows + 0.85, _caption(panel), fontsize=7, color=INK)


def _format_value(value: float) -> str:
    """Return a value in about three digits, which fit into a cell."""
    if abs(value) >= 1000:
        return display.format_thousands(float(f"{value:.3g}"))
    return f"{value:.{3 if abs(value) < 10 else 1}f}"


def _caption(panel: MapPanel) -> str:
    partial = any(cell.is_partial for cell in panel.cells.values())
    return panel.caption + ("; * some tasks missing" if partial else "")


def _cells(scores: Sequence[FigureScore]) -> list[MapCell]:
    """Return the cells of scores that are compared with each other."""
    values = [-score.value if score.higher_is_better is False else score.value for score in scores]
    worst, best = min(values), max(values)
    return [
        MapCell(
            value=score.value,
            rank=(value - worst) / (best - worst) if best > worst else 0.5,
            is_partial=score.is_partial,
        )
        for score, value in zip(scores, values, strict=True)
    ]


def _metric(setting: ScoreSetting, scores: Sequence[FigureScore]) -> str:
    """Return the name of a metric with its direction."""
    arrow = {True: " ↑", False: " ↓", None: ""}[scores[0].higher_is_better]
    return display.shorten_middle(setting.metric, _METRIC) + arrow


def _columns(scores: Sequence[FigureScore]) -> list[ModelName]:
    return list(dict.fromkeys(score.model for score in scores))


def _column_names(columns: Sequence[ModelName], scores: Sequence[FigureScore]) -> list[str]:
    """Return the names of columns; a training run has its step behind its name."""
    by_model = {score.model: score for score in scores}
    labels = fit_names(
        {each.run: each.label for each in map(by_model.__getitem__, columns)}, _COLUMN
    )
    names = []
    for score in map(by_model.__getitem__, columns):
        step = "" if score.step is None else f" @{display.format_thousands(score.step)}"
        names.append(labels[score.run] + step)
    return names
