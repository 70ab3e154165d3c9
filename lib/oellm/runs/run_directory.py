"""The run directory: the names of what it holds, its manifest, and its record run.json."""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from oellm import __version__
from oellm.core import atomic, json_codec, schema
from oellm.core.csv_records import CsvReader
from oellm.core.paths import user_name
from oellm.core.regular_files import RefusedFileError, open_regular_text, read_regular
from oellm.errors import ExitStatus, InputError, OellmError
from oellm.manifest import csv_file
from oellm.manifest.rows import Row
from oellm.runs import run_record
from oellm.runs.result_record import Facts
from oellm.runs.run_record import Array, NodeRecord, RecordError, Shard, Submission

Entry = TypeVar("Entry")

# The manifest: its rows with eval_id and shard.
JOBS = "jobs.csv"
# The record of the run: settings, plan and submissions (schema.json, table `run`).
RUN = "run.json"
# The worker, frozen with the run.
WORKER = "oe-run-task.pyz"
# The paths that containers see, one a line.
BINDS = "binds"
# Exists while an oe-submit looks and submits.
LOCK = "submit.lock"
# Directories; the first four hold a file, or a directory, per row, the fifth one per output of a
# first stage.
RESULTS = "results"
FAILURES = "failures"
SAMPLES = "samples"
ANSWERS = "answers"
STAGES = "stages"
# A heartbeat, and a count of time-outs, per shard.
PROGRESS = "progress"
STOPS = "stops"
# A log per array element or worker.
LOGS = "slurm_logs"


# What stands for a run if the manifest had no rows: a run object without a directory.
NO_RUN = {"run_dir": None, "n_rows": 0}


class NoRunError(OellmError):
    """There is no run, since the manifest had no rows; the command has nothing to do."""

    status = ExitStatus.DONE


