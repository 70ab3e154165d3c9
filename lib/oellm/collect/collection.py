"""Collects the results of runs and files, each evaluation once.

Run directories are read row by row, in the order of their manifests, and no result stays in
memory. Files outside of runs must be read first to know what they are, so their scores wait in a
temporary file.
"""

from __future__ import annotations

import functools
import itertools
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from oellm.collect import result_files, result_states
from oellm.collect.duplicates import Duplicates
from oellm.collect.external_results import Identity, LooseScores
from oellm.collect.result_states import ResultState
from oellm.collect.sources import describe_error
from oellm.core import schema
from oellm.core.display import format_count
from oellm.core.log import Log
from oellm.core.processes.process_map import map_in_processes
from oellm.errors import InputError
from oellm.frameworks.stale_results import ResultOrigin, StaleResults
from oellm.manifest.rows import Row
from oellm.metrics.columns import extra_names
from oellm.metrics.scored_rows import ScoredRow
from oellm.runs.result_store import ResultStore
from oellm.runs.run_directory import Run
from oellm.runs.run_record import SHARD_COLUMNS

T = TypeVar("T")
Make = Callable[[Sequence[ScoredRow]], T]

# The number of notes on results that messages show.
_NOTED = 20
# The number of results that a fork reads at a time.
_CHUNK = 256


