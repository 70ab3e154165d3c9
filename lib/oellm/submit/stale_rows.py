"""Results of a run that are out of date: names them, and sets them aside or keeps them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from oellm.core.log import Log
from oellm.frameworks.stale_results import ResultOrigin, StaleResults
from oellm.manifest.rows import Row
from oellm.runs.accepted_contents import read_accepted, write_accepted
from oellm.runs.result_record import ResultRecord
from oellm.runs.result_store import ResultStore
from oellm.runs.run_directory import Run
from oellm.runs.stages.stage_store import StageOutput, StageStore


class StaleResult(NamedTuple):
    """A result that is out of date.

    Attributes:
        eval_id: Its row.
        finished: When it was computed.
        reason: What it is a result of, and what has changed, for the user.
        states: The earlier states that it is of.
    """

    eval_id: str
    finished: str
    reason: str
    states: tuple[str, ...]


class StaleOutput(NamedTuple):
    """The output of a first stage that is out of date, with why, and the states that it is of."""

    output: StageOutput
    reason: str
    states: tuple[str, ...]


class StaleRows:
    """The rows of a run with results that are out of date.

    With `accept` these results count, for this and all later commands.
    """

    def __init__(self, run: Run, log: Log, *, accept: bool = False) -> None:
        self._run = run
        self._log = log
        self._accept = accept
        self._contents = StaleResults(run, log)
        self._found: list[StaleResult] = []
        # By their keys: rows may share one.
        self._outputs: dict[str, StaleOutput] = {}
        self._is_settled = False

    def fits(self, row: Row, record: ResultRecord) -> bool:
        """Return whether the result of a row counts; notes it if it is out of date."""
        staleness = self._contents.find(row, ResultOrigin.of(row, record))
        if staleness is None:
            return True
        reason, states = staleness.describe(row), staleness.states
        self._found.append(StaleResult(row["eval_id"], record.finished, reason, states=states))
        return self._accept

    def output_fits(self, row: Row, output: StageOutput) -> bool:
        """Return whether the output of a row's first stage counts; notes it if it is stale."""
        if (staleness := self._contents.find_output(row, output.record)) is None:
            return True
        reason, states = staleness.describe(row), staleness.states
        self._outputs[output.record.key] = StaleOutput(output, reason, states)
        return self._accept

    def note(self, row: Row) -> None:
        """Note what a row would be evaluated from now."""
        self._contents.accept(row)

    def describe(self, *, dry_run: bool = False) -> Iterator[str]:
        """Yield a line for each reason why results are out of date, and what becomes of them."""
        verdict = "kept" if self._accept else "set aside, to be evaluated again"
        if dry_run:
            verdict = "would be kept" if self._accept else "would be evaluated again"
        for reason, count in Counter(stale.reason for stale in self._found).items():
            results = "1 result" if count == 1 else f"{count} results"
            yield f"{results}{reason}; {verdict}"
        for reason, count in Counter(stale.reason for stale in self._outputs.values()).items():
            outputs = "the output" if count == 1 else f"{count} outputs"
            yield f"{outputs} of a first stage{reason}; {verdict}"

    def settle(self) -> None:
        """Set aside what is out of date, or keep it, and write what the run evaluates from now on.

        The caller holds the lock of the run. Later calls do nothing: a command that waits for hours
        looked at the files when it began, and others may have accepted other states since.
        """
        if self._is_settled:
            return
        for line in self.describe():
            self._log(line)
        store = ResultStore(self._run.path)
        for stale in self._found:
            if self._accept:
                self._contents.keep(stale.states)
            else:
                store.set_stale_aside(stale.eval_id, stale.finished)
        stages = StageStore(self._run.path)
        for old in self._outputs.values():
            if self._accept:
                self._contents.keep(old.states)
            else:
                stages.set_stale_aside(old.output)
        self._found.clear()
        self._outputs.clear()
        accepted = self._contents.merge_into(read_accepted(self._run.path))
        write_accepted(self._run.path, accepted)
        self._is_settled = True
