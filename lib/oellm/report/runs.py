"""Facts about run directories besides their scores: failures, software, times, GPU-hours.

They come from the files of the runs alone, without asking Slurm.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from oellm.core.log import Log
from oellm.errors import InputError
from oellm.metrics.records import MetricRecord
from oellm.runs import run_directory
from oellm.runs.result_file import Result, read_record
from oellm.runs.result_record import RowTiming
from oellm.runs.run_directory import Run
from oellm.status.observer import Observer
from oellm.status.run_status import join_evidence
from oellm.status.statuses import EvalState, RowStatus, Totals

# The phases of an evaluation, each with the steps of RowTiming that add up to it. The time
# that a row waits for the model (wait_s) is missing: then the model loads, or scores other rows,
# and that time is counted there.
_PHASES = {
    "start": ("start_s", "imports_s"),
    "model load": ("model_load_s",),
    "prompts": ("task_index_s", "task_build_s", "requests_s", "tokenize_s"),
    "scoring": ("scoring_s",),
    "metrics": ("metrics_s", "writing_s"),
}
# The largest number of unfinished rows that a page names for one reason.
_SHOWN = 100
# Numbers, as of lines, ports and processes, do not make another reason.
_NUMBERS = re.compile(r"\b(?:0x)?[0-9a-f]*[0-9][0-9a-f]*\b")


class PhaseShare(NamedTuple):
    """The time of all results of a run in one phase.

    Attributes:
        share: the share of the time in all phases.
        begin: where the share begins on a bar of length 1.
    """

    phase: str
    seconds: float
    share: float
    begin: float


class ReasonGroup(NamedTuple):
    """Rows that have no result for one reason.

    Attributes:
        reason: the reason of the first of them.
        log: the log of the first of them; empty if there is none.
        number: how many there are.
        rows: the first of them, at most as many as a page names.
    """

    state: EvalState
    reason: str
    log: str
    number: int
    rows: list[RowStatus]


class RunFacts(NamedTuple):
    """The facts about a run directory.

    Attributes:
        unfinished: rows without a result by reason, the most frequent reason first.
        versions: versions of the software, with the number of results that they made.
        hardware: GPUs or CPUs, with the number of results that were computed on them.
        phases: the times of all results.
        first: when the first evaluation started, in UTC; empty without a result.
        last: when the last evaluation finished, in UTC; empty without a result.
    """

    run: Run
    totals: Totals
    unfinished: list[ReasonGroup]
    versions: Counter[str]
    hardware: Counter[str]
    phases: list[PhaseShare]
    first: str
    last: str


class UnreadableRun(NamedTuple):
    """A run directory, or a file of results, about which only the scores are known."""

    path: str
    reason: str


def list_run_dirs(records: Iterable[MetricRecord]) -> list[str]:
    """Return the run directories that records name, each once."""
    return list(dict.fromkeys(record.run_dir for record in records if record.run_dir))


def read_runs(paths: Iterable[str], log: Log) -> Iterator[RunFacts | UnreadableRun]:
    """Yield the facts about each run directory; `log` is told of damaged ones."""
    for path in paths:
        if not os.path.exists(path):
            yield UnreadableRun(path, "not on the machine that made this page")
        elif not os.path.exists(os.path.join(path, run_directory.RUN)):
            yield UnreadableRun(path, "not a run directory of oellm: only its scores are known")
        else:
            try:
                yield _read_run(run_directory.load_run(path), log)
            except (InputError, OSError) as error:
                log(str(error))
                yield UnreadableRun(path, str(error))
            except (TypeError, ValueError, AttributeError, LookupError) as error:
                # Valid results have checked scores, but their times and versions are unchecked.
                reason = f"times or versions in its results make no sense: {error!r}"
                log(f"{path}: {reason}")
                yield UnreadableRun(path, reason)


class _ResultFacts:
    """Adds up facts about results, one after the other."""

    def __init__(self) -> None:
        self.versions: Counter[str] = Counter()
        self.hardware: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.started: list[str] = []
        self.finished: list[str] = []

    def add(self, result: Result) -> None:
        """Add a valid result."""
        record = read_record(result)
        self._add_times(record.timing)
        provenance = record.provenance
        if provenance.versions:
            versions = (f"{name} {text}" for name, text in provenance.versions.items())
            self.versions[", ".join(versions)] += 1
        gpus = provenance.gpus
        if hardware := f"{len(gpus)} × {gpus[0]}" if gpus else provenance.cpu:
            self.hardware[hardware] += 1

    def _add_times(self, timing: RowTiming) -> None:
        for phase, steps in _PHASES.items():
            self.seconds[phase] += sum(getattr(timing, step) or 0 for step in steps)
        if timing.started:
            self.started.append(timing.started)
        if timing.finished:
            self.finished.append(timing.finished)

    def phases(self) -> list[PhaseShare]:
        """Return the phases that took time, with their shares."""
        whole, begin, shares = sum(self.seconds.values()), 0.0, []
        for phase, seconds in self.seconds.items():
            if seconds:
                share = seconds / whole
                shares.append(PhaseShare(phase, seconds, share=share, begin=begin))
                begin += share
        return shares


def _read_run(run: Run, log: Log) -> RunFacts:
    facts = _ResultFacts()
    observer = Observer(run, log, asks_slurm=False, on_result=facts.add)
    status = join_evidence(observer.look())
    return RunFacts(
        run=run,
        totals=status.totals,
        unfinished=_group_by_reason(
            row for row in status.states if row.state is not EvalState.DONE
        ),
        versions=facts.versions,
        hardware=facts.hardware,
        phases=facts.phases(),
        first=min(facts.started, default=""),
        last=max(facts.finished, default=""),
    )


def _group_by_reason(rows: Iterable[RowStatus]) -> list[ReasonGroup]:
    groups: dict[tuple[str, EvalState, str], list[RowStatus]] = {}
    for row in rows:
        groups.setdefault((row.stage, row.state, _NUMBERS.sub("#", row.text)), []).append(row)
    return [
        ReasonGroup(
            state=of_one[0].state,
            reason=_describe_reason(of_one[0]),
            log=of_one[0].log,
            number=len(of_one),
            rows=of_one[:_SHOWN],
        )
        for of_one in sorted(groups.values(), key=len, reverse=True)
    ]


def _describe_reason(row: RowStatus) -> str:
    """Return why a row has no result, and in which stage if it has two."""
    return f"{row.stage}: {row.text}" if row.stage else row.text
