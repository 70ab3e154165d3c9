"""Data sets of the hub, loaded so that what a login node fetched is found by a compute node.

`datasets.load_dataset` finds its own cache offline, but for two cases: a request with data_files or
data_dir (whether they are names in the repository or `hf://` addresses) is never found, and one
without the name of a configuration takes whichever was cached last. `install` puts a function in
its place that loads the first from a snapshot of the repository, and that remembers which
configuration a repository means by none.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from oellm.core import atomic
from oellm.hub import errors
from oellm.hub.cache import CachedCommit, HubFile, WrongContentError

# In the repository's own directory of the cache, so that it goes when that goes.
_DEFAULT_CONFIGURATION = "default_configuration.oellm"
_ADDRESS = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+(?:/convert/[^/]+)?))?/(.+)")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")

# The list that the current `recorded` context collects commits in. The replaced function is one
# for the whole process, and code of other libraries calls it, so no argument can carry the list.
_recorder: ContextVar[list[str] | None] = ContextVar("recorder", default=None)


def install() -> None:
    """Put our function in the place of datasets.load_dataset, once."""
    import datasets

    if not hasattr(datasets.load_dataset, "oellm"):
        loading = _Loading(datasets.load_dataset)
        datasets.load_dataset = loading


@contextlib.contextmanager
def recorded() -> Iterator[list[str]]:
    """Collect the commits of the data that are loaded in the context, as org/name@commit."""
    revisions: list[str] = []
    token = _recorder.set(revisions)
    try:
        yield revisions
    finally:
        _recorder.reset(token)


def _record(repository: str, commit: str) -> None:
    revisions = _recorder.get()
    if revisions is not None:
        revisions.append(f"{repository}@{commit}")


def fingerprints(splits: Any) -> dict[str, str]:
    """Return the fingerprint of each split of loaded data, which has no public name.

    Empty for data that are no mapping of splits.
    """
    items = splits.items() if hasattr(splits, "items") else ()
    return {str(split): str(getattr(data, "_fingerprint", "")) for split, data in items}


class _Loading:
    """A load_dataset that finds offline all that it has loaded before."""

    oellm = True

    def __init__(self, load_dataset: Callable[..., Any]) -> None:
        self._load_dataset = load_dataset

    def __call__(self, path: str, name: str | None = None, *rest: Any, **options: Any) -> Any:
        if any(options.get(key) for key in ("data_files", "data_dir")) and not rest:
            return self._from_snapshot(path, name, options)
        is_on_hub = bool(_REPOSITORY.fullmatch(path)) and not os.path.isdir(path)
        chosen = name
        if is_on_hub and name is None and _is_offline():
            chosen = _default_configuration(path)
        loaded = self._load_dataset(path, chosen, *rest, **options)
        if is_on_hub:
            if not _is_offline() and _removed_wrong(path, loaded):
                loaded = self._load_dataset(path, chosen, *rest, **options)
                if wrong := _removed_wrong(path, loaded):
                    raise WrongContentError(wrong)
            configuration, commit = _origin(loaded)
            if _COMMIT.fullmatch(commit):
                _record(path, commit)
            if name is None and configuration and not _is_offline():
                _remember_default(path, configuration)
        return loaded

    def _from_snapshot(self, path: str, name: str | None, options: dict[str, Any]) -> Any:
        """Load named files of a repository from the hub's cache, where they are found offline."""
        files, folder = options.get("data_files"), options.get("data_dir")
        if _REPOSITORY.fullmatch(path) and not os.path.isdir(path):
            # The card may describe the columns of these files.
            patterns = ["README.md", *_names(files), *([f"{folder}/*"] if folder else [])]
            path = _snapshot(path, options.pop("revision", None), patterns)
        else:
            options = options | {"data_files": _localised(files)}
        return self._load_dataset(path, name, **options)


def _localised(files: Any) -> Any:
    """Replace hf:// addresses by paths in snapshots."""
    if isinstance(files, dict):
        return {split: _localised(names) for split, names in files.items()}
    if isinstance(files, (list, tuple)):
        return [_localised(name) for name in files]
    if isinstance(files, str) and (match := _ADDRESS.fullmatch(files)):
        repository, revision, name = match.groups()
        return os.path.join(_snapshot(repository, revision, [name]), name)
    return files


def _names(files: Any) -> Iterator[str]:
    """Yield the names of files, whether there is one, a list, or some for each split."""
    if isinstance(files, dict):
        files = list(files.values())
    if isinstance(files, (list, tuple)):
        for part in files:
            yield from _names(part)
    elif files:
        yield str(files)


def _snapshot(repository: str, revision: str | None, patterns: list[str]) -> str:
    from huggingface_hub import snapshot_download

    def download() -> str:
        return snapshot_download(
            repository, repo_type="dataset", revision=revision, allow_patterns=patterns
        )

    directory = download()
    if not _is_offline() and _wrong(repository, os.path.basename(directory)):
        directory = download()
        if wrong := _wrong(repository, os.path.basename(directory)):
            raise WrongContentError(wrong)
    _record(repository, os.path.basename(directory))
    return directory


def _removed_wrong(repository: str, loaded: Any) -> str:
    """Remove loaded data that were made of a file which is not what the hub lists; name one."""
    _, commit = _origin(loaded)
    wrong = _wrong(repository, commit) if _COMMIT.fullmatch(commit) else ""
    if wrong:
        splits = loaded.values() if isinstance(loaded, dict) else [loaded]
        for file in (file for split in splits for file in split.cache_files):
            shutil.rmtree(os.path.dirname(file["filename"]), ignore_errors=True)
    return wrong


def _wrong(repository: str, commit: str) -> str:
    """Remove the downloaded files of a commit that are not what the hub lists; name one, or none.

    Contents are read only where they are stored under another digest than theirs.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_CACHE

    cached = CachedCommit(HF_HUB_CACHE, repository, commit, "datasets")
    names = cached.names()
    try:
        listed = HfApi().get_paths_info(repository, names, repo_type="dataset", revision=commit)
    except Exception as error:
        if errors.may_pass(error):
            raise
        # A mirror may not have this call, and still have the data.
        return ""
    files = [HubFile.listed(entry.path, entry) for entry in listed if hasattr(entry, "blob_id")]
    wrong = [file.name for file in files if not (cached.holds(file) or cached.settle(file))]
    return wrong[0] if wrong else ""


def _is_offline() -> bool:
    import datasets

    return bool(datasets.config.HF_HUB_OFFLINE)


def _origin(loaded: Any) -> tuple[str, str]:
    """Return the configuration and the directory name that loaded data have in the cache.

    That name is the commit they came from. Both are empty for data that are not in the cache.
    """
    splits = loaded.values() if isinstance(loaded, dict) else [loaded]
    for split in splits:
        for file in getattr(split, "cache_files", []):
            configuration, _, commit, _ = Path(file["filename"]).parts[-4:]
            return configuration, commit
    return "", ""


def _default_file(repository: str) -> Path:
    import datasets
    from datasets.naming import camelcase_to_snakecase

    organisation, _, name = repository.partition("/")
    directory = f"{organisation}___{camelcase_to_snakecase(name)}"
    return Path(datasets.config.HF_DATASETS_CACHE) / directory / _DEFAULT_CONFIGURATION


def _default_configuration(repository: str) -> str | None:
    try:
        return _default_file(repository).read_text(encoding="utf-8")
    except OSError:
        return None


def _remember_default(repository: str, configuration: str) -> None:
    file = _default_file(repository)
    if _default_configuration(repository) != configuration:
        atomic.write_file(file, configuration.encode())
