"""Downloads of models: each repository once, several at a time.

Files are downloaded one by one with `hf_hub_download`, because `snapshot_download` (of
huggingface_hub 2.4.0, https://github.com/huggingface/huggingface_hub) leaves in the cache a list of
all files of the commit. By that list, later calls without a network call a snapshot incomplete that
lacks files that no backend loads, and transformers then overlooks additional chat templates. A test
fails as soon as a release no longer does this; then `snapshot_download` can replace this module's
loops.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from oellm.core.display import format_count, format_size
from oellm.core.log import Log
from oellm.core.processes.daemon_threads import map_in_threads, start_thread
from oellm.fetch.download_progress import Target, show_progress
from oellm.hub import errors, repositories
from oellm.hub.cache import (
    CachedCommit,
    HubFile,
    WrongContentError,
    find_snapshot,
    free_space,
)
from oellm.hub.errors import Problem
from oellm.hub.repositories import HubModel
from oellm.models.file_selection import select_files

# Files of one model to download at the same time.
_FILES = 8
# Seconds within which the hub must begin to answer a question about a repository.
_ANSWER_S = 30.0
# Factor for data sets, and for others who write at the same time.
_HEAD_ROOM = 1.05


@dataclass(frozen=True)
class Download:
    """A model in the cache.

    Attributes:
        commit: Its commit on the hub.
        directory: Its directory in the cache.
        bytes: The size of the files that are loaded.
    """

    commit: str
    directory: str
    bytes: int


@dataclass(frozen=True)
class _Plan:
    """A model at its commit, and what of it must be downloaded.

    Attributes:
        files: The files that the model needs.
        missing: Those of them that the cache lacks.
        verified: Digests of contents in the cache, perhaps of other commits; they were compared
            when they were downloaded.
    """

    model: HubModel
    cached: CachedCommit
    files: list[HubFile]
    missing: list[HubFile]
    verified: frozenset[str]

    @property
    def to_download(self) -> list[HubFile]:
        return [file for file in self.missing if file.digest not in self.verified]


class _StoppedError(Exception):
    """Nobody waits for the downloads any more."""


class ModelDownloads:
    """A context in which models are downloaded in threads, `jobs` at the same time, each once.

    If the hub gives no answer, `hub_problem` says so, and every model has this problem that is not
    in the cache; whether one there is complete is for the caller to see. `status`
    shows a line on the terminal, if there is one. After the context no download begins and no
    message is logged; a file that is being downloaded then ends with the process.
    """

    def __init__(
        self,
        address: str,
        hub_problem: Problem | None,
        jobs: int,
        log: Log,
        status: Log | None = None,
    ) -> None:
        self._address = address
        self._hub_problem = hub_problem
        self._jobs = jobs
        self._log_message = log
        self._status = status
        self._stopped = threading.Event()
        self._outcomes: Future[dict[HubModel, Download | Problem]] = Future()
        self._lock = threading.Lock()
        self._finished = 0

    def __enter__(self) -> ModelDownloads:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        if self._status:
            self._status("")

    def start(self, models: Iterable[HubModel]) -> None:
        """Start to download models, if there is room for all of them."""
        wanted_models = list(dict.fromkeys(models))
        if self._hub_problem is not None:
            text = self._hub_problem.text
            self._outcomes.set_result(
                {
                    model: _find_download(model) or Problem(f"{model}: {text}", unreachable=True)
                    for model in wanted_models
                }
            )
        elif not wanted_models:
            self._outcomes.set_result({})
        else:
            _relay_warnings(self._log)
            self._outcomes = start_thread(lambda: self._download(wanted_models))

    def result(self, model: HubModel) -> Download | Problem:
        """Return what became of a model; waits for all models."""
        return self._outcomes.result()[model]

    def _log(self, message: str) -> None:
        if not self._stopped.is_set():
            self._log_message(message)

    def _show(self, line: str) -> None:
        if self._status and not self._stopped.is_set():
            self._status(line)

    def _require_running(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError

    def _download(self, models: list[HubModel]) -> dict[HubModel, Download | Problem]:
        planned = dict(zip(models, map_in_threads(self._try_plan, models, self._jobs), strict=True))
        plans = [plan for plan in planned.values() if isinstance(plan, _Plan)]
        no_room = _find_lack_of_room(plans)
        targets = [] if no_room else [Target(plan.cached, plan.to_download) for plan in plans]

        def fetch(model: HubModel) -> Download | Problem:
            plan = planned[model]
            if isinstance(plan, Problem):
                return plan
            if no_room and plan.to_download:
                return Problem(f"{model}: {no_room}")
            return self._try_fetch(plan, len(models))

        with show_progress(targets, self._log, self._show if self._status else None):
            return dict(zip(models, map_in_threads(fetch, models, self._jobs), strict=True))

    def _try_plan(self, model: HubModel) -> _Plan | Problem:
        try:
            return self._plan(model)
        except Exception as error:
            return self._problem(model, error)

    def _try_fetch(self, plan: _Plan, count: int) -> Download | Problem:
        try:
            if plan.missing:
                size = format_size(sum(file.size or 0 for file in plan.to_download))
                files = format_count(len(plan.missing), "file")
                self._log(f"model {plan.model}: {files}, {size} to download")
            self._fetch(plan)
        except Exception as error:
            return self._problem(plan.model, error)
        total = sum(os.path.getsize(plan.cached.path_of(file)) for file in plan.files)
        with self._lock:
            self._finished += 1
            how = "downloaded" if plan.to_download else "found in the cache"
            self._log(
                f"model {plan.model.path} at {plan.cached.commit[:12]} {how}, {format_size(total)} "
                f"({self._finished} of {count})"
            )
        return Download(plan.cached.commit, plan.cached.directory, total)

    def _problem(self, model: HubModel, error: BaseException) -> Problem:
        page = f"{self._address.rstrip('/')}/{model.path}"
        problem = errors.explain_error(error, self._address, page)
        if isinstance(error, WrongContentError):
            problem = Problem(str(error))
        return Problem(f"{model}: {problem.text}", problem.unreachable)

    def _plan(self, model: HubModel) -> _Plan:
        """Ask the hub for the commit and the files of a model, and see which the cache has."""
        from huggingface_hub import HfApi
        from huggingface_hub.constants import HF_HUB_CACHE

        self._require_running()
        info = errors.retry_request(
            str(model),
            self._log,
            lambda: HfApi().model_info(
                model.path, revision=model.revision or None, files_metadata=True, timeout=_ANSWER_S
            ),
        )
        listed = {sibling.rfilename: sibling for sibling in info.siblings or []}
        files = [HubFile.from_entry(name, listed[name]) for name in select_files(listed, model)]
        cached = CachedCommit(HF_HUB_CACHE, model.path, str(info.sha))
        cached.remove_leftovers()
        missing = [file for file in files if not cached.holds(file)]
        return _Plan(
            model=model,
            cached=cached,
            files=files,
            missing=missing,
            verified=frozenset(file.digest for file in missing if cached.has_content(file)),
        )

    def _fetch(self, plan: _Plan) -> None:
        """Download what a model lacks; the first file that cannot be had ends it."""
        map_in_threads(lambda file: self._fetch_file(plan, file), plan.missing, _FILES)
        if plan.model.remote_code:
            directory = os.path.join(plan.cached.directory, plan.model.subfolder)
            for repository in repositories.find_code_repositories(directory):
                self._fetch(self._plan(HubModel(repository, "", weights=False)))
        plan.cached.write_ref(plan.model.revision or "main")

    def _fetch_file(self, plan: _Plan, file: HubFile) -> None:
        from huggingface_hub import hf_hub_download

        name = f"{plan.model}: {file.name}"
        cached = plan.cached
        if os.path.lexists(cached.path_of(file)) and cached.verify_or_remove(file):
            return
        for attempt in range(2):
            self._require_running()
            errors.retry_request(
                name,
                self._log,
                lambda: hf_hub_download(plan.model.path, file.name, revision=cached.commit),
            )
            # The second time, not even content that was verified before is trusted.
            is_verified = attempt == 0 and file.digest in plan.verified
            if (is_verified and cached.holds(file)) or cached.verify_or_remove(file):
                return
            self._log(f"{name}: not what the hub lists{'; downloading it again' * (attempt == 0)}")
        raise WrongContentError(file.name)


def _find_download(model: HubModel) -> Download | None:
    """Return a model as the cache has it, without asking the hub; None if it has none."""
    directory = find_snapshot(model.path, model.revision or "main")
    if directory is None:
        return None
    commit = os.path.basename(directory)
    names = CachedCommit(os.path.join(directory, *[".."] * 3), model.path, commit).names()
    files = [os.path.join(directory, name) for name in select_files(names, model)]
    return Download(commit, directory, sum(map(os.path.getsize, filter(os.path.exists, files))))


def _find_lack_of_room(plans: list[_Plan]) -> str | None:
    """Return why there is no room for what is not in the cache yet, or None if there is room."""
    from huggingface_hub.constants import HF_HUB_CACHE

    sizes = {
        (plan.model.path, file.digest or file.name): file.size or 0
        for plan in plans
        for file in plan.to_download
    }
    needed = int(sum(sizes.values()) * _HEAD_ROOM)
    free = free_space(HF_HUB_CACHE)
    if needed <= free:
        return None
    return (
        f"no room: the models need {format_size(needed)} more in {HF_HUB_CACHE}, "
        f"but only {format_size(free)} are free: {errors.ROOM}"
    )


class _Relay(logging.Handler):
    """Passes on what a library logs as messages of ours."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log("; ".join(record.getMessage().splitlines()))


def _relay_warnings(log: Log) -> None:
    """Log the warnings of the hub's library, for example that it waits for a busy hub."""
    import huggingface_hub
    import huggingface_hub.file_download
    import huggingface_hub.hf_api

    logger = logging.getLogger(huggingface_hub.__name__)
    logger.handlers[:] = [_Relay(log)]
    logger.propagate = False
