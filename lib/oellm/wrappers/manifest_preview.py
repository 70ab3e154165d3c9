"""A manifest before it is saved: made by oe-manifest, and shown."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from oellm.core import tables
from oellm.core.display import format_count, shorten_middle
from oellm.core.log import Log
from oellm.errors import ExitStatus
from oellm.manifest.csv_file import read_rows
from oellm.manifest.rows import Row
from oellm.wrappers.manifest_choices import ManifestChoices, join_command
from oellm.wrappers.pipeline import Stage, run_captured

# With a menu of eight lines below, and some of oe-manifest above, they fit a terminal of 24 lines.
_ROWS_SHOWN = 6
# Width of the longest model and task that are shown whole.
_WIDE = 27
_SHOWN = ("model_path", "task_path", "n_shot", "eval_suite")
# Also if models are broken, which are left out, there is a manifest.
_MADE = (ExitStatus.DONE, ExitStatus.FAILED)


class ManifestPreview(NamedTuple):
    """A manifest that may be saved.

    Attributes:
        content: The manifest.
        rows: Its rows that are new.
        base: The content of the manifest to which they are added; None without one.
        is_whole: Whether no broken model was left out.
    """

    content: bytes
    rows: Sequence[Row]
    base: bytes | None
    is_whole: bool

    def lines(self) -> Iterator[str]:
        """Yield the lines that show it: counts, and the first rows."""
        yield self._counts()
        if not self.rows:
            return
        yield ""
        cells = [
            [shorten_middle(row[name], _WIDE) for name in _SHOWN] for row in self.rows[:_ROWS_SHOWN]
        ]
        text = io.StringIO()
        tables.write_rows(cells, _SHOWN, layout="table", stream=text)
        yield from text.getvalue().splitlines()
        if len(self.rows) > _ROWS_SHOWN:
            yield f"and {len(self.rows) - _ROWS_SHOWN} more"

    def _counts(self) -> str:
        if not self.rows:
            return "no row is new"
        models = {row["model_path"] for row in self.rows}
        tasks = {(row["eval_suite"], row["task_path"]) for row in self.rows}
        of = f"{format_count(len(models), 'model')} × {format_count(len(tasks), 'task')}"
        parts = [f"{of}: {format_count(len(self.rows), 'row')}"]
        if self.base is not None:
            parts.append(f"added to {format_count(_count_rows(self.base), 'row')}")
        if not self.is_whole:
            parts.append("without broken models")
        return ", ".join(parts)


def make_preview(
    choices: ManifestChoices, base: bytes | None, *, log: Log
) -> ManifestPreview | None:
    """Return the manifest of some choices, whose rows are added to the manifest `base`, if any.

    Returns None if oe-manifest has refused them and said why, or if a signal has ended it, which
    `log` gets. Raises MachineError if it is not installed, KeyboardInterrupt if the user interrupts
    it.
    """
    # All of them, so that all that is wrong is said.
    outcomes = [_run(command, log) for command in choices.commands()]
    parts = [output for status, output in outcomes if status in _MADE and output]
    if len(parts) < len(outcomes):
        return None
    content = parts[0]
    if len(parts) > 1 or base is not None:
        status, content = _join([*([base] if base is not None else []), *parts], log)
        if status != ExitStatus.DONE:
            return None
    rows = list(read_rows(io.StringIO(content.decode(errors="surrogateescape")), "oe-manifest"))
    return ManifestPreview(
        content,
        rows=rows[_count_rows(base) :] if base is not None else rows,
        base=base,
        is_whole=all(status == ExitStatus.DONE for status, _ in outcomes),
    )


def _join(manifests: Sequence[bytes], log: Log) -> tuple[int, bytes]:
    """Return the status and the output of the command that joins manifests."""
    with tempfile.TemporaryDirectory(prefix="oellm-") as directory:
        paths = [os.path.join(directory, f"rows-{number}.csv") for number in range(len(manifests))]
        for path, manifest in zip(paths, manifests, strict=True):
            with open(path, "wb") as stream:
                stream.write(manifest)
        return _run(join_command(paths), log)


def _run(command: Stage, log: Log) -> tuple[int, bytes]:
    status, output = run_captured(command, b"", log=log, is_announced=False)
    if status == ExitStatus.INTERRUPTED:
        raise KeyboardInterrupt
    return status, output


def _count_rows(manifest: bytes) -> int:
    text = manifest.decode("utf-8-sig", "surrogateescape")
    return sum(1 for _ in read_rows(io.StringIO(text, newline=""), ""))
