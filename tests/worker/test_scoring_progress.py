"""Progress of the worker: one line on a terminal, or one line a minute in a log."""

from __future__ import annotations

import time

import pytest

from oellm.worker.scoring_progress import ScoringProgress


class Clock:
    """A clock that tests set by hand, in place of time.monotonic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_a_log_has_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(monkeypatch), list[str]()
    progress = ScoringProgress(log.append, None)
    progress.begin("3/12 tiny arc")
    for done in range(0, 100, 10):
        progress.note(done, 200, kept=20)
        clock.now += 20
    progress.end()
    assert log == [
        "3/12 tiny arc: 30 of 200 requests, 0.167/s, 17 min left",
        "3/12 tiny arc: 60 of 200 requests, 0.333/s, 7 min left",
        "3/12 tiny arc: 90 of 200 requests, 0.389/s, 5 min left",
    ]


def test_a_terminal_has_the_newest_until_the_row_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, log, shown = Clock(monkeypatch), list[str](), list[str]()
    progress = ScoringProgress(log.append, shown.append)
    progress.begin("1/1 tiny arc")
    progress.note(20, 40, kept=20)
    clock.now += 4
    progress.note(30, 40, kept=20)
    progress.end()
    assert shown == [
        "1/1 tiny arc: 20 of 40 requests",
        "1/1 tiny arc: 30 of 40 requests, 2.5/s, 4 s left",
        "",
    ]
    assert not log
