"""How long rows took in earlier runs, from the results of all users of the same directory.

A result never changes once it has its name, so each is parsed once. What a run directory contained
is kept as JSON in a file of the user's cache; a run without new results costs reading that file and
one look at the directory's time of change. Nothing here is an error: a file that is missing,
unreadable or makes no sense is no measurement.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from oellm import frameworks
from oellm.core import atomic, json_codec
from oellm.core.paths import cache_directory
from oellm.core.regular_files import read_regular
from oellm.errors import InputError
from oellm.manifest import rows
from oellm.manifest.rows import Row
from oellm.plan.measured_rates import Measurement
from oellm.runs import run_directory
from oellm.runs.result_file import check_result, read_record
from oellm.runs.result_record import RowTiming

# Runs whose results count, this cluster's before others'; and runs, latest first by their names,
# that are looked at to find these.
MOST_RUNS = 200
_MOST_LOOKED_AT = 1000
# Bytes of a result that is read; most have 20 kB.
_LARGEST = 2**23
# Part of every cache file's name, so that files of another layout are not read.
_LAYOUT = 1
# Files that are read at once: a parallel file system takes its time to answer for each.
_READERS = 8
# What reading or parsing a bad file raises.
_UNUSABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, InputError)
_COLUMNS = (
    *("model_path", "task_path", "n_shot", "eval_suite", "backend", "dtype", "tp", "model_args"),
    *("limit", "batch_size", "gen_kwargs", "model_bytes", "n_docs", "n_requests", "request_types"),
)


class EarlierResults(NamedTuple):
    """What earlier runs have.

    Attributes:
        measurements: What their results say about times.
        eval_ids: The rows that have results.
    """

    measurements: list[Measurement]
    eval_ids: frozenset[str]


def read_measurements(
    eval_output_dir: str, cluster: str, environ: Mapping[str, str]
) -> EarlierResults:
    """Return what is in USER/RUN/results/ below a directory, of all users.

    The latest MOST_RUNS runs count; those of the cluster come before others.
    """
    own: list[_RunTimes] = []
    others: list[_RunTimes] = []
    for path in _find_latest_runs(eval_output_dir):
        run = _RunTimes(path, cache_directory(environ) / "measured")
        (own if run.cluster == cluster else others).append(run)
        if len(own) == MOST_RUNS:
            break
    with ThreadPoolExecutor(_READERS, thread_name_prefix="results") as pool:
        runs = [*own, *others][:MOST_RUNS]
        measurements = [one for run in runs for one in run.measurements(pool)]
    return EarlierResults(measurements, frozenset(name for run in runs for name in run.eval_ids()))


def parse_measurement(result: Any) -> Measurement | None:
    """Return what a result says about times, None if an earlier attempt answered a part of the row.

    Raises any of ValueError, TypeError, LookupError, AttributeError and InputError for what is no
    result.
    """
    check_result(result)
    record = read_record(result)
    timing, usage, provenance = record.timing, record.usage, record.provenance
    if usage.requests_kept or not usage.requests or not usage.documents:
        return None
    if provenance.gpus is None:
        raise ValueError("the hardware is not known")
    is_program = timing.evaluate_s is not None and timing.scoring_s is None
    if is_program:
        timing = _as_scoring(timing)
    scoring_s = _known(timing.scoring_s)
    building_s = _known(timing.task_index_s) + _known(timing.task_build_s)
    working_s = _known(timing.row_s) - _known(timing.wait_s)
    return _check(
        Measurement(
            row=Row(_cells(result)),
            gpu=", ".join(sorted(set(provenance.gpus))) or provenance.cpu,
            cluster=provenance.cluster,
            finished=timing.finished,
            scoring_s=scoring_s,
            building_s=building_s,
            beside_s=max(0.0, working_s - scoring_s - building_s),
            load_s=timing.model_load_s or 0.0,
            start_s=(timing.start_s or 0.0) + (timing.imports_s or 0.0),
            second_s=timing.evaluate_s or 0.0,
            is_program=is_program,
        )
    )


def _as_scoring(timing: RowTiming) -> RowTiming:
    """Return the times of programs with that of the first or only stage as scoring_s."""
    first_s, second_s = timing.generate_s, timing.evaluate_s
    if first_s is None:
        first_s, second_s = second_s, None
    return dataclasses.replace(
        timing,
        scoring_s=first_s,
        evaluate_s=second_s,
        row_s=first_s,
        task_index_s=0.0,
        task_build_s=0.0,
        wait_s=0.0,
    )


def _known(seconds: float | None) -> float:
    if seconds is None:
        raise ValueError("the time of a step is not known")
    return seconds


def _cells(result: Any) -> dict[str, str]:
    """Return the cells of a result's row that times depend on, with its measured sizes."""
    record = read_record(result)
    evaluated, usage = record.cells, record.usage
    cells = {name: evaluated[name] for name in _COLUMNS if evaluated.get(name)}
    cells["n_shot"] = evaluated["n_shot"]
    cells["n_docs"], cells["n_requests"] = str(usage.documents), str(usage.requests)
    if total := record.provenance.model_bytes:
        cells.setdefault("model_bytes", str(total))
    framework = frameworks.native_results(Row(cells).value("eval_suite"))
    types = framework.request_types(result) if framework is not None else frozenset()
    if len(types) == 1 and (kind := next(iter(types))):
        cells.setdefault("request_types", f"{kind}={cells['n_requests']}")
    return cells