class Collection:
    """Results from run directories, files and elsewhere.

    Of several results of one evaluation the newest counts, unless `every` is set. `model` is the
    model of results that name none. `log` gets what is left out, and why.

    Attributes:
        failures: The number of results that were left out, because they are damaged or their rows
            had failed.
        valid: The eval_ids of the valid results that were read.
    """

    def __init__(self, log: Log, every: bool = False, model: str = "") -> None:
        self._log = log
        self._every = every
        self._model = model
        # Runs, and places of scores in _loose, in the order of the output.
        self._places: list[Run | int] = []
        self._loose = LooseScores()
        self.failures = 0
        self.valid: set[str] = set()
        self._n_notes = 0
        # Whether a run object says that its manifest had no rows.
        self._is_without_run = False
        # The eval_ids of all manifests.
        self._rows: set[str] = set()
        # The names in metric records of the columns that oellm does not know, by their names.
        self._extra: dict[str, str] = {}

    @property
    def runs(self) -> list[Run]:
        """The run directories."""
        return [place for place in self._places if isinstance(place, Run)]

    def fail(self, text: str) -> None:
        """Log that a result is left out."""
        self.failures += 1
        self._log(text)

    def add_run(self, run: Run) -> None:
        """Add a run directory, once."""
        if run.path not in {other.path for other in self.runs}:
            self._places.append(run)

    def add_no_run(self) -> None:
        """Note that there is no run, because the manifest had no rows."""
        self._is_without_run = True

    def add(self, scored: ScoredRow) -> None:
        """Add scores from outside of run directories."""
        self.failures += len(scored.remarks)
        for text in scored.remarks:
            self._log(f"{scored.run_dir}: {text}")
        for text in scored.notes:
            self._n_notes += 1
            if self._n_notes <= _NOTED:
                self._log(f"{scored.run_dir}: {text}")
        self._note_columns(scored.row.cells)
        # What was only predicted hides no earlier result of the same evaluation.
        if scored.scores:
            self._places.append(self._loose.add(scored))

    def add_sources(self, sources: Iterable[Run | str]) -> None:
        """Add run directories and read files; raises InputError if none of them is a result."""
        skipped, is_result, first = 0, False, ""
        read = functools.partial(_read_files, model=self._model)
        for is_run, places in itertools.groupby(sources, lambda p: isinstance(p, Run)):
            if is_run:
                self._places += [place for place in places if isinstance(place, Run)]
                continue
            chunks = _chunks(str(place) for place in places)
            for file in itertools.chain.from_iterable(map_in_processes(read, chunks)):
                if file.problem:
                    self.fail(f"{file.path}: left out, {file.problem}")
                for scored in file.scored or ():
                    self.add(scored)
                if file.scored is None:
                    skipped, first = skipped + 1, first or file.path
                is_result |= bool(file.scored or file.problem)
        if skipped and not self._places and not is_result:
            text = f"expected a result, got {format_count(skipped, 'other JSON file')}"
            raise InputError(text, first)
        if (more := self._n_notes - _NOTED) > 0:
            self._log(f"and {format_count(more, 'more note')} of this kind")
        if skipped:
            what = "file that is not a result" if skipped == 1 else "files that are not results"
            self._log(f"skipped {skipped} JSON {what}")

    def results(self, make: Make[T]) -> Iterator[T]:
        """Call `make` for a part of the results at a time, and yield what it returns, in order.

        Several processes call it, so what it returns must be picklable.
        """
        for text in self._loose.match(self.runs):
            self._log(text)
        listed: dict[str, Iterable[str]] = {str(run.path): self._listed(run) for run in self.runs}
        places: dict[str, list[str]] = {}
        if len(self._places) > 1 and not self._every:
            # To know duplicates, all results must be listed before the first one is read.
            places = {run_dir: list(eval_ids) for run_dir, eval_ids in listed.items()}
            listed.update(places)
        duplicates = Duplicates(places, self._identities(), self._loose_state)
        for text in duplicates.messages():
            self._log(text)
        for text in duplicates.mixtures:
            self.fail(text)
        parts = self._parts(listed, duplicates)
        for made, eval_ids, problems in map_in_processes(_Reading(make), parts):
            for problem in problems:
                self.fail(problem)
            self.valid.update(eval_ids)
            yield made

    def _listed(self, run: Run) -> Iterator[str]:
        """Yield the eval_ids of a run's rows that have a result file, in the manifest's order.

        If the manifest is damaged further on, the rows before count, unless there is nothing else.
        """
        try:
            names = ResultStore(run.path).result_names()
            for eval_id in run.eval_ids():
                self._rows.add(eval_id)
                if f"{eval_id}.json" in names:
                    yield eval_id
        except (InputError, OSError) as error:
            if len(self._places) == 1:
                raise
            text = describe_error(error) if isinstance(error, OSError) else str(error)
            self.fail(f"{text}; the other rows of this run are left out")

    def _loose_state(self, place: int) -> ResultState:
        scored: ScoredRow = pickle.loads(self._loose.pickled(place))  # noqa: S301
        return result_states.of_scored_row(scored)

    def _identities(self) -> list[Identity]:
        return [] if self._every else self._loose.identities

    def _parts(
        self, listed: Mapping[str, Iterable[str]], duplicates: Duplicates
    ) -> Iterator[_RowResults | _Loose]:
        """Yield the parts that one process reads at a time."""
        for is_run, places in itertools.groupby(self._places, lambda p: isinstance(p, Run)):
            if not is_run:
                kept = (p for p in places if isinstance(p, int) and p not in duplicates.of_loose)
                yield from map(_Loose, _chunks(map(self._loose.pickled, kept)))
                continue
            for run_dir in (str(place.path) for place in places if isinstance(place, Run)):
                older = duplicates.of_run.get(run_dir, ())
                for chunk in _chunks(i for i in listed[run_dir] if i not in older):
                    yield _RowResults(run_dir, chunk)

    def read_all(self) -> None:
        """Read all results, only to learn which are valid; raises InputError without a run."""
        for _ in self.results(len):
            pass
        if not self.runs and not self._is_without_run:
            raise InputError("expected a run directory: its manifest tells what is missing")

    def drop_stale(self) -> None:
        """Let rows count as missing whose results are out of date, and say why they are.

        Known as `missing_rows`.
        """
        fitting: set[str] = set()
        stale: dict[str, str] = {}
        for run in self.runs:
            contents, store = StaleResults(run, self._log), ResultStore(run.path)
            for row in run.rows():
                eval_id = row["eval_id"]
                record = store.valid_record(eval_id) if eval_id in self.valid else None
                if record is None:
                    continue
                if (found := contents.find(row, ResultOrigin.of(row, record))) is None:
                    fitting.add(eval_id)
                else:
                    stale[eval_id] = found.describe(row)
        dropped = stale.keys() - fitting
        self.valid -= dropped
        for text, count in Counter(stale[eval_id] for eval_id in dropped).items():
            self._log(f"stale: {'1 result' if count == 1 else f'{count} results'}{text}")

    def columns(self) -> list[str]:
        """Return the columns of the runs' manifests, without shards, which are each run's own."""
        columns = dict.fromkeys(column for run in self.runs for column in run.columns())
        return [
            name for name in columns or schema.required("manifest") if name not in SHARD_COLUMNS
        ]

    def extra_columns(self) -> list[str]:
        """Return the columns of metric records that come from the manifests alone."""
        for run in self.runs:
            self._note_columns(run.columns())
        return list(dict.fromkeys(self._extra.values()))

    def _note_columns(self, manifest: Iterable[str]) -> None:
        for name, shown in extra_names(manifest).items():
            if name not in self._extra and name != shown:
                self._log(f"the manifest's column {name} is called {shown} in records")
            self._extra[name] = shown

    def missing_rows(self) -> Iterator[Row]:
        """Yield the rows without a valid result, each once; known once all results were read."""
        seen = set(self.valid)
        for run in self.runs if self._rows - seen else ():
            for row in run.rows():
                if row["eval_id"] not in seen:
                    seen.add(row["eval_id"])
                    yield row.without(*SHARD_COLUMNS)

    def has_failed(self, row: Row) -> bool:
        """Return whether a run has the record of a failure of a row."""
        return any(ResultStore(run.path).failure_path(row["eval_id"]).exists() for run in self.runs)

    def counts(self) -> tuple[int, int]:
        """Return the number of rows without a valid result, and of all; known as `missing_rows`."""
        return len(self._rows - self.valid), len(self._rows)


