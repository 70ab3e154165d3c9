"""The run directory: jobs.csv, run.json, the batch script, the worker, logs and results."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oellm.core import atomic, json_codec, schema
from oellm.core.csv_records import CsvReader
from oellm.errors import ExitStatus, InputError, OellmError
from oellm.manifest import csv_file
from oellm.manifest.rows import Row
from oellm.runs.result_store import ResultStore

JOBS = "jobs.csv"
RUN = "run.json"
WORKER = "oe-run-task.pyz"
BINDS = "binds"
LOGS = "slurm_logs"


# What stands for a run if the manifest had no rows: a run object without a directory.
NO_RUN = {"run_dir": None, "n_rows": 0}


class NoRunError(OellmError):
    """There is no run, since the manifest had no rows; the command has nothing to do."""

    status = ExitStatus.DONE


@dataclass
class Run:
    """A run directory and what its run.json says (schema.json, table `run`)."""

    path: Path
    record: dict[str, Any]

    @property
    def store(self) -> ResultStore:
        """The results and failures of the run."""
        return ResultStore(self.path)

    @property
    def arrays(self) -> list[Array]:
        """The job arrays."""
        return [Array(**array) for array in self.record["arrays"]]

    @property
    def shards(self) -> list[Shard]:
        """The shards, by their index."""
        return [Shard(**shard) for shard in self.record["shards"]]

    def setting(self, key: str) -> Any:
        """Return a setting of the cluster as it was when the run was rendered."""
        return self.record["cluster"].get(key)

    def rows(self, shard: int | None = None) -> Iterator[Row]:
        """Yield the rows of the manifest, or those of one shard."""
        path = self.path / JOBS
        with open(path, encoding="utf-8", newline="") as stream:
            for row in csv_file.read_rows(stream, str(path)):
                if shard is None or row.value("shard") == shard:
                    yield row

    def columns(self) -> list[str]:
        """Return the columns of the manifest."""
        with open(self.path / JOBS, encoding="utf-8", newline="") as stream:
            return CsvReader(stream, str(self.path / JOBS)).header

    def eval_ids(self) -> Iterator[str]:
        """Yield the eval_id of each row, without looking at the other cells.

        Raises InputError if a line is not as long as the header.
        """
        path = self.path / JOBS
        with open(path, encoding="utf-8", newline="") as stream:
            records = CsvReader(stream, str(path), required=["eval_id"])
            column = records.header.index("eval_id")
            for _, cells in records:
                yield cells[column]

    def reload(self) -> None:
        """Read run.json anew."""
        self.record = load(self.path).record

    def save(self) -> None:
        """Write run.json."""
        atomic.write_file(self.path / RUN, json_codec.dumps(self.record, indent=True) + b"\n")


def load(path: str | Path) -> Run:
    """Read a run directory; raises InputError where it is none."""
    directory = Path(os.path.abspath(path))
    try:
        record = json_codec.loads((directory / RUN).read_bytes())
    except FileNotFoundError:
        raise InputError(f"not a run directory: {RUN} is missing", str(path)) from None
    except ValueError as error:
        raise InputError(f"expected JSON: {error}", str(directory / RUN)) from None
    return Run(directory, _checked(record, str(directory / RUN)))


def parse(text: str, source: str) -> Run:
    """Return the run that a run object (from oe-render or oe-submit) describes.

    What counts is the run directory's own run.json; the object only names it. Raises NoRunError
    if it says that the manifest had no rows.
    """
    if not text.strip():
        raise InputError("expected a run object, got nothing: did the command before fail?", source)
    try:
        record = json_codec.loads(text.encode("utf-8", "surrogateescape"))
    except ValueError as error:
        line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        raise InputError(
            f"expected a run object in JSON: {getattr(error, 'msg', error)}",
            f"{source}:{line}:{column}",
        ) from None
    if record == NO_RUN:
        raise NoRunError("nothing to do: the manifest had no rows")
    return load(_checked(record, source)["run_dir"])


def create(output_dir: Path, user: str, explicit: str | None = None) -> Path:
    """Create a new run directory and return it.

    It is `explicit` if that is given (it must not exist, or be empty), else output_dir/user/TIME;
    a second run in that second gets a suffix.
    """
    if explicit:
        path = Path(os.path.abspath(explicit))
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError("the run directory exists already and is not empty", str(path))
        path.mkdir(parents=True, exist_ok=True)
        return path
    parent = output_dir / user
    parent.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H-%M-%S")
    attempt = 1
    while True:
        path = parent / (stamp if attempt == 1 else f"{stamp}-{attempt}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            attempt += 1


def _checked(record: Any, source: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise InputError("expected a run object", source)
    for key, spec in schema.table("run").items():
        if key not in record and not spec.get("optional"):
            raise InputError(f"expected a run object with the key {key!r}", source)
    if record["schema_version"] != schema.VERSION:
        raise InputError(
            f"expected schema version {schema.VERSION}, got {record['schema_version']!r}: "
            "use the version of oellm that rendered the run",
            source,
        )
    return record


@dataclass(frozen=True)
class Array:
    """One job array: a batch script whose elements differ in nothing but their rows.

    Each element has `workers` workers, the last one maybe fewer; worker W of element E evaluates
    the shard first_shard + E * workers + W.
    """

    script: str
    eval_suite: str
    # GPUs of each worker; 0 where the cluster's jobs have none.
    gpus: int
    workers: int
    elements: int
    first_shard: int
    # As Slurm writes it; empty where jobs have no limit of their own.
    time_limit: str = ""


@dataclass(frozen=True)
class Shard:
    """What one worker evaluates: its place, and how many models and rows that are."""

    index: int
    # Position of its array in the run, and the element of that.
    array: int
    element: int
    models: int
    rows: int
    # With start-up and model loads.
    estimate_s: float
