"""Whatever metric records hold, it is read, or refused with its place; no command dies of it."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from oellm.collect import comparison
from oellm.collect.pivots import pivot, pivot_table
from oellm.collect.pivots.averages import Scope
from oellm.collect.pivots.pivot import PivotRequest
from oellm.collect.pivots.pivot_table import SheetStyle
from oellm.core import schema, tables
from oellm.errors import InputError, OellmError
from oellm.metrics.reading import read_metric_records
from oellm.metrics.records import MetricRecord
from oellm.metrics.selection import RecordSelection
from support.report_pages import page

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(2**63), 2**64, 1e308, 5e-324, "", "nan", "1e999", "9" * 401]),
    st.text(max_size=6),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)
COLUMNS = st.sampled_from([*schema.table("metric"), "experiment", " ", "\x1b"])
USUAL: dict[str, Any] = {"model_path": "m", "task": "arc", "metric": "acc", "value": 0.5}
RECORDS = st.lists(st.dictionaries(COLUMNS, ODD, max_size=4), min_size=1, max_size=4)


def read(objects: list[dict[str, Any]]) -> list[MetricRecord]:
    text = "".join(json.dumps({**USUAL, **each}) + "\n" for each in objects)
    return list(read_metric_records(io.StringIO(text), "stdin"))


@given(RECORDS)
def test_no_table_dies_of_odd_records(objects: list[dict[str, Any]]) -> None:
    try:
        records = read(objects)
    except InputError as error:
        assert str(error).startswith("stdin:")
        return
    request = PivotRequest.parse(
        "model_path", "task", RecordSelection.parse({}, "", primary_only=False)
    )
    try:
        matrix = pivot.make_matrix(records, request)
    except OellmError:
        pass
    else:
        for layout in (*tables.STREAMED, *tables.TABLES):
            style = SheetStyle(layout in tables.TABLES, with_stderr=True, averages=Scope.ALL)
            sheet = pivot_table.make_sheet(matrix, style)
            columns = list(sheet.types)
            tables.write_rows(sheet.rows, columns, layout, io.StringIO(), caption=sheet.caption)
    with contextlib.suppress(OellmError):
        comparison.compare_records(records, records, every=True)
    page(records)
