"""The report: one HTML page of metric records that needs no network."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from oellm import __version__
from oellm.core.display import format_count, format_duration
from oellm.core.paths import data_file
from oellm.metrics.records import MetricRecord
from oellm.report.leaderboard import LEVELS, Board, boards, language_boards, primary
from oellm.report.runs import RunFacts, Unknown

if TYPE_CHECKING:
    from oellm.report.figures.figures import Figure
    from oellm.tasks.languages import Language


# A board of so many columns fits into a page of text.
_NARROW = 9


class Drawings(NamedTuple):
    """The figures of a page, of its records."""

    # Over training steps.
    curves: Sequence[Figure]
    # Languages × models; None where records have too few languages.
    language_map: Figure | None


class Contents(NamedTuple):
    """What a page is made of."""

    title: str
    records: Sequence[MetricRecord]
    runs: Sequence[RunFacts | Unknown]
    drawings: Drawings
    # By their codes.
    languages: dict[str, Language]


def page(contents: Contents) -> str:
    """Return the page: HTML with its style, script and figures in it.

    What comes from records and runs is text, whatever it looks like. A policy in the page lets a
    browser run the page's own script only, and load nothing.
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
    script = data_file("templates", "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        title=contents.title,
        runs=contents.runs,
        **contents.drawings._asdict(),
        **_tables(contents),
        known_runs=[run for run in contents.runs if isinstance(run, RunFacts)],
        unknown_runs=[run for run in contents.runs if isinstance(run, Unknown)],
        made=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        version=__version__,
        several_suites=len({record.eval_suite for record in contents.records}) > 1,
        levels=LEVELS,
        css=data_file("templates", "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
    )


def _tables(contents: Contents) -> dict[str, Any]:
    chosen = primary(contents.records)
    shown = boards(chosen)
    of_languages = language_boards(chosen, contents.languages)
    cells = [cell for board in shown for line in board.lines for cell in line.cells if cell]
    return {
        "boards": shown,
        "language_boards": of_languages,
        "is_wide": any(len(board.columns) > _NARROW for board in (*shown, *of_languages)),
        "n_models": len({line.model for board in shown for line in board.lines}),
        "n_tasks": len(_tasks(shown)),
        "has_partial": any(cell.is_partial for cell in cells),
        "has_others": any(cell.others for cell in cells),
    }


def _tasks(shown: Sequence[Board]) -> set[str]:
    return {c.head.task for board in shown for c in board.columns if not c.group}


def _moment(text: str) -> str:
    """Return a time of ISO 8601, as the files of a run have it, for people."""
    return f"{text[:10]} {text[11:16]} UTC"
