"""The progress of downloads of models."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import NamedTuple

from oellm.core.log import Log
from oellm.core.processes.transfer_progress import TransferProgress
from oellm.hub.cache import CachedCommit, HubFile


class Target(NamedTuple):
    """Files of a model that are being downloaded."""

    cached: CachedCommit
    files: list[HubFile]


def show_progress(
    targets: list[Target], log: Log, status: Log | None
) -> AbstractContextManager[None]:
    """Return a context in which the progress of downloads is shown.

    It looks at files rather than at calls of the hub's library, so that it sees each way of
    downloading alike.
    """
    total = sum(file.size or 0 for target in targets for file in target.files)

    def amount() -> tuple[int, int]:
        return sum(target.cached.count_bytes(target.files) for target in targets), total

    if not total:
        return contextlib.nullcontext()
    return TransferProgress("downloading", amount, log=log, status=status)
