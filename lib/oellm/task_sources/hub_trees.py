"""Commits of data sets on the hub, and directories of them as plain files."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oellm.core.log import Log
from oellm.hub import errors
from oellm.hub.environment import hub_address
from oellm.manifest.task_source import TaskSource
from oellm.task_sources import cache
from oellm.task_sources.errors import SourceError

# Where huggingface_hub keeps notes in a directory that it downloads to.
_NOTES = ".cache"


def find_hub_commit(source: TaskSource, environ: Mapping[str, str], log: Log) -> str:
    """Return the commit that a source's branch or tag stands for now; raises SourceError."""
    return str(_describe(source, environ, log).sha)


def fetch_directory(
    source: TaskSource, path: Path, environ: Mapping[str, str], *, log: Log
) -> None:
    """Put the directory of a pinned source into the cache, below a path.

    Raises SourceError if there is no such commit or directory, or if it is too large; then nothing
    is left.
    """
    from huggingface_hub import snapshot_download

    start = f"{source.subdirectory}/" if source.subdirectory else ""
    files = [
        file
        for file in _describe(source, environ, log).siblings
        if file.rfilename.startswith(start)
    ]
    if not files:
        raise SourceError(f"{source}: the commit has no directory {source.subdirectory}")
    sizes = [file.size or 0 for file in files]
    cache.require_room(source, sizes, hint=": name a directory in it")

    def fill(staged: Path) -> None:
        _request(
            source,
            environ,
            log,
            request=lambda: snapshot_download(
                source.place,
                repo_type="dataset",
                revision=source.revision,
                local_dir=staged,
                allow_patterns=[f"{glob.escape(start)}*"],
            ),
        )
        shutil.rmtree(staged / _NOTES, ignore_errors=True)

    cache.publish_tree(path, fill)


def _describe(source: TaskSource, environ: Mapping[str, str], log: Log) -> Any:
    from huggingface_hub import HfApi

    return _request(
        source,
        environ,
        log,
        request=lambda: HfApi().dataset_info(
            source.place, revision=source.revision or None, files_metadata=True
        ),
    )


def _request(source: TaskSource, environ: Mapping[str, str], log: Log, *, request: Any) -> Any:
    try:
        return errors.retry_request(str(source), log, request)
    except Exception as error:
        problem = errors.explain_error(error, hub_address(environ))
        raise SourceError(f"{source}: {problem.text}", is_unreachable=problem.unreachable) from None
