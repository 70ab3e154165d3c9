"""Scores over training steps: one chart for each task as it was evaluated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from oellm.core import display
from oellm.report.figures.scores import Score, Setting
from oellm.report.figures.svg import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    Entry = tuple[Line2D | Patch, str]

# Training runs and baselines that a legend names; of more runs, the first and the last.
MOST_NAMED = 20
MOST_BASELINES = 5
# Points of a line that has a marker at each, and hollow markers of one line.
_MOST_MARKED = 25
# Okabe and Ito's colours for colour-blind readers, without the yellow that white paper swallows.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_BASELINES = (
    *((0, (1, 1.5)), (0, (4, 2)), (0, (6, 1.5, 1, 1.5)), (0, (8, 3))),
    (0, (3, 1, 1, 1, 1, 1)),
)
# How much of a line's colour its band has.
_BAND = 0.18
# Inches: all charts have axes of the same size, whatever their legends need.
_WIDTH, _LEFT, _RIGHT, _TOP, _AXES_HEIGHT, _BELOW, _LINE = 4.6, 0.64, 0.2, 0.32, 2.3, 0.44, 0.16
# Letters that fit: of the title, of an axis' name, of a legend in one line.
_TITLE, _AXIS, _LEGEND = 58, 30, 78


class Chart(NamedTuple):
    """What one chart shows."""

    setting: Setting
    # By training run, in the order of their steps.
    lines: dict[str, list[Score]]
    # Of models without a step, at most MOST_BASELINES.
    baselines: list[Score]
    # Baselines that were left out.
    n_left_out: int


class Look(NamedTuple):
    """How a line is drawn."""

    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str


def charts(scores: Sequence[Score]) -> Iterator[Chart]:
    """Yield a chart for each setting in which a training run has two steps or more."""
    by_setting: dict[Setting, list[Score]] = {}
    for score in scores:
        by_setting.setdefault(score.setting, []).append(score)
    for setting, found in by_setting.items():
        lines: dict[str, list[Score]] = {}
        for score in found:
            if score.step is not None:
                lines.setdefault(score.run, []).append(score)
        for points in lines.values():
            points.sort(key=lambda score: score.step or 0)
        if any(points[0].step != points[-1].step for points in lines.values()):
            baselines = [score for score in found if score.step is None]
            shown = baselines if len(baselines) <= MOST_BASELINES else []
            yield Chart(setting, lines, shown, len(baselines) - len(shown))


def drawing(chart: Chart, title: str, runs: Sequence[str], labels: dict[str, str]) -> Drawing:
    """Return the drawing of a chart.

    `runs` are those of all charts, so that each looks the same everywhere; `labels` names runs and
    baselines.
    """
    from matplotlib.figure import Figure as Drawing

    look_of = _looks(runs)
    entries = _legend(chart, look_of, labels)
    n_columns = _columns([text for _, text in entries])
    below = _BELOW + _LINE * math.ceil(len(entries) / n_columns) + 0.06
    height = _TOP + _AXES_HEIGHT + below
    figure = Drawing(figsize=(_WIDTH, height))
    place = (_LEFT / _WIDTH, below / height, 1 - (_LEFT + _RIGHT) / _WIDTH, _AXES_HEIGHT / height)
    axes = figure.add_axes(place)
    for run, points in chart.lines.items():
        _draw_line(axes, points, look_of[run])
    for number, score in enumerate(chart.baselines):
        axes.axhline(score.value, **_baseline_style(number))
    _dress(axes, chart)
    axes.set_title(
        display.shorten_middle(title, _TITLE), x=(0.06 - _LEFT) / (_WIDTH - _LEFT - _RIGHT)
    )
    legend = figure.legend(
        [handle for handle, _ in entries],
        ["·"] * len(entries),
        loc="lower left",
        bbox_to_anchor=(0.02, 0),
        ncols=n_columns,
        borderaxespad=0.3,
        handlelength=2.2,
        columnspacing=1.4,
        labelspacing=0.25,
    )
    # A legend leaves out what it is given as a label that starts with an underscore.
    for text, (_, label) in zip(legend.get_texts(), entries, strict=True):
        text.set_text(label)
    return figure


def _looks(runs: Sequence[str]) -> dict[str, Look]:
    if len(runs) <= MOST_NAMED:
        return {
            run: Look(
                _COLOURS[place % len(_COLOURS)],
                _DASHES[place // len(_COLOURS)],
                _MARKERS[place % len(_MARKERS)],
            )
            for place, run in enumerate(runs)
        }
    import matplotlib
    from matplotlib.colors import to_hex

    # Not up to its end, which white paper swallows.
    shades = matplotlib.colormaps["viridis"]
    return {
        run: Look(to_hex(shades(0.9 * place / (len(runs) - 1))), "-", "o")
        for place, run in enumerate(runs)
    }


def _draw_line(axes: Axes, points: Sequence[Score], look: Look) -> None:
    steps = [float(point.step or 0) for point in points]
    values = [point.value for point in points]
    # Where there is no standard error, there is no band.
    stderrs = [math.nan if point.stderr is None else point.stderr for point in points]
    axes.fill_between(
        steps,
        [value - stderr for value, stderr in zip(values, stderrs, strict=True)],
        [value + stderr for value, stderr in zip(values, stderrs, strict=True)],
        facecolor=look.colour,
        alpha=_BAND,
        linewidth=0,
    )
    whole = [place for place, point in enumerate(points) if not point.partial]
    axes.plot(steps, values, **_line_style(look, points), markevery=whole)
    partial = [place for place, point in enumerate(points) if point.partial]
    shown = partial[:: math.ceil(len(partial) / _MOST_MARKED) or 1]
    axes.plot(
        [steps[place] for place in shown],
        [values[place] for place in shown],
        **_hollow_style(look.marker, look.colour),
    )


def _dress(axes: Axes, chart: Chart) -> None:
    """Give the axes their names, limits and ticks."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    directions = {True: "  (↑ better)", False: "  (↓ better)", None: ""}
    direction = next(iter(chart.lines.values()))[0].higher_is_better
    axes.set_xlabel("training step")
    axes.set_ylabel(display.shorten_middle(chart.setting.metric, _AXIS) + directions[direction])
    axes.margins(x=0.02, y=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=4))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda number, _: display.format_thousands(number)))
    axes.grid(axis="y", color=INK, alpha=0.15, linewidth=0.5)
    axes.set_axisbelow(True)


