"""A change to `datasets`: a compute node finds each data set that a login node fetched.

`datasets.load_dataset` finds its own cache offline except in two cases (seen in 5.2.0; a test fails
when a release no longer needs this). It never finds a request with data_files or data_dir, whether
they name files of the repository or `hf://` addresses. And without the name of a configuration it
does not know which of several cached ones is the default. `install` replaces it by a loader that
reads files from a snapshot of the repository, and remembers a repository's default configuration.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from oellm.core import atomic
from oellm.core.regular_files import STATE, read_regular
from oellm.hub import errors
from oellm.hub.cache import CachedCommit, HubFile, WrongContentError

# In the repository's own directory of the cache, so that both are deleted together.
_DEFAULT_CONFIGURATION = "default_configuration.oellm"
_ADDRESS = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+(?:/convert/[^/]+)?))?/(.+)")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# Some data sets have a name of the time before organisations: openai_humaneval.
_NAME = re.compile(r"(?:[\w.-]+/)?[\w.-]+")
_NO_NEWS = ("Using the latest cached version of the dataset", "Found the latest cached dataset")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def install() -> DataSetLoader:
    """Replace datasets.load_dataset by our loader, unless it has been; return the loader."""
    import datasets

    if not isinstance(datasets.load_dataset, DataSetLoader):
        datasets.load_dataset = DataSetLoader(datasets.load_dataset)
        for handler in logging.getLogger("datasets").handlers:
            handler.addFilter(_tells_news)
    loader: DataSetLoader = datasets.load_dataset
    return loader


def _tells_news(record: logging.LogRecord) -> bool:
    """Return whether a message says anything new; these two say that the cache is used.

    Without a network that is so in each load, and the commit goes into the row's result.
    """
    return not record.getMessage().startswith(_NO_NEWS)


def parse_address(text: str) -> tuple[str, str, str] | None:
    """Return repository, revision (perhaps empty) and path of an hf:// address of a data set."""
    match = _ADDRESS.fullmatch(text)
    return (match[1], match[2] or "", match[3]) if match else None


@contextlib.contextmanager
def record_commits(commits: list[str]) -> Iterator[None]:
    """Append to a list each commit that is loaded in the context, as org/name@commit."""
    loader = install()
    before, loader.commits = loader.commits, commits
    try:
        yield
    finally:
        loader.commits = before


def loaded_commits() -> list[str]:
    """Return the commits that the present context of `record_commits` has recorded."""
    loader = getattr(sys.modules.get("datasets"), "load_dataset", None)
    return list(loader.commits) if isinstance(loader, DataSetLoader) else []


def fingerprints(splits: Any) -> dict[str, str]:
    """Return the fingerprint of each split of loaded data, which has no public name.

    Empty for data that are no mapping of splits.
    """
    items = splits.items() if hasattr(splits, "items") else ()
    return {str(split): str(getattr(data, "_fingerprint", "")) for split, data in items}


class DataSetLoader:
    """A load_dataset that finds offline all that it has loaded before.

    Attributes:
        commits: The commits that were loaded, as org/name@commit.
    """

    def __init__(self, load_dataset: Callable[..., Any]) -> None:
        self._load_dataset = load_dataset
        self.commits: list[str] = []

    def __call__(self, path: str, name: str | None = None, *rest: Any, **options: Any) -> Any:
        """Load a data set, with the arguments of datasets.load_dataset."""
        if any(options.get(key) for key in ("data_files", "data_dir")) and not rest:
            return self._from_snapshot(path, name, options)
        # As far as the name tells: json is none, and its data have no commit.
        is_on_hub = bool(_NAME.fullmatch(path)) and not os.path.isdir(path)
        chosen = name
        if is_on_hub and name is None and _is_offline():
            chosen = _default_configuration(path)
        loaded = self._load_dataset(path, chosen, *rest, **options)
        if is_on_hub:
            if not _is_offline() and _remove_wrong_data(path, loaded):
                loaded = self._load_dataset(path, chosen, *rest, **options)
                if wrong := _remove_wrong_data(path, loaded):
                    raise WrongContentError(wrong)
            configuration, commit = _origin(loaded)
            if _COMMIT.fullmatch(commit):
                self.commits.append(f"{path}@{commit}")
                if name is None and not _is_offline():
                    _remember_default(path, configuration)
        return loaded

    def _from_snapshot(self, path: str, name: str | None, options: dict[str, Any]) -> Any:
        """Load named files of a repository from the hub's cache, which is found offline."""
        files, folder = options.get("data_files"), options.get("data_dir")
        if _REPOSITORY.fullmatch(path) and not os.path.isdir(path):
            # The card may describe the columns of these files.
            patterns = ["README.md", *_names(files), *([f"{folder}/*"] if folder else [])]
            path = self._snapshot(path, options.pop("revision", None), patterns)
        else:
            options = options | {"data_files": self._localise(files)}
        return self._load_dataset(path, name, **options)

    def _localise(self, files: Any) -> Any:
        """Replace hf:// addresses by paths in snapshots."""
        if isinstance(files, dict):
            return {split: self._localise(names) for split, names in files.items()}
        if isinstance(files, (list, tuple)):
            return [self._localise(name) for name in files]
        if isinstance(files, str) and (parsed := parse_address(files)):
            repository, revision, name = parsed
            return os.path.join(self._snapshot(repository, revision or None, [name]), name)
        return files

    def _snapshot(self, repository: str, revision: str | None, patterns: list[str]) -> str:
        """Return the directory of a snapshot that has the files that match the patterns."""
        directory = _download_snapshot(repository, revision, patterns)
        self.commits.append(f"{repository}@{os.path.basename(directory)}")
        return directory


