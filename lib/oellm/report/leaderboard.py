"""Tables of scores, models × tasks, as the report shows them: order, texts and colours."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from oellm.manifest.checkpoint_names import natural_key
from oellm.metrics.comparability import LineMixture, find_mixture, letter_footnotes
from oellm.metrics.model_names import ModelName, shorten_names
from oellm.metrics.records import PARTIAL, MetricRecord
from oellm.metrics.score_groups import ScoreGroups, ScoreSetting, group_scores
from oellm.tasks.languages import Language, mark_language

# Steps of the colour scale, from the worst value of a column to the best.
LEVELS = 9
# The colours of a column span at least this number of standard errors, so that noise does not look
# like a difference.
_LEAST_SPAN = 4
# The longest name of a model, in letters.
_NAME_WIDTH = 48


class BoardColumn(NamedTuple):
    """A column of a board.

    Attributes:
        group: the group under whose column this one is folded; empty if it is always shown.
        n_members: the number of columns that are folded under this one.
        is_averaged: whether the average includes the column.
        mixture: in what its scores differ, so that they cannot be compared; empty if they can.
    """

    setting: ScoreSetting
    group: str
    n_members: int
    higher_is_better: bool | None
    is_averaged: bool
    mixture: str


class BoardCell(NamedTuple):
    """A score.

    Attributes:
        text: the value as shown.
        stderr: its standard error as shown, empty if there is none.
        level: the step on the colour scale, None for no colour.
        others: older results of the same evaluation.
        footnotes: what is other in it than in most of its column, or than was asked for.
    """

    record: MetricRecord
    text: str
    stderr: str
    level: int | None
    is_best: bool
    is_partial: bool
    others: tuple[MetricRecord, ...]
    footnotes: tuple[str, ...] = ()


class BoardLine(NamedTuple):
    """The scores of a model.

    Attributes:
        extra: the users' own columns, from their manifests, with the values of the model's rows.
        cells: one for each column; None if there is no score.
        average: the mean over the averaged columns; None if there are fewer than two.
    """

    model: ModelName
    name: str
    extra: list[tuple[str, str]]
    cells: list[BoardCell | None]
    average: float | None


class Board(NamedTuple):
    """A table of scores that may be compared.

    Attributes:
        limit: the limit of documents per task of all results, None for full results.
    """

    title: str
    limit: float | None
    columns: list[BoardColumn]
    lines: list[BoardLine]

    @property
    def main_columns(self) -> list[BoardColumn]:
        """The columns that are not folded under another."""
        return [column for column in self.columns if not column.group]

    @property
    def footnotes(self) -> dict[str, str]:
        """The letter of each footnote."""
        texts = (
            text for line in self.lines for cell in line.cells if cell for text in cell.footnotes
        )
        return letter_footnotes(texts)

    @property
    def mixtures(self) -> dict[str, list[str]]:
        """The tasks of the columns whose scores cannot be compared, by what is mixed in them."""
        tasks: dict[str, list[str]] = {}
        for column in self.columns:
            if column.mixture:
                tasks.setdefault(column.mixture, []).append(column.setting.task)
        return tasks

    @property
    def averaged_columns(self) -> list[BoardColumn]:
        """The columns that the average includes."""
        return [column for column in self.columns if column.is_averaged]


def make_boards(
    records: Iterable[MetricRecord], names: Mapping[ModelName, str], title: str = ""
) -> list[Board]:
    """Return a board of primary records for each limit, that of the full results first.

    `names` are the short names of the models.
    """
    by_limit: dict[float, list[MetricRecord]] = defaultdict(list)
    for record in records:
        by_limit[record.limit or 0].append(record)
    names = shorten_names(names, _NAME_WIDTH)
    return [
        _board(by_limit[limit], names, title=title, limit=limit or None)
        for limit in sorted(by_limit)
    ]


def make_language_boards(
    records: Iterable[MetricRecord],
    names: Mapping[ModelName, str],
    languages: Mapping[str, Language],
) -> list[Board]:
    """Return boards of models × languages, one for each suite of two languages or more.

    `records` are primary; those without a language, and parts of groups, are left out. Tasks
    belong to one suite if their names differ in the language alone. Other shots, or another metric,
    make another board. `languages` are those known, by their codes.
    """
    suites: dict[tuple[str, str], list[MetricRecord]] = defaultdict(list)
    for record in records:
        if record.language and not record.group:
            suite = mark_language(record.task, record.language, languages)
            setting = str((record.n_shot, record.metric, record.filter, record.eval_suite))
            suites[suite, setting].append(record._replace(task=record.language))
    return [
        board
        for (suite, _), of_suite in sorted(suites.items())
        if len({record.task for record in of_suite}) > 1
        for board in make_boards(of_suite, names, suite)
    ]


def _board(
    records: Sequence[MetricRecord],
    names: Mapping[ModelName, str],
    *,
    title: str,
    limit: float | None,
) -> Board:
    groups = group_scores(records)
    models = sorted(
        {model for by_model in groups.values() for model in by_model},
        key=lambda model: (natural_key(model.path), model.revision),
    )
    columns, cells_of_columns = [], []
    for setting, group, n_members in _ordered_columns(groups):
        by_model = groups[setting]
        direction = next(iter(by_model.values()))[0].higher_is_better
        results = [by_model.get(model, []) for model in models]
        mixture = find_mixture([of_model[0] for of_model in results if of_model])
        comparable = None if mixture.summary else direction
        cells = _with_footnotes(_cells(results, comparable), mixture)
        is_averaged = not group and comparable is True and _is_share_of_all(cells)
        columns.append(
            BoardColumn(
                setting=setting,
                group=group,
                n_members=n_members,
                higher_is_better=direction,
                is_averaged=is_averaged,
                mixture=mixture.summary,
            )
        )
        cells_of_columns.append(cells)
    lines = []
    extra = _extra_values(groups)
    for place, model in enumerate(models):
        of_model = [cells[place] for cells in cells_of_columns]
        average = _average(columns, of_model)
        lines.append(
            BoardLine(
                model=model,
                name=names[model],
                extra=[(name, texts[model]) for name, texts in extra.items() if model in texts],
                cells=of_model,
                average=average,
            )
        )
    return Board(title=title, limit=limit, columns=columns, lines=lines)


def _extra_values(groups: ScoreGroups) -> dict[str, dict[ModelName, str]]:
    """Return the values of models in each of the users' own columns; several become one text."""
    found: dict[str, dict[ModelName, dict[str, None]]] = {}
    for by_model in groups.values():
        for model, records in by_model.items():
            for column, text in records[0].extra.items():
                if text:
                    found.setdefault(column, {}).setdefault(model, {})[text] = None
    return {
        column: {model: ", ".join(texts) for model, texts in of_models.items()}
        for column, of_models in found.items()
    }


