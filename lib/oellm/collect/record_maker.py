"""From scores to the metric records that a user wants, in the processes that read the scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from oellm.collect.collection import Collection
from oellm.core import tables
from oellm.metrics import records as metric_records
from oellm.metrics.records import PARTIAL, MetricRecord, PrimaryMetrics
from oellm.metrics.scored_rows import ScoredRow
from oellm.metrics.selection import RecordSelection


@dataclass
class RecordTally:
    """Counts records.

    Attributes:
        made: How many there were.
        wanted: How many of them fulfil the conditions.
        partial: How many of those were left out, because they are scores of partial groups.
        remarks: By remark, how many of the others have it.
    """

    made: int = 0
    wanted: int = 0
    partial: int = 0
    remarks: Counter[str] = field(default_factory=Counter)

    def add(self, other: RecordTally) -> None:
        """Add other records."""
        self.made += other.made
        self.wanted += other.wanted
        self.partial += other.partial
        self.remarks += other.remarks


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

    def __call__(self, scored: Iterable[ScoredRow]) -> tuple[list[MetricRecord], RecordTally]:
        """Return the wanted records, and what was counted."""
        made = [
            record
            for row in scored
            for record in metric_records.make_metric_records(row, self.primary)
        ]
        wanted = list(self.selection.keep(made))
        kept = wanted
        if not self.with_partial:
            kept = [record for record in wanted if record.aggregate != PARTIAL]
        remarks = Counter(record.remark for record in kept if record.remark)
        return kept, RecordTally(
            len(made), len(wanted), partial=len(wanted) - len(kept), remarks=remarks
        )


@dataclass(frozen=True)
class _TextMaker:
    records: RecordMaker
    columns: Sequence[str]
    layout: str

    def __call__(self, scored: Iterable[ScoredRow]) -> tuple[str, RecordTally]:
        records, tally = self.records(scored)
        rows = metric_records.select_columns(records, self.columns)
        return tables.format_lines(rows, self.columns, self.layout), tally


class MadeRecords:
    """The records of a collection; `tally` counts them."""

    def __init__(self, collection: Collection, maker: RecordMaker, tally: RecordTally) -> None:
        self._collection = collection
        self._maker = maker
        self._tally = tally

    def __iter__(self) -> Iterator[MetricRecord]:
        for records, tally in self._collection.results(self._maker):
            self._tally.add(tally)
            yield from records

    def lines(self, columns: Sequence[str], layout: str) -> Iterator[str]:
        """Yield texts of whole lines, in a layout with one line for each record."""
        make = _TextMaker(self._maker, columns, layout)
        for text, tally in self._collection.results(make):
            self._tally.add(tally)
            yield text
