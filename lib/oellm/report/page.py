"""The report: an HTML page of metric records that needs no network."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from oellm import __version__
from oellm.core.display import format_count, format_duration
from oellm.core.log import Log
from oellm.core.paths import data_file
from oellm.metrics.comparability import describe_limits
from oellm.metrics.model_names import ModelName, describe_left_out, short_names
from oellm.metrics.records import MetricRecord
from oellm.metrics.score_groups import select_primary
from oellm.report.leaderboard import LEVELS, Board, make_boards, make_language_boards
from oellm.report.runs import RunFacts, UnreadableRun
from oellm.status.row_titles import model_of

if TYPE_CHECKING:
    from oellm.report.figures.figures import PageFigure
    from oellm.tasks.languages import Language


# The largest number of a board's columns that fits into a page of text.
_NARROW = 9


class PageFigures(NamedTuple):
    """The figures of a page.

    Attributes:
        curves: scores over training steps.
        language_map: languages × models; None if the records have too few languages.
    """

    curves: Sequence[PageFigure]
    language_map: PageFigure | None


class PageContents(NamedTuple):
    """The contents of a page.

    Attributes:
        languages: the known languages by their codes.
    """

    title: str
    records: Sequence[MetricRecord]
    runs: Sequence[RunFacts | UnreadableRun]
    figures: PageFigures
    languages: dict[str, Language]


def render_page(contents: PageContents, log: Log) -> str:
    """Return the page: HTML with its style, script and figures in it.

    `log` gets what the reader of the page must know, too: limits, and columns of scores that cannot
    be compared.

    Texts of records and runs are escaped, whatever they look like. A policy in the page lets a
    browser run only the page's own script, and load nothing.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_file("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    environment.filters.update(moment=_moment, duration=format_duration, counted=format_count)
    tables = _tables(contents)
    for text in _warnings(tables["boards"]):
        log(text)
    script = data_file("templates", "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        title=contents.title,
        runs=contents.runs,
        **contents.figures._asdict(),
        **tables,
        known_runs=[run for run in contents.runs if isinstance(run, RunFacts)],
        unreadable_runs=[run for run in contents.runs if isinstance(run, UnreadableRun)],
        made=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        version=__version__,
        several_suites=len({record.eval_suite for record in contents.records}) > 1,
        levels=LEVELS,
        css=data_file("templates", "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
    )


def _tables(contents: PageContents) -> dict[str, Any]:
    primary = select_primary(contents.records)
    # A model has one name on the whole page.
    scored = dict.fromkeys(ModelName(each.model_path, each.model_revision) for each in primary)
    names = short_names([*scored, *_unfinished_models(contents.runs)])
    boards = make_boards(primary, names)
    language_boards = make_language_boards(primary, names, contents.languages)
    cells = [cell for board in boards for line in board.lines for cell in line.cells if cell]
    tasks = {column.setting.task for board in boards for column in board.main_columns}
    return {
        "boards": boards,
        "language_boards": language_boards,
        "is_wide": any(len(board.columns) > _NARROW for board in (*boards, *language_boards)),
        "names": names,
        "model_of": model_of,
        "n_models": len(scored),
        "left_out": describe_left_out(names),
        "n_tasks": len(tasks),
        "has_partial": any(cell.is_partial for cell in cells),
        "has_others": any(cell.others for cell in cells),
        "has_footnotes": any(cell.footnotes for cell in cells),
    }


def _unfinished_models(runs: Iterable[RunFacts | UnreadableRun]) -> Iterator[ModelName]:
    """Yield the models of the rows without a result that the page names."""
    for run in runs:
        for group in run.unfinished if isinstance(run, RunFacts) else ():
            yield from (model_of(each.row) for each in group.rows)


def _warnings(boards: Sequence[Board]) -> Iterator[str]:
    """Yield the limits of boards, and in what the scores of their columns are mixed."""
    if limit := describe_limits(board.limit for board in boards):
        yield f"scores: {limit}"
    for board in boards:
        for mixture, tasks in board.mixtures.items():
            yield f"not comparable, {mixture}: {', '.join(tasks)}"


def _moment(text: str) -> str:
    """Return a time of ISO 8601 in UTC as people read it."""
    return f"{text[:10]} {text[11:16]} UTC"