def _with_footnotes(
    cells: Iterable[BoardCell | None], mixture: LineMixture
) -> list[BoardCell | None]:
    """Return the cells of a column with what is other in them, or not as asked."""
    found: list[BoardCell | None] = []
    number = 0
    for cell in cells:
        if cell is None:
            found.append(None)
            continue
        remark = cell.record.remark
        notes = (*mixture.notes.get(number, ()), *([remark] if remark else ()))
        found.append(cell._replace(footnotes=notes))
        number += 1
    return found


def _ordered_columns(groups: ScoreGroups) -> Iterator[tuple[ScoreSetting, str, int]]:
    """Yield the settings in order, each with the group that it is folded under, and its members.

    Parts of a group follow the group's column. If it has none, they are not folded.
    """
    settings = sorted(groups, key=lambda each: (natural_key(each.task), str(each[1:])))
    named = {
        setting: {record.group for records in groups[setting].values() for record in records}
        for setting in settings
    }
    own_columns: dict[str, ScoreSetting] = {}
    for setting in settings:
        if "" in named[setting]:
            own_columns.setdefault(setting.task, setting)
    parts: dict[ScoreSetting, list[tuple[ScoreSetting, str]]] = defaultdict(list)
    top = []
    for setting in settings:
        group = next((name for name in sorted(named[setting]) if name in own_columns), "")
        if group and "" not in named[setting]:
            parts[own_columns[group]].append((setting, group))
        else:
            top.append(setting)
    for setting in top:
        yield setting, "", len(parts[setting])
        for part, group in parts[setting]:
            yield part, group, 0


class _Scale(NamedTuple):
    """The values of a column that may be compared, and how they are shown.

    Attributes:
        middle: the value in the middle of the colours.
        span: the difference between the ends of the colours, 0 if all values are equal.
        best: None if the direction is unknown, or all values are equal.
    """

    higher_is_better: bool | None
    middle: float
    span: float
    best: float | None
    decimals: int

    def level(self, value: float) -> int | None:
        """Return the step of a value on the colour scale."""
        if self.best is None:
            return None
        share = 0.5 + (value - self.middle) / self.span if self.span else 0.5
        return round((share if self.higher_is_better else 1 - share) * (LEVELS - 1))


def _scale(newest: Sequence[MetricRecord], higher_is_better: bool | None) -> _Scale:
    """Return the scale of a column with these records, at least one."""
    whole = [record for record in newest if record.aggregate != PARTIAL]
    values = [record.value for record in whole]
    low, high = min(values, default=0.0), max(values, default=0.0)
    errors = [record.stderr for record in whole if record.stderr]
    best = None
    if higher_is_better is not None and low < high:
        best = high if higher_is_better else low
    largest = max(abs(record.value) for record in newest)
    return _Scale(
        higher_is_better=higher_is_better,
        middle=(low + high) / 2,
        span=max(high - low, _LEAST_SPAN * statistics.median(errors) if errors else 0.0),
        best=best,
        decimals=3 if largest < 10 else 2 if largest < 100 else 1,
    )


def _cells(
    results: Sequence[Sequence[MetricRecord]], higher_is_better: bool | None
) -> list[BoardCell | None]:
    """Return the cells of a column, of the results of each model, the newest first."""
    scale = _scale([of_model[0] for of_model in results if of_model], higher_is_better)
    return [_cell(of_model, scale) if of_model else None for of_model in results]


def _cell(results: Sequence[MetricRecord], scale: _Scale) -> BoardCell:
    record = results[0]
    is_partial = record.aggregate == PARTIAL
    stderr = "" if record.stderr is None else f"{record.stderr:.{scale.decimals}f}"
    return BoardCell(
        record=record,
        text=f"{record.value:.{scale.decimals}f}",
        stderr=stderr,
        level=None if is_partial else scale.level(record.value),
        is_best=record.value == scale.best and not is_partial,
        is_partial=is_partial,
        others=tuple(results[1:]),
    )


def _is_share_of_all(cells: Sequence[BoardCell | None]) -> bool:
    """Return whether each model has a whole score from 0 to 1."""
    return all(
        cell is not None and not cell.is_partial and 0 <= cell.record.value <= 1 for cell in cells
    )


def _average(columns: Sequence[BoardColumn], cells: Sequence[BoardCell | None]) -> float | None:
    values = [
        cell.record.value
        for column, cell in zip(columns, cells, strict=True)
        if column.is_averaged and cell is not None
    ]
    return sum(values) / len(values) if len(values) > 1 else None