def _names(files: Any) -> Iterator[str]:
    """Yield the names of files, given as one name, as a list, or as some for each split."""
    if isinstance(files, dict):
        files = list(files.values())
    if isinstance(files, (list, tuple)):
        for part in files:
            yield from _names(part)
    elif files:
        yield str(files)


def _download_snapshot(repository: str, revision: str | None, patterns: list[str]) -> str:
    from huggingface_hub import snapshot_download

    def download() -> str:
        return snapshot_download(
            repository, repo_type="dataset", revision=revision, allow_patterns=patterns
        )

    directory = download()
    if not _is_offline() and _remove_wrong_files(repository, os.path.basename(directory)):
        directory = download()
        if wrong := _remove_wrong_files(repository, os.path.basename(directory)):
            raise WrongContentError(wrong)
    return directory


def _remove_wrong_data(repository: str, loaded: Any) -> str | None:
    """Remove loaded data that were made of a file that is not what the hub lists; name the file."""
    _, commit = _origin(loaded)
    wrong = _remove_wrong_files(repository, commit) if _COMMIT.fullmatch(commit) else None
    if wrong:
        splits = loaded.values() if isinstance(loaded, dict) else [loaded]
        for file in (file for split in splits for file in split.cache_files):
            shutil.rmtree(os.path.dirname(file["filename"]), ignore_errors=True)
    return wrong


def _remove_wrong_files(repository: str, commit: str) -> str | None:
    """Remove the downloaded files of a commit that are not what the hub lists; name one of them.

    Contents are read only if they are stored under another digest than the listed one.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_CACHE

    cached = CachedCommit(HF_HUB_CACHE, repository, commit, kind="datasets")
    names = cached.names()
    try:
        listed = HfApi().get_paths_info(repository, names, repo_type="dataset", revision=commit)
    except Exception as error:
        if errors.may_pass(error):
            raise
        # A mirror may lack this call and still have the data.
        return None
    files = [HubFile.from_entry(entry.path, entry) for entry in listed if hasattr(entry, "blob_id")]
    wrong = [f.name for f in files if not (cached.holds(f) or cached.verify_or_remove(f))]
    return wrong[0] if wrong else None


def _is_offline() -> bool:
    import datasets

    return bool(datasets.config.HF_HUB_OFFLINE)


def _origin(loaded: Any) -> tuple[str, str]:
    """Return the configuration and the commit that loaded data in the cache come from.

    Both are empty for data that are not in the cache.
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

    *organisation, name = repository.split("/")
    directory = "___".join([*organisation, camelcase_to_snakecase(name)])
    return Path(datasets.config.HF_DATASETS_CACHE) / directory / _DEFAULT_CONFIGURATION


def _default_configuration(repository: str) -> str | None:
    try:
        return read_regular(_default_file(repository), STATE).decode()
    except (OSError, UnicodeDecodeError):
        return None


def _remember_default(repository: str, configuration: str) -> None:
    file = _default_file(repository)
    if _default_configuration(repository) != configuration:
        atomic.write_file(file, configuration.encode())
