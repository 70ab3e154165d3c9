"""The metric records of runs, result files and saved records, as the commands that print them need.

oe-collect, oe-pivot and oe-compare read the same inputs, with the same options.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TextIO

from oellm import frameworks
from oellm.collect import sources, stdin_lines
from oellm.collect.collection import Collection
from oellm.collect.record_maker import MadeRecords, RecordMaker, RecordTally
from oellm.core import display, schema, tables
from oellm.core.display import format_count
from oellm.core.log import Log
from oellm.core.regular_files import open_regular_text
from oellm.core.tables import Values
from oellm.errors import UsageError
from oellm.manifest.model_spec import ModelSpec
from oellm.metrics import columns, score_tables
from oellm.metrics import records as metric_records
from oellm.metrics.model_names import shorten_models
from oellm.metrics.reading import RecordText
from oellm.metrics.records import MetricRecord, PrimaryMetrics
from oellm.metrics.selection import RecordSelection
from oellm.runs.places.named_runs import find_directories
from oellm.runs.run_directory import Run
from oellm.tasks import suites

FORMATS = (*tables.STREAMED, *tables.TABLES, "parquet")
# The format of metric records for the dashboard of OpenEuroLLM, which has columns of its own.
DASHBOARD = "dashboard"

# The number of remarks that messages name one by one.
_NAMED = 5


class RecordRequest(NamedTuple):
    """Which records a command wants.

    Attributes:
        selection: The conditions on records, and their order.
        primary: Which metric stands for a task.
        every: Whether every result of an evaluation counts, not only the newest.
        partial: Whether scores of groups count that lack some of their tasks.
        model: The model of results that name none; if it is empty, their directory's name.
    """

    selection: RecordSelection
    primary: PrimaryMetrics
    every: bool = False
    partial: bool = False
    model: str = ""

    @classmethod
    def parse(
        cls,
        filters: Mapping[str, Sequence[str]],
        sort: str | None = None,
        metric: str | None = None,
        *,
        primary_only: bool = False,
        every: bool = False,
        partial: bool = False,
        model: str = "",
    ) -> RecordRequest:
        """Parse the values of options like --filter, by option, of --sort, --metric and --model.

        Raises UsageError for a bad one.
        """
        try:
            named = str(ModelSpec.parse(model)) if model else ""
        except ValueError as error:
            raise UsageError(f"--model: {error}") from None
        if metric is not None and not metric.partition(",")[0]:
            raise UsageError(f"--metric: expected METRIC or METRIC,FILTER, got {metric!r}")
        primary = PrimaryMetrics(suites.primary_metrics(os.environ), metric or "")
        selection = RecordSelection.parse(filters, sort or "", primary_only)
        return cls(selection=selection, primary=primary, every=every, partial=partial, model=named)


class RecordSource:
    """The records of some paths, or of stdin, that a request wants.

    `log` gets what is left out, and why.

    Attributes:
        tally: Counts the records; known once all were read.
    """

    def __init__(self, request: RecordRequest, log: Log) -> None:
        self._request = request
        self._log = log
        self._collection = Collection(log, request.every, request.model)
        maker = RecordMaker(request.primary, request.selection, request.partial)
        self.tally = RecordTally()
        self._made = MadeRecords(self._collection, maker, self.tally)
        # Records that were saved before.
        self._saved: list[RecordText] = []

    def add_paths(self, paths: Sequence[str]) -> None:
        """Add run directories, directories, result files, and files of what commands printed.

        Paths may be names of runs (`find_directory`). Raises InputError for a path that does not
        exist, or that holds nothing of these.
        """
        saved, others = stdin_lines.add_files(find_directories(paths), self._collection)
        self._saved += [RecordText(_lines(path), path) for path in saved]
        if others:
            self._collection.add_sources(sources.find_sources(others, self._collection.fail))

    def add_stream(self, stream: TextIO, source: str) -> None:
        """Add the results, runs or saved records of a stream; raises InputError for other text."""
        saved = stdin_lines.read_lines(stream, source, self._collection)
        if saved is not None:
            self._saved.append(saved)

    def extra_columns(self) -> list[str]:
        """Return the columns that records have besides those of schema.json, in order.

        They come from the users' manifests, and from other tools that changed saved records.
        """
        saved = itertools.chain.from_iterable(text.extra_columns for text in self._saved)
        return list(dict.fromkeys([*saved, *self._collection.extra_columns()]))

    def require_columns(self, named: Mapping[str, Iterable[str]] = MappingProxyType({})) -> None:
        """Raise UsageError if a column that an option names is in no record.

        `named` has the columns of the command's own options, by option.
        """
        known = [*metric_records.column_names(), *self.extra_columns()]
        for option, names in (*self._request.selection.named, *named.items()):
            columns.require_columns(option, names, known)

    def records(self) -> Iterable[MetricRecord]:
        """Return the records: saved ones first, the others in the order of their sources."""
        request = self._request
        return request.selection.sort(itertools.chain(self._saved_records(), self._made))

    def _saved_records(self) -> Iterator[MetricRecord]:
        request, tally = self._request, self.tally

        def counted(records: Iterable[MetricRecord]) -> Iterator[MetricRecord]:
            for record in records:
                tally.made += 1
                yield record

        saved = itertools.chain.from_iterable(self._saved)
        for record in request.selection.keep(counted(request.primary.choose_again(saved))):
            tally.wanted += 1
            if record.remark:
                tally.remarks[record.remark] += 1
            yield record

    def write(
        self, names: Sequence[str], layout: str, stream: TextIO, *, spare: Sequence[str] | None
    ) -> None:
        """Write the records in a format, without buffering them if the format permits it.

        `spare` is as in tables.write_rows.
        """
        if layout == DASHBOARD:
            self._write_dashboard(stream)
            return
        if self._saved or layout not in tables.BY_LINE or self._request.selection.keys:
            rows: Iterable[Values] = metric_records.select_columns(self.records(), names)
            left_out = ""
            if layout in tables.TABLES:
                rows, left_out = shorten_models(rows, names)
            types = columns.column_types(names)
            counts = schema.count_columns("metric")
            write_rows(rows, types, layout=layout, stream=stream, counts=counts, spare=spare)
            if left_out:
                self._log(left_out)
            return
        # The processes that read the results write the lines, too.
        out = display.guard_terminal(stream)
        out.write(tables.format_head(names, layout))
        for text in self._made.lines(names, layout):
            out.write(text)

    def _write_dashboard(self, stream: TextIO) -> None:
        rows = score_tables.dashboard_rows(self.records(), frameworks.find_harness)
        without_shots = 0

        def counted() -> Iterator[tuple[str, ...]]:
            nonlocal without_shots
            for row in rows:
                without_shots += not row[score_tables.DASHBOARD.index("n_shot")]
                yield row

        tables.write_rows(counted(), score_tables.DASHBOARD, layout="csv", stream=stream)
        if without_shots:
            self._log(
                f"{format_count(without_shots, 'score')} without a number of shots, "
                "which the dashboard needs"
            )

    @property
    def runs(self) -> list[Run]:
        """The run directories among the sources."""
        return self._collection.runs

    @property
    def is_whole(self) -> bool:
        """Whether no result was damaged; known once all records were read."""
        return not self._collection.failures

    def log_missing(self) -> None:
        """Log what is missing; known once all records were read."""
        if late := dict.fromkeys(name for text in self._saved for name in text.late_columns):
            self._log(f"left out, only later records have these columns: {', '.join(late)}")
        tally = self.tally
        if tally.made and not tally.wanted:
            self._log(f"no record matches: {format_count(tally.made, 'record')} left out")
        for remark, number in tally.remarks.most_common(_NAMED):
            self._log(f"{format_count(number, 'score')} not as asked: {remark}")
        if (more := len(tally.remarks) - _NAMED) > 0:
            self._log(
                f"and {format_count(more, 'more kind')} of scores not as asked: column remark"
            )
        if tally.partial:
            self._log(
                f"{tally.partial} scores of groups that lack some of their tasks are left out "
                "(--partial prints them)"
            )
        lacking, rows = self._collection.counts()
        if lacking:
            self._log(f"{lacking} of {rows} rows have no valid result")


def choose_format(asked: str | None, stream: TextIO, *more: str) -> str:
    """Return the format to write: the one that is asked for, else table on a terminal, else csv.

    Raises UsageError unless it is one of FORMATS or `more`, and can be written.
    """
    layout = tables.choose_format(asked, stream, (*FORMATS, *more))
    if layout == "parquet" and stream.isatty():
        raise UsageError("--format=parquet: stdout is a terminal; redirect it to a file")
    return layout


def write_rows(
    rows: Iterable[Values],
    types: Mapping[str, str],
    layout: str,
    stream: TextIO,
    *,
    counts: Container[str] = (),
    caption: Sequence[str] = (),
    spare: Sequence[str] | None = None,
) -> None:
    """Write rows in one of FORMATS; `types` maps the columns to their types in schema.json.

    Tables show the numbers in the columns `counts` without decimals, and have the lines of the
    caption. `spare` is as in tables.write_rows.
    """
    if layout == "parquet":
        tables.write_parquet(rows, types, stream.buffer)
    else:
        tables.write_rows(
            rows,
            list(types),
            layout=layout,
            stream=stream,
            counts=counts,
            caption=caption,
            spare=spare,
        )


def _lines(path: str) -> Iterator[str]:
    with open_regular_text(path, encoding="utf-8-sig") as stream:
        yield from stream
