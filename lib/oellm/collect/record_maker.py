"""From scores to the metric records that are wanted, in the processes that read the scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from oellm.collect.collection import Collection
from oellm.core import tables
from oellm.metrics import records as metric_records
from oellm.metrics.records import PARTIAL, PrimaryMetrics, Record
from oellm.metrics.scored_rows import ScoredRow
from oellm.metrics.selection import Selection


@dataclass(frozen=True)
class RecordMaker:
    """Which records are made of scores."""

    primary: PrimaryMetrics
    # Its conditions count; an order is one of all records.
    selection: Selection
    # Whether scores of groups count that lack some of their tasks.
    partial: bool = False

    def __call__(self, scored: Iterable[ScoredRow]) -> tuple[list[Record], int]:
        """Return the records, and how many were left out since tasks of a group are missing."""
        made = (record for each in scored for record in metric_records.records(each, self.primary))
        wanted = list(self.selection.kept(made))
        kept = wanted
        if not self.partial:
            kept = [record for record in wanted if record["aggregate"] != PARTIAL]
        return kept, len(wanted) - len(kept)


@dataclass(frozen=True)
class _TextMaker:
    records: RecordMaker
    columns: Sequence[str]
    layout: str

    def __call__(self, scored: Iterable[ScoredRow]) -> tuple[str, int]:
        found, left_out = self.records(scored)
        return tables.lines(found, self.columns, self.layout), left_out


class MadeRecords:
    """The records of a collection."""

    def __init__(self, collection: Collection, maker: RecordMaker) -> None:
        self._collection = collection
        self._maker = maker
        # Scores of groups that lack some of their tasks, so far.
        self.partial_left_out = 0

    def __iter__(self) -> Iterator[Record]:
        for records, left_out in self._collection.results(self._maker):
            self.partial_left_out += left_out
            yield from records

    def lines(self, columns: Sequence[str], layout: str) -> Iterator[str]:
        """Yield texts of whole lines, in a layout that has a line for each record."""
        make = _TextMaker(self._maker, columns, layout)
        for text, left_out in self._collection.results(make):
            self.partial_left_out += left_out
            yield text
