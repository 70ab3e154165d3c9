"""Which images there are, which are up to date, and why the others are not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from oellm.build.outcomes import ImageOutcome, ImageStatus
from oellm.clusters.image_digest import ImageDigests
from oellm.images.definitions import BuildInputs, ImageDefinition
from oellm.images.image_record import StoredImage, find_other_digest, read_record

DEFINITION = "definition"


class ImageTarget(NamedTuple):
    """An image that a definition makes.

    Attributes:
        definition: The definition.
        arguments: Its build arguments.
        inputs: What it is made of now.
        path: Where the image is, or will be.
    """

    definition: ImageDefinition
    arguments: Mapping[str, str]
    inputs: BuildInputs
    path: Path


def images_of_cluster(images: Mapping[str, str], directory: Path) -> dict[Path, tuple[str, ...]]:
    """Return the images that the setting `images` names, each with the keys that name it."""
    found: dict[Path, tuple[str, ...]] = {}
    for key, name in images.items():
        path = directory / name
        found[path] = (*found.get(path, ()), key)
    return found


class StateReader:
    """Finds out whether images are as their records say."""

    def __init__(self, environ: Mapping[str, str], report: Callable[[str], None]) -> None:
        self._digests = ImageDigests(environ, report)

    def why_out_of_date(self, target: ImageTarget) -> tuple[str, StoredImage | None]:
        """Return why an image must be built, empty if it need not, and the record of the image."""
        if not target.path.exists():
            return ImageStatus.MISSING.value, None
        record = read_record(target.path)
        if record is None:
            return "not recorded", None
        if fault := self.find_change(target.path, record):
            return fault, record
        if record.source != DEFINITION:
            # Who pulled it wants it, whatever the definition is here.
            return "", record
        return "; ".join(target.inputs.differences(record.inputs)), record

    def find_change(self, image: Path, record: StoredImage) -> str:
        """Return that an image is another one than its record says; empty if it is the same."""
        digest = find_other_digest(image, record, self._digests)
        if digest is None:
            return ""
        return "image changed" if digest else "image cannot be read"

    def describe(self, target: ImageTarget, used_by: tuple[str, ...]) -> ImageOutcome:
        """Return the state of the image of a definition."""
        reason, record = self.why_out_of_date(target)
        status = ImageStatus.OUT_OF_DATE if reason else ImageStatus.UP_TO_DATE
        if reason == ImageStatus.MISSING.value:
            status, reason = ImageStatus.MISSING, ""
        elif record and not reason and record.source != DEFINITION:
            reason = f"from {record.source}"
        return ImageOutcome(
            target.definition.name,
            target.path,
            status,
            reason=reason,
            used_by=used_by,
            record=record,
        )

    def describe_foreign(self, image: Path, used_by: tuple[str, ...]) -> ImageOutcome:
        """Return the state of an image that no definition makes."""
        record = read_record(image) if image.exists() else None
        status, reason = ImageStatus.FOREIGN, "no definition makes it"
        if not image.exists():
            status = ImageStatus.MISSING
        elif record and (change := self.find_change(image, record)):
            status, reason = ImageStatus.OUT_OF_DATE, change
        elif record:
            reason = f"from {record.source}"
        return ImageOutcome(
            image.stem, image, status, reason=reason, used_by=used_by, record=record
        )


def foreign_images(
    images: Mapping[Path, tuple[str, ...]], targets: Iterable[ImageTarget]
) -> list[tuple[Path, tuple[str, ...]]]:
    """Return the images of a cluster that no target is."""
    ours = {os.path.abspath(target.path) for target in targets}
    return [(path, keys) for path, keys in images.items() if os.path.abspath(path) not in ours]
