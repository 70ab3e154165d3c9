"""What rows must be evaluated from, and whether that is still so.

A run accepts one state of each model and task (contents.json). A worker evaluates no row that has
another one by now, since its result would stand beside results of the accepted state.
"""

from __future__ import annotations

from oellm.core.log import Log
from oellm.errors import OellmError
from oellm.frameworks.current_contents import ContentsReader, definition_version
from oellm.frameworks.stale_results import ResultOrigin, Staleness, find_staleness
from oellm.manifest.rows import Row
from oellm.models.identity import pinned_commit
from oellm.runs.accepted_contents import (
    AcceptedContents,
    AcceptedTask,
    describe_states,
    model_source,
    task_source,
)
from oellm.runs.contents import Contents, find_changes
from oellm.runs.result_record import ResultRecord

# What to do if the state that oe-submit has accepted is gone, and if it is that of the manifest.
_SUBMIT_AGAIN = "since oe-submit; run oe-submit again"
_FETCH_AGAIN = "since oe-fetch; run oe-fetch and oe-render again"


class ContentsChangedError(OellmError):
    """A row is not evaluated, because its model or task is in another state than expected."""


class RowContents:
    """The states of the models and tasks of a worker's rows.

    `accepted` is what the run has accepted; None for rows that belong to no run, which are
    evaluated from whatever there is.
    """

    def __init__(self, accepted: AcceptedContents | None, log: Log) -> None:
        self._accepted = accepted
        directories = accepted.directories if accepted is not None else {}
        self._reader = ContentsReader(None, log, directories)
        # The digest of each model when its first row began.
        self._models: dict[str, str] = {}

    def expect(self, row: Row) -> Contents:
        """Return what a row that begins now must be evaluated from, as far as that is known."""
        task = self._expected_task(row)
        return Contents(
            model=self._expected_model(row) or pinned_commit(row["model_revision"]),
            task=task.digest,
            task_version=task.version,
            data=row["dataset_revision"] if self._accepted is not None else "",
        )

    def require_unchanged(self, row: Row) -> Contents:
        """Return what a row would be evaluated from now.

        Raises ContentsChangedError if that is something else than expected.
        """
        self._reader.models.forget()
        now = Contents(self._reader.models.digest(row), self._reader.task(row).digest)
        require_same(self.expect(row), now, row)
        return now

    def as_task_of(self, contents: Contents, row: Row, other: Row) -> Contents:
        """Return the contents of a row with the task of another row, if that has another task.

        A first stage is computed for the task that several tasks have in common.
        """
        if row["task_path"] == other["task_path"]:
            return contents
        task = self._reader.task(other)
        return contents._replace(task=task.digest, task_version=task.version)

    def without_kept(self, contents: Contents, row: Row) -> Contents:
        """Return contents without those that are of an earlier state that the run keeps."""
        kept = self._accepted.kept if self._accepted is not None else ()
        states = describe_states(contents, row["task_path"])
        return contents._replace(**{name: "" for name, text in states.items() if text in kept})

    def find_staleness(self, row: Row, record: ResultRecord) -> Staleness | None:
        """Return how a stored result is out of date, if its row belongs to no run.

        In a run, oe-submit decides.
        """
        if self._accepted is not None:
            return None
        return find_staleness(row, ResultOrigin.of(row, record), self._reader, kept=())

    def _expected_model(self, row: Row) -> str:
        source = model_source(row)
        if self._accepted is not None:
            known = self._accepted.models.get(source) or row["model_digest"]
            if known:
                return known
        return self._models.setdefault(source, self._reader.models.digest(row))

    def _expected_task(self, row: Row) -> AcceptedTask:
        if self._accepted is None:
            return AcceptedTask("")
        task = self._accepted.tasks.get(task_source(row))
        if task is None:
            return AcceptedTask(row["task_digest"], row["task_version"])
        # Another version of the framework may take another digest of the same files.
        is_comparable = task.framework_version in ("", definition_version(row.typed.eval_suite))
        return task if is_comparable else AcceptedTask("", task.version)


def require_same(expected: Contents, found: Contents, row: Row) -> None:
    """Raise ContentsChangedError if a row has other contents than expected."""
    if changes := find_changes(expected, found, row["task_path"]):
        # oe-submit sees the files of local models, and tasks that do not come with the framework.
        is_of_model = bool(find_changes(Contents(expected.model), Contents(found.model)))
        is_seen = is_of_model or bool(row["include_path"]) or "/" in row["task_path"]
        advice = _SUBMIT_AGAIN if is_seen else _FETCH_AGAIN
        raise ContentsChangedError(f"{', '.join(changes)} {advice}")
