"""What a worker is given: rows, the shard of a run that they are, and what its job allows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oellm.clusters.cluster import Cluster, resolve_cluster
from oellm.core.paths import data_file
from oellm.errors import MachineError
from oellm.manifest.rows import Row
from oellm.models import staging
from oellm.runs import provenance
from oellm.runs.accepted_contents import read_accepted
from oellm.runs.heartbeat import HeartbeatWriter
from oellm.runs.result_record import Facts
from oellm.runs.result_store import ResultStore
from oellm.runs.run_directory import Run
from oellm.runs.run_record import Array
from oellm.slurm import notation
from oellm.worker import gpu_check, time_limit
from oellm.worker.job_script import JobScript
from oellm.worker.programs.stage_batch import Part
from oellm.worker.row_scheduler import BOOTSTRAP_ITERS, RunOptions
from oellm.worker.stopper import TIME_TO_STOP


@dataclass(frozen=True)
class Assignment:
    """The rows of a worker.

    Attributes:
        rows: The rows.
        run: The run that they belong to; None for rows of no run.
        shard: The shard of the run that they are.
        directory: The directory of results, absolute; None if results are only printed.
        unsafe_execution: Whether code that a model has written may run without a sandbox.
    """

    rows: list[Row]
    run: Run | None = None
    shard: int | None = None
    directory: Path | None = None
    unsafe_execution: bool = False

    @property
    def array(self) -> Array | None:
        """The job array of the shard."""
        if self.run is None or self.shard is None:
            return None
        return self.run.arrays[self.run.shards[self.shard].array]

    @property
    def part(self) -> Part:
        """Which stages of the rows the worker computes: in a run, other shards have the others."""
        if (array := self.array) is None:
            return Part.ALL
        return Part.FIRST if array.follows is None else Part.LATER

    @property
    def is_followed(self) -> bool:
        """Whether another array computes second stages of the rows, after this one has ended."""
        if self.run is None or (array := self.array) is None:
            return False
        own = self.run.arrays.index(array)
        return any(other.follows == own for other in self.run.arrays)

    @property
    def permits_unsafe_execution(self) -> bool:
        """Whether that was permitted here, or for the run."""
        return self.unsafe_execution or bool(self._setting("unsafe_execution"))

    @property
    def store(self) -> ResultStore | None:
        """Where results are kept; None if they are only printed."""
        return ResultStore(self.directory) if self.directory is not None else None

    def cluster(self) -> Cluster:
        """Return the settings of the run, or those of this machine for rows of no run."""
        if self.run is not None:
            return Cluster(self.run.content["cluster"], {})
        settings: Mapping[str, Any] = {"name": "local"}
        # A frozen worker brings no known clusters.
        if data_file("clusters.json").exists():
            with contextlib.suppress(MachineError):
                settings = resolve_cluster(None, (), os.environ).settings
        # A stage without an environment of its own runs in that of this process.
        return Cluster({**settings, "executor": "local"}, {})

    def heartbeat(self) -> HeartbeatWriter | None:
        """Return the writer of heartbeats; None if the rows are not a shard of a run."""
        if self.run is None or self.shard is None or self.array is None:
            return None
        return HeartbeatWriter(self.run.path, self.shard, self.array.gpus)

    @property
    def notice_s(self) -> float:
        """The seconds in which the worker must stop before the time limit of its job.

        One minute is kept back, in which the job requeues itself.
        """
        seconds = None
        if (array := self.array) is not None:
            limit = notation.parse_time_limit(array.time_limit)
            seconds = notation.clamp_stop_before(self._setting("stop_before"), limit)
        return max(TIME_TO_STOP, (seconds or 0) - 60.0)

    def options(self, draws: int | None, script: JobScript) -> RunOptions:
        """Return how to evaluate the rows; `draws` are for standard errors, None for the run's."""
        if draws is None:
            draws = self._setting("bootstrap_iters")
        # Second stages load no model, and their nodes may lack the directory.
        is_second = self.array is not None and self.array.follows is not None
        stage_dir = "" if is_second else self._setting("stage_dir")
        return RunOptions(
            bootstrap_iters=BOOTSTRAP_ITERS if draws is None else draws,
            provenance={**provenance.process_facts(), **self._origin()},
            start_s=provenance.start_seconds(),
            notice_s=self.notice_s,
            stage_dir=staging.resolve_stage_dir(stage_dir, os.environ) if stage_dir else "",
            gpus=gpu_check.find_demand(self.run, self.shard, self.rows),
            row_limit=time_limit.find_default(self.run, self.shard),
            accepted=None if self.run is None else read_accepted(self.run.path),
            script=script,
        )

    def _setting(self, key: str) -> Any:
        """Return a setting of the run; None without a run."""
        return None if self.run is None else self.run.setting(key)

    def _origin(self) -> Facts:
        """Return the part of the provenance that the run gives."""
        if self.run is None:
            return {"run_dir": str(self.directory or "")}
        return {
            "run_dir": str(self.run.path),
            "cluster": self.run.setting("name"),
            "images": self.run.images,
        }
