"""Whether the framework inside an image has the tasks of a manifest."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from oellm import frameworks
from oellm.clusters.binds import bind_option, list_binds
from oellm.clusters.cluster import Cluster
from oellm.core import json_codec
from oellm.images.image_files import environment_of_image
from oellm.manifest.locations import locate_row
from oellm.manifest.rows import Row
from oellm.runs.frozen_worker import freeze_worker
from oellm.runs.run_directory import WORKER
from oellm.slurm.job_ends import last_line

ENTRY = "oellm.build.task_probe"
# Tasks that are named one by one.
_SHOWN = 10


class TaskLookup:
    """The rows of a manifest whose tasks an image must have, each task once.

    Only those of frameworks that evaluate in the worker itself: the tasks of the others are known
    by the version that oellm runs.
    """

    def __init__(self, rows: Iterable[Row], environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._rows: dict[tuple[str, str, str], Row] = {}
        for row in rows:
            suite = row.typed.eval_suite
            if frameworks.is_resident(suite):
                placed = locate_row(row)
                key = (suite, placed["task_path"], placed["include_path"])
                self._rows.setdefault(key, placed)

    def find_unknown(self, runtime: str, image: Path, suites: Collection[str]) -> Iterator[str]:
        """Yield which tasks of the rows of some frameworks an image does not have.

        Raises ValueError if the image cannot be asked.
        """
        rows = [row for (suite, _, _), row in self._rows.items() if suite in suites]
        unknown = self._ask(runtime, image, rows) if rows else []
        yield from unknown[:_SHOWN]
        if len(unknown) > _SHOWN:
            yield f"and {len(unknown) - _SHOWN} more tasks that it does not have"

    def _ask(self, runtime: str, image: Path, rows: Sequence[Row]) -> list[str]:
        asked = [[dict(row.cells), row.source, row.line] for row in rows]
        paths = {str(Path(row["task_path"]).parent) for row in rows if "/" in row["task_path"]}
        paths |= {row["include_path"] for row in rows} - {""}
        with tempfile.TemporaryDirectory(prefix="oellm-") as directory:
            worker = Path(directory, WORKER)
            worker.write_bytes(freeze_worker([], entry=ENTRY))
            binds = list_binds(Cluster({}, {}), worker.parent, models=[], paths=paths)
            options = [word for line in binds for word in bind_option(line)]
            # What it has indexed is of no use to anybody else.
            inside = ["env", f"OELLM_CACHE_DIR={directory}", "python3", str(worker)]
            done = subprocess.run(
                [runtime, "exec", "--cleanenv", *options, str(image), *inside],
                input=json_codec.dumps(asked),
                capture_output=True,
                env=environment_of_image(self._environ),
                check=False,
            )
        try:
            return [str(text) for text in json_codec.loads(done.stdout.splitlines()[-1])]
        except (ValueError, IndexError, TypeError):
            said = last_line(done.stderr.decode(errors="replace")) or f"status {done.returncode}"
            raise ValueError(f"its tasks cannot be looked up: {said}") from None
