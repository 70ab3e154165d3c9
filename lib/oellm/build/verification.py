"""Whether an image is what its record says, passes its own %test, and has what oellm works with."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from oellm.build.outcomes import ImageOutcome, ImageStatus
from oellm.build.task_lookup import TaskLookup
from oellm.clusters.image_digest import hash_file
from oellm.clusters.runtime import SECOND_STAGE
from oellm.core.log import Log
from oellm.frameworks import runnable_names
from oellm.frameworks.installed_versions import find_version_faults
from oellm.images.image_files import find_versions, run_test
from oellm.images.image_record import StoredImage, read_record
from oellm.manifest.rows import Row


class ImageCheck:
    """Verifies images, one after the other; `log` gets what is being done, and all faults.

    An image must have the tasks of `rows`, as far as it is for their frameworks.
    """

    def __init__(
        self, runtime: str, environ: Mapping[str, str], log: Log, rows: Iterable[Row] = ()
    ) -> None:
        self._runtime = runtime
        self._tasks = TaskLookup(rows, environ)
        self._environ = environ
        self._log = log

    def verify(self, name: str, image: Path, used_by: tuple[str, ...]) -> ImageOutcome:
        """Return whether an image is sound; reads all of it."""
        record = read_record(image)
        faults = []
        for fault in self._faults(image, record, used_by):
            self._log(f"{name}: {fault}")
            faults.append(fault)
        if not faults:
            self._log(f"{name}: verified")
        return ImageOutcome(
            name,
            image,
            ImageStatus.FAILED if faults else ImageStatus.VERIFIED,
            reason="; ".join(faults),
            used_by=used_by,
            record=record,
        )

    def _faults(
        self, image: Path, record: StoredImage | None, used_by: tuple[str, ...]
    ) -> Iterator[str]:
        """Yield what is wrong with an image."""
        if not image.exists():
            yield "there is no image"
            return
        if record is None:
            yield "no record says what its digest must be"
        elif (digest := hash_file(image)) != record.digest:
            yield f"its SHA-256 is {digest}, and the record says {record.digest}"
        try:
            status, said = run_test(self._runtime, image, self._environ)
            if status:
                yield f"its %test fails: {said or f'status {status}'}"
            names = runnable_names()
            versions = find_versions(self._runtime, image, names, environ=self._environ)
            required = {key.removesuffix(SECOND_STAGE) for key in used_by} & {*names}
            yield from find_version_faults(versions, required)
            # An image may have a framework that it is not used for.
            there = {name for name in required or names if versions.get(name) is not None}
            yield from self._tasks.find_unknown(self._runtime, image, there)
        except (ValueError, OSError, subprocess.SubprocessError) as error:
            yield str(error)
