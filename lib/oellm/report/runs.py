"""What run directories tell beyond their scores: what failed, with which software, at what cost.

Slurm is not asked: what is told of jobs is what the files of a run say.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from oellm.errors import InputError
from oellm.metrics.records import MetricRecord
from oellm.runs import run_directory
from oellm.runs.result_store import ResultStore
from oellm.runs.run_directory import Run
from oellm.status.observer import Observer
from oellm.status.run_status import join_evidence
from oellm.status.statuses import EvalState, RowStatus, Totals

# Kinds of time, each with the keys of a result's `timing` that it is the sum of. While a row waits
# for the model (wait_s) the model loads or answers other rows: that time is theirs.
_PHASES = {
    "start": ("start_s", "imports_s"),
    "model load": ("model_load_s",),
    "prompts": ("task_index_s", "task_build_s", "requests_s", "tokenize_s"),
    "scoring": ("scoring_s",),
    "metrics": ("metrics_s", "writing_s"),
}
# A page has so many rows without a result of each run.
_SHOWN = 500


class Share(NamedTuple):
    """One kind of the time that a run's results took."""

    phase: str
    seconds: float
    # Share of all kinds together, and where it begins on a bar of length 1.
    share: float
    begin: float


class Software(NamedTuple):
    """What the results of a run were made with; each text with how many results have it."""

    versions: Counter[str]
    containers: Counter[str]
    hardware: Counter[str]


class RunFacts(NamedTuple):
    """What a run directory tells."""

    path: str
    # Of run.json.
    record: Mapping[str, Any]
    totals: Totals
    # Rows without a result, as many as are shown.
    unfinished: list[RowStatus]
    software: Software
    split: list[Share]
    # When the first result was begun and the last one ended, UTC; empty without a result.
    first: str
    last: str


class Unknown(NamedTuple):
    """A run directory, or a file of results, that cannot be looked into."""

    path: str
    reason: str


def places(records: Iterable[MetricRecord]) -> list[str]:
    """Return the run directories that records name, in their order."""
    return list(dict.fromkeys(record.run_dir for record in records if record.run_dir))


def look(paths: Iterable[str], report: Callable[[str], None]) -> Iterator[RunFacts | Unknown]:
    """Yield what each run directory tells; `report` is told of what cannot be known."""
    for path in paths:
        if not os.path.exists(path):
            yield Unknown(path, "not on the machine that made this page")
        elif not os.path.exists(os.path.join(path, run_directory.RUN)):
            yield Unknown(path, "not a run directory of oellm: only its scores are known")
        else:
            try:
                yield _facts(run_directory.load_run(path), report)
            except (InputError, OSError) as error:
                report(str(error))
                yield Unknown(path, str(error))
            except (TypeError, ValueError, AttributeError, LookupError) as error:
                # What is in a result besides its scores is checked by nobody before this.
                reason = f"times or versions in its results make no sense: {error!r}"
                report(f"{path}: {reason}")
                yield Unknown(path, reason)


def _facts(run: Run, report: Callable[[str], None]) -> RunFacts:
    status = join_evidence(Observer(run, report, asks_slurm=False).look())
    rows = [row for shard in status.shards for row in shard.rows]
    results = list(_results(run, rows))
    times = [result["timing"] for result in results if isinstance(result.get("timing"), dict)]
    return RunFacts(
        path=str(run.path),
        record=run.content,
        totals=status.totals,
        unfinished=[row for row in rows if row.state is not EvalState.DONE][:_SHOWN],
        software=_software(result.get("provenance") or {} for result in results),
        split=_split(times),
        first=min((t["started"] for t in times if t.get("started")), default=""),
        last=max((t["finished"] for t in times if t.get("finished")), default=""),
    )


def _results(run: Run, rows: Iterable[RowStatus]) -> Iterator[dict[str, Any]]:
    """Yield the key `oellm` of the results of rows that are done, without their metrics."""
    store = ResultStore(run.path)
    for row in rows:
        if row.state is EvalState.DONE:
            result = store.valid_result(row.row["eval_id"])
            if result is not None:
                yield {key: result["oellm"].get(key) for key in ("timing", "provenance")}


def _software(provenances: Iterable[Mapping[str, Any]]) -> Software:
    found = Software(Counter(), Counter(), Counter())
    for provenance in provenances:
        versions = provenance.get("versions") or {}
        gpus = (provenance.get("accelerator") or {}).get("gpus") or []
        cpu = (provenance.get("cpu") or {}).get("model", "")
        texts = (
            ", ".join(f"{name} {version}" for name, version in versions.items()),
            (provenance.get("container") or {}).get("path", ""),
            f"{len(gpus)} × {gpus[0]['name']}" if gpus else cpu,
        )
        for counter, text in zip(found, texts, strict=True):
            if text:
                counter[text] += 1
    return found


def _split(times: Iterable[Mapping[str, Any]]) -> list[Share]:
    sums: Counter[str] = Counter()
    for timing in times:
        for phase, keys in _PHASES.items():
            sums[phase] += sum(timing.get(key) or 0 for key in keys)
    whole, begin, shares = sum(sums.values()), 0.0, []
    for phase, seconds in sums.items():
        if seconds:
            shares.append(Share(phase, seconds, seconds / whole, begin))
            begin += seconds / whole
    return shares