def _check(measured: Measurement) -> Measurement:
    """Return a measurement; raises ValueError, TypeError or InputError if it makes no sense."""
    if not all(isinstance(text, str) for text in (*measured[1:4], *measured.row.cells.values())):
        raise TypeError("expected texts")
    if not all(math.isfinite(seconds) and seconds >= 0 for seconds in measured[4:]):
        raise ValueError("expected times")
    rows.check_row(measured.row)
    if not (measured.row.typed.n_docs and measured.row.typed.n_requests):
        raise ValueError("expected documents and requests")
    return measured


def _find_latest_runs(eval_output_dir: str) -> Iterator[Path]:
    """Yield run directories, latest first by their names."""
    runs = []
    for user in _directories(eval_output_dir):
        runs += _directories(user.path)
    for run in sorted(runs, key=lambda run: (run.name, run.path), reverse=True)[:_MOST_LOOKED_AT]:
        yield Path(run.path)


def _directories(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


class _RunTimes:
    """The measurements of one run, and the file that keeps them."""

    def __init__(self, path: Path, cache: Path) -> None:
        self._path = path
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        self._file = cache / f"run-{_LAYOUT}-{digest}.json"
        # Time of change of the directory of results when it was listed.
        self._changed_ns = 0
        # By the name of the result file; None for a result that is no measurement.
        self._by_name: dict[str, Measurement | None] = {}
        self.cluster = ""
        try:
            self._read_cache()
        except _UNUSABLE:
            self._by_name.clear()
            with contextlib.suppress(*_UNUSABLE):
                self.cluster = str(run_directory.load_run(path).setting("name"))

    def measurements(self, pool: ThreadPoolExecutor) -> Iterable[Measurement]:
        """Read the results that are new; return all measurements."""
        with contextlib.suppress(OSError):
            self._read_new(pool)
        return (one for one in self._by_name.values() if one is not None)

    def eval_ids(self) -> Iterator[str]:
        """Yield the rows with results, once `measurements` has read them."""
        return (name.removesuffix(".json") for name in self._by_name)

    def _read_new(self, pool: ThreadPoolExecutor) -> None:
        directory = self._path / run_directory.RESULTS
        # Taken before the listing, so that the next command sees what is added after it.
        changed_ns = directory.stat().st_mtime_ns
        if changed_ns == self._changed_ns:
            return
        names = [name for name in os.listdir(directory) if _is_result(name)]
        new = sorted(name for name in names if name not in self._by_name)
        for name, measured in zip(
            new, pool.map(lambda name: _read(directory / name), new), strict=True
        ):
            # A damaged result is set aside later, and another one takes its name.
            if measured is not _DAMAGED:
                self._by_name[name] = measured
        self._changed_ns = changed_ns
        self._write_cache()

    def _write_cache(self) -> None:
        content = {
            "cluster": self.cluster,
            "changed_ns": self._changed_ns,
            "results": {
                name: measured and [dict(measured.row.cells), *measured[1:]]
                for name, measured in self._by_name.items()
            },
        }
        # If the disk is full or read-only, the next command reads the results again.
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_file(self._file, json_codec.dumps(content))

    def _read_cache(self) -> None:
        """Take what the cache has; raises one of _UNUSABLE if it has nothing usable."""
        content = json_codec.loads(read_regular(self._file))
        self._by_name = {
            name: None if fields is None else _check(Measurement(Row(fields[0]), *fields[1:]))
            for name, fields in content["results"].items()
        }
        self.cluster, self._changed_ns = str(content["cluster"]), content["changed_ns"]


_DAMAGED = object()


def _read(path: Path) -> Any:
    """Return the measurement of a result file, None if it says nothing about times, or _DAMAGED."""
    try:
        return parse_measurement(json_codec.loads(read_regular(path, _LARGEST)))
    except _UNUSABLE:
        return _DAMAGED


def _is_result(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")
