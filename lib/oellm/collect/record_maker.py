"""From scores to the metric records that a user wants, in the processes that read the scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from oellm.collect.collection import Collection
from oellm.core import tables
from oellm.metrics import records as metric_records
from oellm.metrics.records import PARTIAL, MetricRecord, PrimaryMetrics
from oellm.metrics.scored_rows import ScoredRow
from oellm.metrics.selection import RecordSelection


@dataclass(frozen=True)
class RecordMaker:
    """Makes records of scores.

    Attributes:
        selection: only its conditions count here; its order is one of all records.
        with_partial: whether to keep scores of groups that lack some of their tasks.
    """

    primary: PrimaryMetrics
    selection: RecordSelection
    with_partial: bool = False

    def __call__(self, scored: Iterable[ScoredRow]) -> tuple[list[MetricRecord], int]:
        """Return the wanted records, and how many scores of partial groups were left out."""
        made = (
            record
            for row in scored
            for record in metric_records.make_metric_records(row, self.primary)
        )
        wanted = list(self.selection.keep(made))
        kept = wanted
        if not self.with_partial:
            kept = [record for record in wanted if record.aggregate != PARTIAL]
        return kept, len(wanted) - len(kept)


@dataclass(frozen=True)
class _TextMaker:
    records: RecordMaker
    columns: Sequence[str]
    layout: str

    def __call__(self, scored: Iterable[ScoredRow]) -> tuple[str, int]:
        records, left_out = self.records(scored)
        rows = metric_records.select_columns(records, self.columns)
        return tables.format_lines(rows, self.columns, self.layout), left_out


class MadeRecords:
    """The records of a collection.

    Attributes:
        partial_left_out: how many scores of partial groups were left out so far.
    """

    def __init__(self, collection: Collection, maker: RecordMaker) -> None:
        self._collection = collection
        self._maker = maker
        self.partial_left_out = 0

    def __iter__(self) -> Iterator[MetricRecord]:
        for records, left_out in self._collection.results(self._maker):
            self.partial_left_out += left_out
            yield from records

    def lines(self, columns: Sequence[str], layout: str) -> Iterator[str]:
        """Yield texts of whole lines, in a layout with one line for each record."""
        make = _TextMaker(self._maker, columns, layout)
        for text, left_out in self._collection.results(make):
            self.partial_left_out += left_out
            yield text
