"""Finds the runs that a user looks for: by name, model, task, user and state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from oellm.core.log import Log
from oellm.errors import InputError, UsageError, nearest
from oellm.runs.places.named_runs import list_runs
from oellm.runs.run_directory import Run
from oellm.status.statuses import EvalState, RunStatus


class RunSearch(NamedTuple):
    """What runs have to be like. Patterns are as in a shell; those that are empty match all.

    Attributes:
        name: Pattern of the name of the run, or of its directory.
        model: Pattern of a model_path of the manifest, or of the end of one after a slash.
        task: Likewise of a task_path.
        user: Pattern of a user's directory below eval_output_dir.
        states: The run has rows in one of these states; all of its rows if that is DONE.
    """

    name: str = ""
    model: str = ""
    task: str = ""
    user: str = ""
    states: frozenset[EvalState] = frozenset()

    def list_runs(self, output_dir: Path, log: Log) -> list[Run]:
        """Return the runs of the users, newest first; `log` gets those that are damaged."""
        places = (path for path in sorted(output_dir.glob("*")) if _fits(path.name, self.user))
        return list_runs(places, log)

    def find(
        self, runs: Iterable[Run], look: Callable[[Run], RunStatus], log: Log
    ) -> Iterator[RunStatus | None]:
        """Yield for each run its status, or None if it does not fit or is damaged."""
        for run in runs:
            try:
                status = look(run) if self._may_fit(run) else None
            # One damaged run must not hide the others.
            except InputError as error:
                log(str(error))
                status = None
            except OSError as error:
                log(f"{error.filename or run.path}: {error.strerror or error}")
                status = None
            yield status if status is not None and self._has_state(status) else None

    def _may_fit(self, run: Run) -> bool:
        if self.name and not any(fnmatchcase(n, self.name) for n in (run.name, run.path.name)):
            return False
        if not (self.model or self.task):
            return True
        return any(
            any(_fits(text, self.model) for text in (row["model_path"], row.model.path))
            and _fits(row["task_path"], self.task)
            for row in run.rows()
        )

    def _has_state(self, status: RunStatus) -> bool:
        total = status.totals
        found = {s for s in EvalState if s is not EvalState.DONE and total.number_in(s)}
        return not self.states or bool(self.states & {total.state, *found})


def parse_states(text: str) -> frozenset[EvalState]:
    """Return the states in a list separated by commas; raises UsageError for another word."""
    names = {state.name.lower(): state for state in EvalState}
    states = []
    for word in text.split(","):
        name = word.strip().replace("-", "_").replace(" ", "_")
        if name not in names:
            known = ", ".join(state.value for state in EvalState)
            raise UsageError(
                f"--state: expected one of {known}, got {word!r}{nearest(name, names)}"
            )
        states.append(names[name])
    return frozenset(states)


def _fits(text: str, pattern: str) -> bool:
    return not pattern or fnmatchcase(text, pattern) or fnmatchcase(text, f"*/{pattern}")
