"""A run of one document of each row, made of the commands that make any run."""

from __future__ import annotations

import contextlib
import datetime
import io
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from oellm.clusters.cluster import Cluster
from oellm.core import json_codec
from oellm.core.log import Log
from oellm.core.paths import user_name
from oellm.errors import ExitStatus, MachineError
from oellm.manifest.csv_file import ManifestReader, ManifestWriter
from oellm.runs.run_directory import load_run
from oellm.wrappers.pipeline import run_captured

# Runs are directly below the user's directory, so no command takes times from those below this.
_PLACE = "smoke"
# What was found out about rows with another limit.
_OF_OTHER_ROWS = ("eval_id", "shard", "evaluate_shard", "n_docs", "n_requests", "request_types")
_ONE_DOCUMENT = {"limit": "1", "log_samples": ""}
_SETTINGS = ("shard_time=00:10:00", "requeues=0")
# A row that oe-status calls so is ok.
_DONE = "done"
# The states of rows whose jobs are in the queue.
_ACTIVE = ("pending", "running")
# How oe-status ends if it has told of all rows.
_OF_ROWS = (ExitStatus.DONE, ExitStatus.FAILED, ExitStatus.TRY_AGAIN)


class SmokeOutcome(NamedTuple):
    """What became of one document of a row (schema.json, table `smoke`)."""

    status: str
    model_path: str
    task_path: str
    n_shot: int | None
    stage: str
    reason: str
    log: str
    eval_id: str


def limit_rows(stream: TextIO, source: str, report: Log) -> bytes:
    """Return a manifest's rows with one document each; raises InputError as ManifestReader does."""
    reader = ManifestReader(stream, source, report)
    text = io.StringIO()
    writer = ManifestWriter(text)
    kept = [name for name in reader.header if name not in _OF_OTHER_ROWS]
    writer.header([*kept, *(name for name in _ONE_DOCUMENT if name not in kept)])
    for row in reader:
        writer.write(row.without(*_OF_OTHER_ROWS).with_cells(**_ONE_DOCUMENT))
    return text.getvalue().encode("utf-8", "surrogateescape")


class SmokeRun:
    """Renders, submits and judges such a run.

    Attributes:
        path: Its directory.
    """

    def __init__(
        self, cluster: Cluster, name: str | None, overrides: Sequence[str], *, log: Log
    ) -> None:
        if not (output := cluster.text("eval_output_dir")):
            raise MachineError("the setting eval_output_dir is empty")
        stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H-%M-%S-%f")
        self.path = Path(output) / user_name() / _PLACE / stamp
        # Those of the user prevail.
        settings = [f"--set={text}" for text in (*_SETTINGS, *overrides)]
        self._rendering = [*settings, *([f"--cluster={name}"] if name else [])]
        self._log = log

    def execute(self, manifest: bytes, submitting: Sequence[str]) -> int:
        """Render the rows, and submit them until nothing is left; return the status of what failed.

        It is DONE even if rows failed, which `outcomes` tell. `submitting` are options of
        oe-submit. If that is stopped, the jobs are cancelled.
        """
        render = ["oe-render", f"--name={_PLACE}", f"--run_dir={self.path}", *self._rendering]
        status, run = run_captured(render, manifest, log=self._log)
        if status != ExitStatus.DONE:
            return status
        submit = ["oe-submit", "--wait=done", "--poll=20", *submitting]
        status, _ = run_captured(submit, run, log=self._log)
        # A part of the rows may be in the queue if sbatch refused the others.
        if status not in (ExitStatus.DONE, ExitStatus.FAILED) or (status and self._has_jobs()):
            run_captured(["oe-submit", "--cancel", str(self.path)], b"", log=self._log)
            self._log(f"the run stays: {self.path}")
            return status
        return ExitStatus.DONE

    def _has_jobs(self) -> bool:
        """Return whether any row waits or runs."""
        _, output = self._ask_status()
        return any(json_codec.loads(row)["state"] in _ACTIVE for row in output.splitlines())

    def outcomes(self) -> tuple[int, list[SmokeOutcome]]:
        """Return what became of each row, none if the manifest had none.

        With them comes DONE, or else the status to end with: then not all of them are known.
        """
        if not self.path.exists():
            return ExitStatus.DONE, []
        status, output = self._ask_status()
        if status not in _OF_ROWS:
            self._log(f"oe-status ended with status {status}; the run stays: {self.path}")
            return status, []
        found = list(self._read_outcomes(output))
        rows = load_run(self.path).row_count
        if len(found) != rows:
            told = f"oe-status has told of {len(found)} of {rows} rows"
            self._log(f"{told}; the run stays: {self.path}")
            return ExitStatus.FAILED, []
        return ExitStatus.DONE, found

    def _ask_status(self) -> tuple[int, bytes]:
        """Return the status of oe-status, and its lines, one for each row."""
        command = ["oe-status", "--format=jsonl", str(self.path)]
        return run_captured(command, b"", log=self._log)

    @staticmethod
    def _read_outcomes(output: bytes) -> Iterator[SmokeOutcome]:
        return (
            SmokeOutcome(
                status="ok" if row["state"] == _DONE else "failed",
                model_path=row["model_path"],
                task_path=row["task_path"],
                n_shot=row["n_shot"],
                stage=row["stage"] or "",
                reason="" if row["state"] == _DONE else row["reason"] or row["state"],
                log="" if row["state"] == _DONE else row["log"] or "",
                eval_id=row["eval_id"],
            )
            for row in map(json_codec.loads, output.splitlines())
        )

    def remove(self) -> None:
        """Remove the run, and the directory of such runs if it was the last."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()
