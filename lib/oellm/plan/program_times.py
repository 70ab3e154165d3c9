"""How long the programs of earlier rows took, and what rows like them take therefore.

A program loads its model itself, so its time is that of a whole start. These times say nothing of
rows that the worker evaluates itself, nor theirs of these.
"""

from __future__ import annotations

from collections.abc import Iterable

from oellm.manifest.rows import Row
from oellm.models.sizes import ModelSizes, is_same_size
from oellm.plan.guesses import Factors, Setting
from oellm.plan.measured_rates import Measurement, Point, predict_seconds

# Seconds of a start that do not depend on its requests, if nothing tells them.
START_S = 30.0
# The latest times that count.
_MOST_COUNTED = 9


class ProgramTimes:
    """The times of programs on a cluster, by the settings of their rows."""

    def __init__(self, measured: Iterable[Measurement] = (), cluster: str = "") -> None:
        self._sizes = ModelSizes()
        # By setting, the sizes of models with the times of their first or only stage.
        self._first: dict[Setting, list[tuple[int, Point]]] = {}
        # By framework and task: second stages ask no model.
        self._second: dict[tuple[str, str], list[Point]] = {}
        wanted = (one for one in measured if one.is_program or one.second_s)
        own = (one for one in wanted if one.cluster == cluster)
        for one in sorted(own, key=lambda one: one.finished):
            factors = Factors.of(one.row, self._sizes.size(one.row))
            if one.is_program:
                first = Point(one.requests, one.scoring_s)
                self._first.setdefault(factors.setting, []).append((factors.size, first))
            if one.second_s:
                task = (factors.setting.eval_suite, factors.setting.task_path)
                self._second.setdefault(task, []).append(Point(one.requests, one.second_s))

    def first(self, row: Row, requests: int) -> float | None:
        """Return the seconds of a row's first or only stage; None if none like it was measured."""
        factors = Factors.of(row, self._sizes.size(row))
        known = self._first.get(factors.setting, ())
        return _predict([p for size, p in known if is_same_size(size, factors.size)], requests)

    def second(self, row: Row, requests: int) -> float | None:
        """Return the seconds of a row's second stage; None if none like it was measured."""
        typed = row.typed
        return _predict(self._second.get((typed.eval_suite, typed.task_path), []), requests)


def _predict(points: list[Point], requests: int) -> float | None:
    if not points:
        return None
    return predict_seconds(points[-_MOST_COUNTED:], requests, START_S)
