"""A user with a directory of images, and a registry, perhaps behind a connection that is cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.image_site import Site, push
from support.registry import Registry, require_programs
from support.relays import Relay
from support.small_images import small_image


@pytest.fixture
def site(tmp_path: Path) -> Site:
    require_programs("apptainer")
    return Site(tmp_path)


@pytest.fixture
def address(registry: Registry) -> str:
    """Return where a registry has an image, which apptainer itself has pushed."""
    push(small_image(), registry)
    return f"oras://{registry.host}/oellm/suite:1"


@pytest.fixture
def relay(registry: Registry) -> Iterator[Relay]:
    with Relay(registry.host) as running:
        yield running
