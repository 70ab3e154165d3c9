"""Fixtures of the tests of images that are elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from oellm.core.retry import Backoff
from oellm.images import downloads
from support.image_servers import Site


@pytest.fixture
def sites() -> Iterator[tuple[Site, Site]]:
    both = (Site(), Site())
    yield both
    for site in both:
        site.stop()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    quick = Backoff(total_s=0.5, first_s=0.05, longest_s=0.1)
    monkeypatch.setattr(downloads, "_BACKOFF", quick)
    return []
