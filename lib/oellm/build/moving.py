"""Which images are pulled and pushed, from where and to where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from oellm.build.building import ImageCollection
from oellm.build.image_jobs import ImageJob
from oellm.build.image_puller import ImagePuller
from oellm.build.image_pusher import ImagePusher
from oellm.build.outcomes import ImageOutcome
from oellm.errors import UsageError
from oellm.images.image_sources import parse_registry_image, parse_source

# Stands for the name of each image in an address.
_NAME = "{name}"


def needs_names(address: str) -> bool:
    """Return whether an address is complete only with the names of images."""
    return _NAME in address


def pull_jobs(
    address: str,
    names: Sequence[str],
    images: ImageCollection,
    *,
    environ: Mapping[str, str],
    insecure: bool,
    is_forced: bool,
) -> list[ImageJob]:
    """Return the jobs that pull images; raises UsageError for an address that cannot be."""
    runtime = images.runtime
    sources = [
        (name, parse_source(text, insecure=insecure)) for name, text in _addresses(address, names)
    ]
    return [
        ImageJob(
            ImagePuller(
                source,
                images.path_of(name or source.name),
                runtime,
                environ=environ,
                insecure=insecure,
            ),
            runtime,
            environ,
            is_forced=is_forced,
        )
        for name, source in sources
    ]


def push_images(
    address: str, names: Sequence[str], images: ImageCollection, *, pusher: ImagePusher
) -> Iterator[ImageOutcome]:
    """Push images one after the other, and yield what became of each.

    Raises UsageError before the first for an address that cannot be.
    """
    targets = [(name, parse_registry_image(text)) for name, text in _addresses(address, names)]
    if any(target.is_pinned for _, target in targets):
        raise UsageError(f"{address}: expected a tag to push to, not a digest")
    paths = [images.path_of(name or target.name) for name, target in targets]
    return (pusher.push(path, target) for path, (_, target) in zip(paths, targets, strict=True))


def _addresses(address: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return each name, empty for that in the address, with its address."""
    if needs_names(address):
        return [(name, address.replace(_NAME, name)) for name in dict.fromkeys(names)]
    if len(names) > 1:
        raise UsageError(f"several images: write {_NAME} in the address")
    return [(names[0] if names else "", address)]
