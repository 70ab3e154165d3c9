"""How long rows took in earlier runs, from the results of whoever wrote to the same directory.

A result never changes once it has its name, so each is parsed once. What was found in a run
directory is kept in a file of the user's cache, as JSON; a run without new results costs reading
that file and asking when the directory of results changed. Nothing here is an error: what is not
there, cannot be read or makes no sense is no measurement.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from oellm import frameworks
from oellm.core import atomic, json_codec
from oellm.core.paths import cache_directory
from oellm.errors import InputError
from oellm.manifest import rows
from oellm.manifest.rows import Row
from oellm.plan.costs import Measurement
from oellm.runs import result_store, run_directory

# Runs whose results count, this cluster's before others'; and the runs, latest first by their
# names, among which these are looked for.
MOST_RUNS = 200
_MOST_LOOKED_AT = 1000
# Part of every cache file's name: another layout of the files is another file.
_LAYOUT = 1
# Files that are read at once: a parallel file system answers each only after a while.
_READERS = 8
# What a file or its content raises that is not as it should be.
_UNUSABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, InputError)
_COLUMNS = (
    *("model_path", "task_path", "n_shot", "eval_suite", "backend", "dtype", "tp", "model_args"),
    *("limit", "batch_size", "gen_kwargs", "model_bytes", "n_docs", "n_requests", "request_types"),
)


def read(eval_output_dir: str, cluster: str, environ: Mapping[str, str]) -> list[Measurement]:
    """Return the measurements in USER/RUN/results/ below a directory, of all users.

    Of the latest MOST_RUNS runs; those of the cluster come before others.
    """
    found: list[_RunTimes] = []
    others: list[_RunTimes] = []
    for path in _latest(eval_output_dir):
        run = _RunTimes(path, cache_directory(environ) / "measured")
        (found if run.cluster == cluster else others).append(run)
        if len(found) == MOST_RUNS:
            break
    with ThreadPoolExecutor(_READERS, thread_name_prefix="results") as pool:
        return [each for run in [*found, *others][:MOST_RUNS] for each in run.measurements(pool)]


def measurement(result: Any) -> Measurement | None:
    """Return what a result says about times, None where it does not say it of the whole row.

    Nor of a row some of whose answers an earlier attempt had. Raises any of ValueError, TypeError,
    LookupError, AttributeError and InputError for what is no result.
    """
    if problem := result_store.problem(result):
        raise ValueError(problem)
    record = result["oellm"]
    timing, usage, provenance = record["timing"], record["usage"], record["provenance"]
    if usage["requests_kept"] or not usage["requests"] or not usage["documents"]:
        return None
    gpus = sorted({gpu["name"] for gpu in provenance["accelerator"]["gpus"]})
    building_s = timing["task_index_s"] + timing["task_build_s"]
    return _checked(
        Measurement(
            Row(_cells(result)),
            ", ".join(gpus) or provenance["cpu"]["model"],
            provenance.get("cluster", ""),
            timing["finished"],
            timing["scoring_s"],
            building_s,
            max(0.0, timing["row_s"] - timing["wait_s"] - timing["scoring_s"] - building_s),
            timing.get("model_load_s", 0.0),
            timing.get("start_s", 0.0) + timing.get("imports_s", 0.0),
        )
    )


def _cells(result: Any) -> dict[str, str]:
    """Return the cells of a result's row that times depend on, with the sizes that it had."""
    record = result["oellm"]
    cells = {name: record["row"][name] for name in _COLUMNS if record["row"].get(name)}
    cells["n_shot"] = record["row"]["n_shot"]
    cells["n_docs"] = str(record["usage"]["documents"])
    cells["n_requests"] = str(record["usage"]["requests"])
    if total := record["provenance"]["model"].get("total_bytes"):
        cells.setdefault("model_bytes", str(total))
    framework = frameworks.native_results(Row(cells).value("eval_suite"))
    types = framework.request_types(result) if framework is not None else frozenset()
    if len(types) == 1 and (kind := next(iter(types))):
        cells.setdefault("request_types", f"{kind}={cells['n_requests']}")
    return cells


def _checked(found: Measurement) -> Measurement:
    """Return a measurement; raises ValueError, TypeError or InputError where it cannot be one."""
    if not all(isinstance(text, str) for text in (*found[1:4], *found.row.cells.values())):
        raise TypeError("expected texts")
    if not all(math.isfinite(seconds) and seconds >= 0 for seconds in found[4:]):
        raise ValueError("expected times")
    rows.checked(found.row)
    if not (found.row.value("n_docs") and found.row.value("n_requests")):
        raise ValueError("expected documents and requests")
    return found


def _latest(eval_output_dir: str) -> Iterator[Path]:
    """Yield run directories, the latest by their names first."""
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
        # Of the directory of results when it was listed.
        self._changed_ns = 0
        # By the name of the result; None for one that is no measurement.
        self._by_name: dict[str, Measurement | None] = {}
        self.cluster = ""
        try:
            self._restore()
        except _UNUSABLE:
            self._by_name.clear()
            with contextlib.suppress(*_UNUSABLE):
                self.cluster = str(run_directory.load(path).setting("name"))

    def measurements(self, pool: ThreadPoolExecutor) -> Iterable[Measurement]:
        """Return the measurements, after reading the results that are new."""
        with contextlib.suppress(OSError):
            self._look(pool)
        return (found for found in self._by_name.values() if found is not None)

    def _look(self, pool: ThreadPoolExecutor) -> None:
        directory = self._path / "results"
        # Before it is listed: what is added later counts the next time.
        changed_ns = directory.stat().st_mtime_ns
        if changed_ns == self._changed_ns:
            return
        names = [name for name in os.listdir(directory) if _is_result(name)]
        new = sorted(name for name in names if name not in self._by_name)
        for name, found in zip(
            new, pool.map(lambda name: _read(directory / name), new), strict=True
        ):
            # A damaged one is set aside one day, and another takes its name.
            if found is not _DAMAGED:
                self._by_name[name] = found
        self._changed_ns = changed_ns
        self._keep()

    def _keep(self) -> None:
        content = {
            "cluster": self.cluster,
            "changed_ns": self._changed_ns,
            "results": {
                name: found and [dict(found.row.cells), *found[1:]]
                for name, found in self._by_name.items()
            },
        }
        # A full or read-only disk costs the next command the reading, and this one nothing.
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_file(self._file, json_codec.dumps(content))

    def _restore(self) -> None:
        """Take what is kept; raises one of _UNUSABLE where nothing is, or something else."""
        content = json_codec.loads(self._file.read_bytes())
        self._by_name = {
            name: None if fields is None else _checked(Measurement(Row(fields[0]), *fields[1:]))
            for name, fields in content["results"].items()
        }
        self.cluster, self._changed_ns = str(content["cluster"]), content["changed_ns"]


_DAMAGED = object()


def _read(path: Path) -> Any:
    """Return the measurement of a result file, None where it is none, or _DAMAGED."""
    try:
        return measurement(json_codec.loads(path.read_bytes()))
    except _UNUSABLE:
        return _DAMAGED


def _is_result(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")
