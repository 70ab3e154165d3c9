"""The records that oe-build prints, one for each image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from oellm.core.text_enum import TextEnum
from oellm.images.image_record import StoredImage


class ImageStatus(TextEnum):
    """What an image is, or what has become of it."""

    BUILT = "built"
    PULLED = "pulled"
    PUSHED = "pushed"
    UP_TO_DATE = "up_to_date"
    FAILED = "failed"
    VERIFIED = "verified"
    OUT_OF_DATE = "out_of_date"
    MISSING = "missing"
    FOREIGN = "foreign"


class ImageOutcome(NamedTuple):
    """An image and its status (schema.json, table `image`)."""

    name: str
    path: Path
    status: ImageStatus
    reason: str = ""
    used_by: tuple[str, ...] = ()
    record: StoredImage | None = None
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the columns of the record."""
        record = self.record
        labels: Mapping[str, str] | None = record.labels if record else None
        return {
            "name": self.name,
            "status": str(self.status),
            "used_by": list(self.used_by),
            "size": record.size if record else None,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "reason": self.reason,
            "digest": record.digest if record else None,
            "path": str(self.path),
            "labels": dict(labels) if labels is not None else None,
            "source": record.source if record else None,
            "finished": record.finished if record else None,
        }