class _RowResults(NamedTuple):
    """Some results of a run."""

    run_dir: str
    eval_ids: list[str]

    def read(self, problems: list[str]) -> Iterator[ScoredRow]:
        found = (self._read_row(eval_id, problems) for eval_id in self.eval_ids)
        return (scored for scored in found if scored is not None)

    def _read_row(self, eval_id: str, problems: list[str]) -> ScoredRow | None:
        try:
            return result_files.read_row(self.run_dir, eval_id)
        except FileNotFoundError:
            # The file was set aside or deleted after the directory was listed.
            return None
        except (OSError, ValueError) as error:
            path = result_files.result_path(self.run_dir, eval_id)
            problems.append(f"{path}: left out, {error}")
            return None


class _Loose(NamedTuple):
    """Scores that the parent has read already."""

    pickled: list[bytes]

    def read(self, _: list[str]) -> Iterator[ScoredRow]:
        # The pickles are our own: they come from a file without a name.
        return map(pickle.loads, self.pickled)


class _Reading(Generic[T]):
    """Reads a part of the results and calls `make` for it, in a fork."""

    def __init__(self, make: Make[T]) -> None:
        self._make = make

    def __call__(self, part: _RowResults | _Loose) -> tuple[T, list[str], list[str]]:
        """Return what `make` returned, the eval_ids of the results, and why others are left out."""
        problems: list[str] = []
        scored = list(part.read(problems))
        return self._make(scored), [row.row["eval_id"] for row in scored], problems


class _File(NamedTuple):
    """A file outside of runs.

    Attributes:
        path: Its path.
        scored: Its scores; None for JSON that is not a result.
        problem: Why it is left out; empty if it is not.
    """

    path: str
    scored: list[ScoredRow] | None
    problem: str = ""


def _read_files(paths: list[str], model: str) -> list[_File]:
    return [_read_file(path, model) for path in paths]


def _read_file(path: str, model: str) -> _File:
    try:
        return _File(path, result_files.read_file(path, model))
    except FileNotFoundError:
        # The file was deleted after its directory was listed.
        return _File(path, [])
    except (OSError, ValueError) as error:
        return _File(path, [], str(error))


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield chunk
