"""Where programs read the files of models."""

from __future__ import annotations

from oellm.manifest.model_key import ModelKey, model_key
from oellm.manifest.rows import Row
from oellm.models import staging
from oellm.models.staging import Source, Stage
from oellm.worker.row_ledger import Sinks


class ModelSources:
    """Finds the files of models; with a directory for copies, one copy at a time."""

    def __init__(self, stage_dir: str, sinks: Sinks) -> None:
        self._stage = Stage(stage_dir, sinks.log) if stage_dir else None
        self._found: tuple[ModelKey, Source] | None = None

    def find_source(self, row: Row) -> Source:
        """Return where the files of a row's model are; raises FileNotFoundError."""
        key = model_key(row)
        if self._found is None or self._found[0] != key:
            own = Source(staging.find_directory(row))
            self._found = key, self._stage.copy_model(row) if self._stage is not None else own
        return self._found[1]

    def release(self) -> None:
        """Release the copy in use."""
        if self._stage is not None:
            self._stage.release()