def _legend(chart: Chart, look_of: dict[str, Look], labels: dict[str, str]) -> list[Entry]:
    """Return what a legend shows: a handle and a text each."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    points = [point for line in chart.lines.values() for point in line]
    entries: list[Entry] = []
    if len(look_of) <= MOST_NAMED:
        for run, line in chart.lines.items():
            entries.append((Line2D([], [], **_line_style(look_of[run], line)), labels[run]))
    else:
        runs = [run for run in look_of if run in chart.lines]
        for run, which in ((runs[0], "first"), (runs[-1], "last")):
            handle = Line2D([], [], **_line_style(look_of[run], chart.lines[run]))
            entries.append((handle, f"{which} of {len(runs)} runs: {labels[run]}"))
    for number, score in enumerate(chart.baselines):
        entries.append((Line2D([], [], **_baseline_style(number)), labels[score.model]))
    if any(point.stderr is not None for point in points):
        entries.append((Patch(facecolor=INK, alpha=_BAND, linewidth=0), "± 1 standard error"))
    if any(point.partial for point in points):
        handle = Line2D([], [], **_hollow_style("o", INK))
        entries.append((handle, "some tasks missing"))
    if chart.n_left_out:
        text = f"{chart.n_left_out} baselines not shown"
        entries.append((Line2D([], [], linestyle="none"), text))
    return entries


def _line_style(look: Look, points: Sequence[Score]) -> dict[str, Any]:
    marker = look.marker if len(points) <= _MOST_MARKED else ""
    width = {"linewidth": 1.2, "markersize": 3.2}
    return {"color": look.colour, "linestyle": look.dash, "marker": marker, **width}


def _hollow_style(marker: str, colour: str) -> dict[str, Any]:
    edge = {"markeredgecolor": colour, "markeredgewidth": 0.9}
    return {
        "linestyle": "none",
        "marker": marker,
        "markersize": 4.4,
        "markerfacecolor": "none",
    } | edge


def _baseline_style(number: int) -> dict[str, Any]:
    return {"color": INK, "linestyle": _BASELINES[number], "linewidth": 0.9, "alpha": 0.75}


def _columns(texts: Sequence[str]) -> int:
    """Return in how many columns the texts of a legend fit."""
    longest = max((display.text_width(text) for text in texts), default=0)
    # Besides its text, a column needs the room of about eight letters.
    return max(1, min(3, len(texts), _LEGEND // (longest + 8)))
