"""A run: oe-fetch, oe-render, oe-submit and oe-collect one after the other, and the results' file.

results/UUID is the run directory, results/UUID.cluster the settings that oe-fetch and oe-render
read, and results/UUID.json has the results.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

from oellm.clusters.cluster import Cluster
from oellm.core.log import Log
from oellm.errors import ExitStatus, OellmError
from oellm.global_benchmark.manifest_rows import write_rows
from oellm.global_benchmark.result_file import results_of, write_results
from oellm.global_benchmark.run_cluster import RESULTS, write_cluster
from oellm.manifest.rows import Row
from oellm.metrics.reading import read_metric_records
from oellm.wrappers.pipeline import run_captured, run_pipeline

_ENDED = (ExitStatus.DONE, ExitStatus.FAILED)


class BenchmarkRun:
    """A run and its files, whether they are there yet or not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.results = directory.with_name(f"{directory.name}.json")
        self._cluster = directory.with_name(f"{directory.name}.cluster")

    @classmethod
    def create(cls) -> BenchmarkRun:
        """Return a run of a new name in the directory of results."""
        Path(RESULTS).mkdir(exist_ok=True)
        return cls(Path(RESULTS, str(uuid.uuid4())))

    def evaluate(self, rows: Sequence[Row], cluster: Cluster, log: Log) -> int:
        """Run all stages up to oe-submit, and wait for its jobs; return the status.

        If no run comes of it, nothing stays. Raises MachineError if a command is not installed.
        """
        write_cluster(self._cluster, cluster)
        where = f"--cluster={self._cluster}"
        waits = cluster.text("executor") == "slurm"
        stages = [
            ["oe-fetch", where],
            ["oe-render", where, f"--run_dir={self.directory}"],
            ["oe-submit", *(["--wait=done"] if waits else [])],
        ]
        try:
            return run_pipeline(stages, log=log, given=write_rows(rows))
        finally:
            if not self.is_there:
                self._cluster.unlink()

    def save_results(self, log: Log) -> int:
        """Write the file of results from what the run has; return the status of oe-collect.

        Raises OellmError if there are no results.
        """
        command = ["oe-collect", "--format=jsonl", str(self.directory)]
        status, output = run_captured(command, b"", log=log)
        if status not in _ENDED:
            return status
        if not output:
            raise OellmError(f"{self.directory}: no row has a result; oe-status shows why")
        # As bytes: a text also ends a line at what JSON may have in a string.
        lines = (line.decode("utf-8", "surrogateescape") for line in output.splitlines(True))
        records = list(read_metric_records(lines, command[0]))
        write_results(self.results, results_of(records))
        return status

    @property
    def is_there(self) -> bool:
        """Whether oe-render has written the run directory."""
        return (self.directory / "run.json").is_file()
