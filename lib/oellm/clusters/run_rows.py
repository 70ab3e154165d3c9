"""Rows as a run has them: with the cluster's defaults, absolute paths, and an eval_id.

To look a row up in earlier runs, a command must identify it as oe-render does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

from oellm.clusters.cluster import Cluster
from oellm.manifest.locations import Locator
from oellm.manifest.rows import Row, identify_row

# Columns whose empty cells get the value of the setting of the same name.
_DEFAULTED = ("batch_size", "dtype", "tp")


def complete_rows(rows: Iterable[Row], cluster: Cluster) -> Iterator[Row]:
    """Yield each row as a run of this cluster has it.

    Raises InputError for a row that carries another eval_id than its own.
    """
    defaults = {name: cluster.text(name) for name in _DEFAULTED if cluster.text(name)}
    hf_home = cluster.text("hf_home")
    locator = Locator(hub=os.path.join(hf_home, "hub") if hf_home else "")
    for row in rows:
        yield identify_row(locator.locate(_with_defaults(row, defaults)))


def _with_defaults(row: Row, defaults: Mapping[str, str]) -> Row:
    """Fill the empty cells of a row; it has all of these columns then."""
    filled = {name: text for name, text in defaults.items() if not row[name]}
    if "dtype" in filled and row["eval_id"]:
        # The row has an identity already, and a default must not make it another evaluation.
        filled["dtype"] = ""
    return row.with_cells(**filled) if filled else row
