"""Images are pushed to a registry, and what it has is compared with them afterwards."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from oellm.build.outcomes import ImageOutcome, ImageStatus
from oellm.clusters.image_digest import ImageDigests
from oellm.core.display import format_duration
from oellm.core.log import Log
from oellm.core.processes.transfer_progress import TransferProgress
from oellm.errors import OellmError
from oellm.images.image_record import StoredImage, read_record
from oellm.images.image_sources import RegistryImage
from oellm.images.registry import ImageLayer, NotAnImageFileError, Registry
from oellm.images.web_requests import TransferError, retry_transfer


class NoImageError(OellmError):
    """There is nothing to push."""


class WrongUploadError(OellmError):
    """A registry has something else than what was pushed."""


class ImagePusher:
    """Pushes images; `status`, if there is a terminal, gets a line of progress."""

    def __init__(
        self, environ: Mapping[str, str], *, insecure: bool, log: Log, status: Log | None
    ) -> None:
        self._environ = environ
        self._insecure = insecure
        self._log = log
        self._status = status
        self._digests = ImageDigests(environ, log)

    def push(self, image: Path, target: RegistryImage) -> ImageOutcome:
        """Push an image, unless the registry has it there; return what became of it."""
        started = time.monotonic()
        try:
            if not image.is_file():
                raise NoImageError(f"there is no image {image}")
            layer = self._layer(image)
            status = self._push(image, layer, target)
        except (OellmError, OSError) as error:
            text = str(error)
            self._log(f"{image.stem}: {text}")
            return ImageOutcome(image.stem, image, ImageStatus.FAILED, reason=text)
        seconds = time.monotonic() - started
        self._log(f"{image.stem}: {_describe(status, seconds)}: {target}")
        record = _describe_image(image, layer)
        return ImageOutcome(image.stem, image, status, record=record, seconds=seconds)

    def _push(self, image: Path, layer: ImageLayer, target: RegistryImage) -> ImageStatus:
        registry = Registry(target.host, self._environ, insecure=self._insecure)
        if retry_transfer(lambda: _find(registry, target), self._log) == layer:
            return ImageStatus.UP_TO_DATE
        sent = 0

        def advance(count: int) -> None:
            nonlocal sent
            sent = count

        with TransferProgress(
            f"pushing {image.stem}",
            lambda: (sent, layer.size),
            log=self._log,
            status=self._status,
        ):
            retry_transfer(lambda: registry.push(image, layer, target, advance=advance), self._log)
        found = retry_transfer(lambda: registry.find_image(target), self._log)
        if found != layer:
            raise WrongUploadError(
                f"{target}: expected sha256 {layer.sha256}, the registry has {found.sha256}"
            )
        return ImageStatus.PUSHED

    def _layer(self, image: Path) -> ImageLayer:
        size = image.stat().st_size
        described = self._digests.describe_image("", image)
        if described.sha256 is None or described.size_bytes != size:
            raise OSError(f"{image} cannot be read, or changes")
        return ImageLayer(described.sha256, size)


def _describe_image(image: Path, layer: ImageLayer) -> StoredImage:
    """Return the record of an image, or what is known of it without one."""
    record = read_record(image)
    if record and record.digest == layer.sha256:
        return record
    return StoredImage(
        name=image.stem,
        digest=layer.sha256,
        size=layer.size,
        mtime_ns=image.stat().st_mtime_ns,
        labels={},
        source="",
        inputs={},
        seconds=0.0,
        finished="",
    )


def _find(registry: Registry, target: RegistryImage) -> ImageLayer | None:
    try:
        return registry.find_image(target)
    except NotAnImageFileError:
        return None
    except TransferError as error:
        if error.code != 404:
            raise
        return None


def _describe(status: ImageStatus, seconds: float) -> str:
    return (
        "the registry has it"
        if status == ImageStatus.UP_TO_DATE
        else (f"pushed in {format_duration(seconds)}")
    )