@dataclass(frozen=True)
class Run:
    """A run directory and its record.

    Attributes:
        path: The absolute path of the directory.
        content: The JSON object of run.json. Keys that this version does not know stay in it.
    """

    path: Path
    content: Mapping[str, Any]

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The job arrays; other parts of the record refer to them by their position."""
        arrays = tuple(self._read_entries("arrays", Array.from_json))
        for position, array in enumerate(arrays):
            if array.follows is None:
                continue
            first = arrays[array.follows] if 0 <= array.follows < position else None
            if first is None or (first.follows, first.elements) != (None, array.elements):
                reason = f"expected an array before it, with as many elements, got {array.follows}"
                raise self._damaged("arrays", f"follows: {reason}")
        return arrays

    @functools.cached_property
    def shards(self) -> tuple[Shard, ...]:
        """The shards, by their index."""
        shards = tuple(self._read_entries("shards", Shard.from_json))
        for position, shard in enumerate(shards):
            if shard.index != position:
                raise self._damaged("shards", f"expected index {position}, got {shard.index}")
            if not 0 <= shard.array < len(self.arrays):
                raise self._damaged("shards", f"expected an array, got {shard.array}")
            if not 0 <= shard.element < self.arrays[shard.array].elements:
                raise self._damaged("shards", f"expected an element, got {shard.element}")
        # An element without a shard has nothing to evaluate, so there are no more than shards.
        if sum(array.elements for array in self.arrays) > len(shards):
            raise self._damaged("arrays", f"they have more elements than the {len(shards)} shards")
        return shards

    @functools.cached_property
    def submissions(self) -> list[Submission]:
        """The submissions, oldest first. `save` writes what was changed in this list.

        Those of a directory that was copied are not those of the copy: their jobs go on there.
        """
        if self._is_copy:
            return []
        submissions = self._read_entries("jobs", Submission.from_json)
        for submission in submissions:
            if not 0 <= submission.array < len(self.arrays):
                reason = f"expected the number of an array, got {submission.array}"
                raise self._damaged("jobs", reason)
        return submissions

    @property
    def _is_copy(self) -> bool:
        """Whether another directory, which is still there, was copied to this one."""
        place = self.content.get("run_dir")
        if place == str(self.path) or not isinstance(place, str):
            return False
        try:
            return not os.path.samefile(os.path.join(place, RUN), self.path / RUN)
        except (OSError, ValueError):
            return False

    @functools.cached_property
    def nodes(self) -> list[NodeRecord]:
        """The nodes that jobs were sent to. `save` writes what was changed in this list."""
        return self._read_entries("nodes", NodeRecord.from_json) if "nodes" in self.content else []

    @property
    def excluded_nodes(self) -> list[str]:
        """The nodes that get no more jobs of this run, or of one kind: they end them at once."""
        return list(dict.fromkeys(record.node for record in self.nodes if record.is_excluded))

    def nodes_excluded_from(self, array: Array) -> list[str]:
        """Return the nodes that get no more jobs of an array."""
        records = (r for r in self.nodes if r.is_excluded and r.cpu_only == array.needs_no_gpu)
        return [record.node for record in records]

    def _read_entries(self, key: str, read: Callable[[Any], Entry]) -> list[Entry]:
        """Return the entries of a list of run.json; raises InputError if one is damaged."""
        try:
            return list(map(read, self.content[key]))
        except KeyError as error:
            reason = f"the key {error} is missing"
        except (AttributeError, TypeError, ValueError) as error:
            reason = str(error)
        raise self._damaged(key, f"damaged: {reason}")

    def _damaged(self, key: str, reason: str) -> InputError:
        return InputError(reason, str(self.path / RUN), column=key)

    @property
    def name(self) -> str:
        """The name that the user gave it; empty if there is none."""
        return str(self.content.get("name", ""))

    @property
    def user(self) -> str:
        """The user who rendered it; the one whose directory it is in, for older runs."""
        return str(self.content.get("user", self.path.parent.name))

    @property
    def created(self) -> str:
        """When oe-render wrote the run (UTC, ISO 8601)."""
        return str(self.content["created"])

    @property
    def row_count(self) -> int:
        """The number of rows in the manifest."""
        return int(self.content["n_rows"])

    @property
    def planned_gpu_hours(self) -> float | None:
        """The estimate of oe-render, None if it made none."""
        hours: float | None = self.content["plan"].get("gpu_hours")
        return hours

    @property
    def images(self) -> list[Facts]:
        """The container images as they were then (ImageRecord).

        Nothing reads them again: the provenance of each result repeats them as they are.
        """
        images: list[Facts] = self.content.get("images", [])
        return images

    def setting(self, key: str) -> Any:
        """Return a setting of the cluster as it was when the run was rendered."""
        return self.content["cluster"].get(key)

    def rows(self, shard: int | None = None) -> Iterator[Row]:
        """Yield the rows of the manifest, or those of which one shard computes a stage.

        Raises InputError for a row without an eval_id, or with a shard that the run does not have.
        """
        path = self.path / JOBS
        with open_regular_text(path) as stream:
            for row in csv_file.read_rows(stream, str(path)):
                if not row["eval_id"]:
                    raise row.error("eval_id", "expected an eval_id")
                shards = (self.shard_of(row), self.evaluate_shard_of(row))
                if shard is None or shard in shards:
                    yield row

    def shard_of(self, row: Row) -> int:
        """Return the shard of a row; raises InputError if the run has no such shard."""
        shard = row.value("shard")
        if not isinstance(shard, int) or not 0 <= shard < len(self.shards):
            reason = f"expected a shard of the run, 0 to {len(self.shards) - 1}"
            raise row.error("shard", f"{reason}, got {row['shard']!r}")
        return shard

    def evaluate_shard_of(self, row: Row) -> int | None:
        """Return the shard that computes the second stage of a row, None if it has one stage.

        Raises InputError if the run has no such shard.
        """
        if not row["evaluate_shard"]:
            return None
        shard = row.value("evaluate_shard")
        first = self.shards[self.shard_of(row)].array
        if shard >= len(self.shards) or self.arrays[self.shards[shard].array].follows != first:
            reason = f"expected a shard of an array that follows array {first}"
            raise row.error("evaluate_shard", f"{reason}, got {row['evaluate_shard']!r}")
        return int(shard)

    def columns(self) -> list[str]:
        """Return the columns of the manifest."""
        path = self.path / JOBS
        with open_regular_text(path) as stream:
            return CsvReader(stream, str(path)).header

    def eval_ids(self) -> Iterator[str]:
        """Yield the eval_id of each row without checking the other cells.

        Raises InputError if a line is not as long as the header.
        """
        path = self.path / JOBS
        with open_regular_text(path) as stream:
            records = CsvReader(stream, str(path), required=["eval_id"])
            column = records.header.index("eval_id")
            for _, cells in records:
                yield cells[column]

    def to_json(self) -> dict[str, Any]:
        """Return the run object: what run.json holds and commands pass on."""
        jobs = [submission.to_json() for submission in self.submissions]
        nodes = [record.to_json() for record in self.nodes]
        # The directory may have been moved.
        ours = {"run_dir": str(self.path), "jobs": jobs, **({"nodes": nodes} if nodes else {})}
        return {**self.content, **ours}

    def save(self) -> None:
        """Write run.json."""
        content = json_codec.dumps(self.to_json(), indent=True) + b"\n"
        atomic.write_file(self.path / RUN, content)


def new_record(
    path: Path,
    settings: Mapping[str, Any],
    *,
    worker: bytes,
    arrays: Iterable[Array],
    shards: Iterable[Shard],
) -> dict[str, Any]:
    """Return what run.json holds of a run that is made now, without rows, a plan and jobs."""
    return {
        "schema_version": schema.VERSION,
        "run_dir": str(path),
        "user": user_name(),
        # Runs of one second are listed in their order, too.
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
        "oellm_version": __version__,
        "cluster": dict(settings),
        "worker": {"file": WORKER, "sha256": hashlib.sha256(worker).hexdigest()},
        "n_rows": 0,
        "plan": {},
        "arrays": [array.to_json() for array in arrays],
        "shards": [shard.to_json() for shard in shards],
        "jobs": [],
    }


def load_run(path: str | Path) -> Run:
    """Read a run directory; raises InputError if it is none."""
    directory = Path(os.path.abspath(path))
    try:
        content = json_codec.loads(read_regular(directory / RUN))
    except FileNotFoundError:
        found = (
            f"not a run directory: {RUN} is missing" if directory.is_dir() else "no such directory"
        )
        raise InputError(found, str(path)) from None
    except RefusedFileError as error:
        raise InputError(str(error), str(directory / RUN)) from None
    except NotADirectoryError:
        text = "expected a run directory, got a file; a run object goes to stdin"
        raise InputError(text, str(path)) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON: {error}", str(directory / RUN)) from None
    return Run(directory, _checked(content, str(directory / RUN)))


def open_run(path: str | None, open_stdin: Callable[[], AbstractContextManager[TextIO]]) -> Run:
    """Return the run in a directory, or, if `path` is None or `-`, the run object on stdin.

    Raises InputError if there is no run, and NoRunError as `parse_run_object` does.
    """
    if path not in (None, "-"):
        return load_run(str(path))
    with open_stdin() as stream:
        return parse_run_object(stream.read(), "stdin")


def parse_run_object(text: str, source: str) -> Run:
    """Return the run that a run object (from oe-render or oe-submit) names.

    The object only says where the run directory is; the directory's own run.json counts.
    Raises InputError if the text is no run object, and NoRunError if it says that the manifest
    had no rows.
    """
    if not text.strip():
        raise InputError("expected a run object, got nothing: did the command before fail?", source)
    try:
        content = json_codec.loads(text.encode("utf-8", "surrogateescape"))
    except ValueError as error:
        line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        raise InputError(
            f"expected a run object in JSON: {getattr(error, 'msg', error)}",
            f"{source}:{line}:{column}",
        ) from None
    if content == NO_RUN:
        raise NoRunError("nothing to do: the manifest had no rows")
    return load_run(_checked(content, source)["run_dir"])


def _checked(content: Any, source: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InputError("expected a run object", source)
    for key, spec in schema.table("run").items():
        if key not in content and not spec.get("optional"):
            raise InputError(f"expected a run object with the key {key!r}", source)
    if content["schema_version"] != schema.VERSION:
        raise InputError(
            f"expected schema version {schema.VERSION}, got {content['schema_version']!r}: "
            "use the version of oellm that rendered the run",
            source,
        )
    try:
        run_record.check_members(content)
    except RecordError as error:
        raise InputError(str(error), source, column=error.key) from None
    return content
