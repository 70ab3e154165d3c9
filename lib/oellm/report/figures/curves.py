"""Charts of scores over training steps, one for each setting."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from oellm.core import display
from oellm.metrics.model_names import ModelName, fit_names
from oellm.metrics.score_groups import ScoreSetting
from oellm.report.figures.scores import FigureScore
from oellm.report.figures.svg import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    LegendEntry = tuple[Line2D | Patch, str]

# The largest number of training runs that a legend names (of more, it names the first and the
# last), and of baselines that a chart shows.
MOST_NAMED = 20
MOST_BASELINES = 5
# The largest number of points on a line with a marker at each, and of hollow markers on a line.
_MOST_MARKED = 25
# Okabe and Ito's colours for colour-blind readers, without yellow, which is invisible on white.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_BASELINES = (
    *((0, (1, 1.5)), (0, (4, 2)), (0, (6, 1.5, 1, 1.5)), (0, (8, 3))),
    (0, (3, 1, 1, 1, 1, 1)),
)
# The opacity of an error band.
_BAND = 0.18
# Inches. All charts have axes of the same size, however much room their legends need.
_WIDTH, _LEFT, _RIGHT, _TOP, _AXES_HEIGHT, _BELOW, _LINE = 4.6, 0.64, 0.2, 0.32, 2.3, 0.44, 0.16
# The number of letters that fit: in the title, in an axis' name, in one line of a legend, and in
# one label of a legend.
_TITLE, _AXIS, _LEGEND, _LABEL = 58, 30, 78, 44


class Chart(NamedTuple):
    """The content of one chart.

    Attributes:
        lines: scores by training run, in the order of their steps.
        baselines: scores of models without a step, at most MOST_BASELINES.
        n_left_out: the number of baselines that were left out.
    """

    setting: ScoreSetting
    lines: dict[ModelName, list[FigureScore]]
    baselines: list[FigureScore]
    n_left_out: int


class LineLook(NamedTuple):
    """How a line is drawn, in matplotlib's words."""

    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str


def make_charts(scores: Sequence[FigureScore]) -> Iterator[Chart]:
    """Yield a chart for each setting in which a training run has two steps or more."""
    by_setting: dict[ScoreSetting, list[FigureScore]] = {}
    for score in scores:
        by_setting.setdefault(score.setting, []).append(score)
    for setting, of_setting in by_setting.items():
        lines: dict[ModelName, list[FigureScore]] = {}
        for score in of_setting:
            if score.step is not None:
                lines.setdefault(score.run, []).append(score)
        for points in lines.values():
            points.sort(key=lambda score: score.step or 0)
        if any(points[0].step != points[-1].step for points in lines.values()):
            baselines = [score for score in of_setting if score.step is None]
            shown = baselines if len(baselines) <= MOST_BASELINES else []
            yield Chart(
                setting=setting,
                lines=lines,
                baselines=shown,
                n_left_out=len(baselines) - len(shown),
            )


def draw_chart(chart: Chart, title: str, all_charts: Sequence[Chart]) -> Drawing:
    """Return the drawing of a chart; a run has the same look and label in `all_charts`."""
    from matplotlib.figure import Figure as Drawing

    look_of = _looks(list(dict.fromkeys(run for each in all_charts for run in each.lines)))
    entries = _legend(chart, look_of, _labels(all_charts))
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
    # matplotlib leaves entries out of a legend if their labels start with an underscore.
    for text, (_, label) in zip(legend.get_texts(), entries, strict=True):
        text.set_text(label)
    return figure


def _labels(charts: Sequence[Chart]) -> dict[ModelName, str]:
    lines = (points for chart in charts for points in chart.lines.values())
    shown = [points[0] for points in lines]
    shown += [score for chart in charts for score in chart.baselines]
    return fit_names({score.run: score.label for score in shown}, _LABEL)


def _looks(runs: Sequence[ModelName]) -> dict[ModelName, LineLook]:
    if len(runs) <= MOST_NAMED:
        return {
            run: LineLook(
                colour=_COLOURS[place % len(_COLOURS)],
                dash=_DASHES[place // len(_COLOURS)],
                marker=_MARKERS[place % len(_MARKERS)],
            )
            for place, run in enumerate(runs)
        }
    import matplotlib
    from matplotlib.colors import to_hex

    # The end of the scale is invisible on white.
    shades = matplotlib.colormaps["viridis"]
    return {
        run: LineLook(to_hex(shades(0.9 * place / (len(runs) - 1))), dash="-", marker="o")
        for place, run in enumerate(runs)
    }


def _draw_line(axes: Axes, points: Sequence[FigureScore], look: LineLook) -> None:
    steps = [float(point.step or 0) for point in points]
    values = [point.value for point in points]
    # Points without a standard error have no band.
    stderrs = [math.nan if point.stderr is None else point.stderr for point in points]
    axes.fill_between(
        steps,
        [value - stderr for value, stderr in zip(values, stderrs, strict=True)],
        [value + stderr for value, stderr in zip(values, stderrs, strict=True)],
        facecolor=look.colour,
        alpha=_BAND,
        linewidth=0,
    )
    whole = [place for place, point in enumerate(points) if not point.is_partial]
    axes.plot(steps, values, **_line_style(look, points), markevery=whole)
    partial = [place for place, point in enumerate(points) if point.is_partial]
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


def _legend(
    chart: Chart, look_of: dict[ModelName, LineLook], labels: dict[ModelName, str]
) -> list[LegendEntry]:
    """Return the entries of a legend: a handle and a text each."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    points = [point for line in chart.lines.values() for point in line]
    entries: list[LegendEntry] = []
    if len(look_of) <= MOST_NAMED:
        for run, line in chart.lines.items():
            entries.append((Line2D([], [], **_line_style(look_of[run], line)), labels[run]))
    else:
        runs = [run for run in look_of if run in chart.lines]
        for run, which in ((runs[0], "first"), (runs[-1], "last")):
            handle = Line2D([], [], **_line_style(look_of[run], chart.lines[run]))
            entries.append((handle, f"{which} of {len(runs)} runs: {labels[run]}"))
    for number, score in enumerate(chart.baselines):
        entries.append((Line2D([], [], **_baseline_style(number)), labels[score.run]))
    if any(point.stderr is not None for point in points):
        entries.append((Patch(facecolor=INK, alpha=_BAND, linewidth=0), "± 1 standard error"))
    if any(point.is_partial for point in points):
        handle = Line2D([], [], **_hollow_style("o", INK))
        entries.append((handle, "some tasks missing"))
    if chart.n_left_out:
        text = f"{chart.n_left_out} baselines not shown"
        entries.append((Line2D([], [], linestyle="none"), text))
    return entries


def _line_style(look: LineLook, points: Sequence[FigureScore]) -> dict[str, Any]:
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
    """Return the number of columns in which the texts of a legend fit."""
    longest = max((display.text_width(text) for text in texts), default=0)
    # A column needs room for about eight letters beside its text.
    return max(1, min(3, len(texts), _LEGEND // (longest + 8)))
