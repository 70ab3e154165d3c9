"""What has been read of a manifest so far: the rows of each model, and what is unusable."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator

from oellm.errors import InputError
from oellm.frameworks.current_contents import ContentsReader
from oellm.frameworks.task_check import TaskCheck
from oellm.manifest.model_key import ModelKey
from oellm.manifest.rows import Row
from oellm.plan.costs import CostModel, Estimate
from oellm.plan.row_spool import NO_SHARD, Places, RowDigests
from oellm.plan.row_stages import Needs, StagedRow, WorkKey
from oellm.plan.sharding import ModelWork, SecondStages, ShardPlan
from oellm.task_sources.cache import source_directories
from oellm.task_sources.errors import SourceError

# What readings without second stages share; nobody changes them.
_NO_NEEDS, _NO_NUMBERS, _NO_SECONDS = Needs(), array("i"), array("d")


class ModelReading:
    """The rows of one model. Those that share the output of their first stage are one unit.

    Of a row with one stage only its seconds are kept, since there may be a million of them.
    """

    __slots__ = (
        *("_key", "_load_s", "_seconds", "_needs", "_unit_of", "_has_second", "_counts"),
        *("_second_s", "_second_counts", "_second_needs", "_units"),
    )

    def __init__(self, key: WorkKey, load_s: float) -> None:
        self._key = key
        self._load_s = load_s
        # Of each unit.
        self._seconds = array("d")
        self._needs = _NO_NEEDS
        # As soon as a row has two stages: the unit of each row, and whether it has a second stage.
        # Until then nothing is made for that, since there may be thousands of models.
        self._unit_of: array[int] | None = None
        self._has_second = _NO_NUMBERS
        # Then also the rows of each unit, and what their second stages take.
        self._counts = _NO_NUMBERS
        self._second_s = _NO_SECONDS
        self._second_counts = _NO_NUMBERS
        self._second_needs = _NO_NEEDS
        # The units of outputs that later rows may share.
        self._units: dict[str, int] | None = None

    def unit_of(self, generation: str) -> int | None:
        """Return the unit that computes an output already."""
        return None if self._units is None else self._units.get(generation)

    def add(self, row: StagedRow, seconds: float) -> None:
        """Add a row whose first stage adds some seconds, unless another row has its output."""
        if not self._key.uses_gpu:
            self._needs = self._needs.joined(row.needs)
        if row.second is None and self._unit_of is None:
            self._seconds.append(seconds)
            return
        if self._unit_of is None:
            self._begin_units()
        assert self._unit_of is not None
        assert self._units is not None
        unit = self._units.get(row.generation)
        if unit is None:
            unit = len(self._seconds)
            self._seconds.append(seconds)
            self._counts.append(0)
            self._second_s.append(0.0)
            self._second_counts.append(0)
            if row.generation:
                self._units[row.generation] = unit
        self._unit_of.append(unit)
        self._counts[unit] += 1
        self._has_second.append(row.second is not None)
        if row.second is not None:
            self._second_s[unit] += row.second.seconds
            self._second_counts[unit] += 1
            self._second_needs = self._second_needs.joined(row.second.needs)

    def _begin_units(self) -> None:
        count = len(self._seconds)
        self._units = {}
        self._unit_of = array("i", range(count))
        self._counts = array("i", [1]) * count
        self._has_second = array("b", [0]) * count
        self._second_s = array("d", [0.0]) * count
        self._second_counts = array("i", [0]) * count

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(self._seconds if self._unit_of is None else self._unit_of)

    @property
    def second_count(self) -> int:
        """The number of rows with two stages."""
        return sum(self._has_second)

    def work(self) -> ModelWork:
        """Return what there is to plan."""
        if self._unit_of is None:
            return ModelWork(self._key, self._load_s, self._seconds, needs=self._needs)
        return ModelWork(
            self._key,
            self._load_s,
            self._seconds,
            counts=self._counts,
            needs=self._needs,
            second=SecondStages(self._second_s, self._second_counts, self._second_needs),
        )

    def spread(self, shards: array[int]) -> array[int]:
        """Return the shard of each row, given that of each unit."""
        if self._unit_of is None:
            return shards
        return array("i", map(shards.__getitem__, self._unit_of))

    def spread_second(self, shards: array[int]) -> array[int]:
        """Return the shard of each row's second stage, given those of each unit's.

        A row without a second stage has NO_SHARD.
        """
        pairs = zip(self.spread(shards), self._has_second, strict=True)
        return array("i", (shard if has_second else NO_SHARD for shard, has_second in pairs))


class ManifestReading:
    """What has been read of a manifest so far; with `takes_digests`, of its local models, too."""

    def __init__(self, contents: ContentsReader, *, takes_digests: bool) -> None:
        self._takes_digests = takes_digests
        self._contents = contents
        self.models: dict[WorkKey, ModelReading] = {}
        self.usable: set[ModelKey] = set()
        self.directories: set[str] = set()
        self.bases: Counter[str] = Counter()
        self.uncounted = 0
        self.repeated = 0
        # The cells that name each local model.
        self._local: dict[ModelKey, Row] = {}
        # Models that no job could load, and rows that no framework could evaluate.
        self.unusable: dict[ModelKey, InputError] = {}
        self._bad_rows: dict[tuple[str, str], list[InputError]] = {}
        # Tasks that do not exist. They are told when all cells have been read.
        self.unknown_tasks: list[InputError] = []
        # Whether the row that was read last came with its eval_id, from an earlier run.
        self.is_old = False
        self._tasks: dict[tuple[str, str], str] = {}

    def add(self, row: StagedRow, costs: CostModel) -> Estimate:
        """Add a row; return what its first stage adds to its worker."""
        if (model := self.models.get(row.key)) is None:
            # A program loads its model itself, once for each start.
            load_s = costs.load(row.sized) if row.key.is_resident else 0.0
            model = self.models[row.key] = ModelReading(row.key, load_s)
        if row.first_s is not None:
            estimate = Estimate(row.first_s, "measured")
        else:
            estimate = costs.row(row.sized)
            estimate = estimate._replace(is_counted=estimate.is_counted and row.is_counted)
            if row.loads:
                estimate = estimate._replace(seconds=estimate.seconds + costs.load(row.sized))
        if model.unit_of(row.generation) is not None:
            # Another row computes it.
            estimate = estimate._replace(seconds=0.0)
        model.add(row, estimate.seconds)
        return estimate

    def places(self, planned: ShardPlan) -> Places:
        """Return the shards of all rows, by those of their units."""
        shards, second_shards = {}, {}
        of_units = zip(planned.shard_of, planned.second_shard_of, strict=True)
        for (key, model), (first, second) in zip(self.models.items(), of_units, strict=True):
            shards[key] = model.spread(first)
            if second:
                second_shards[key] = model.spread_second(second)
        return Places(shards, second_shards)

    def note_bad(self, error: InputError) -> None:
        """Note what is wrong with a row."""
        self._bad_rows.setdefault((error.column, error.message), []).append(error)

    def errors(self) -> list[InputError]:
        """Return what is wrong: once for each model, task and kind of mistake."""
        bad = []
        for first, *others in self._bad_rows.values():
            more = f"; the same in {len(others)} more rows" if others else ""
            message = f"{first.message}{more}"
            bad.append(InputError(message, first.source, line=first.line, column=first.column))
        return [*self.unusable.values(), *bad, *self.unknown_tasks]

    def note_model(self, row: Row, key: ModelKey) -> None:
        """Note a local model; not its whole row, of which there may be thousands."""
        if self._takes_digests and row.model.is_local:
            named = {name: row[name] for name in ("model_path", "model_args") if row[name]}
            self._local[key] = Row(named)

    def digests(self) -> RowDigests:
        """Return the digests of local models and of tasks, as far as they are known."""
        models = self._contents.models
        models.look_at(self._local.values())
        found = {key: models.digest(row) for key, row in self._local.items()}
        return RowDigests(
            models={key: digest for key, digest in found.items() if digest},
            tasks={names: digest for names, digest in self._tasks.items() if digest},
            directories=models.directories,
        )

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield rows as they are read, one by one, and note whether each is an old one."""
        for row in rows:
            self.is_old = bool(row["eval_id"])
            yield row

    def look_up(self, row: Row, check: TaskCheck) -> None:
        """Look up the task of a row, and keep what is wrong with it."""
        try:
            check.look_up(row)
        except InputError as error:
            self.unknown_tasks.append(error)

    def note_task(self, row: Row) -> None:
        """Note the directory and the digest of a task that does not come with its framework."""
        include_path, task_path = row["include_path"], row["task_path"]
        if (task_path, include_path) in self._tasks or not (include_path or "/" in task_path):
            return
        # What is not in the cache has been told when the task was looked up.
        with contextlib.suppress(SourceError):
            self.directories.update(source_directories(include_path, os.environ))
        if "/" in task_path:
            self.directories.add(os.path.dirname(task_path))
        self._tasks[task_path, include_path] = self._contents.task(row).digest
        self.directories.update(self._contents.task_paths(row))
