"""Downloads of models: each repository once, several at a time.

File by file, not with `snapshot_download`: that leaves in the cache a list of all files of the
commit, by which later calls without a network find a snapshot incomplete that lacks what no
backend loads; transformers, for one, then overlooks additional chat templates.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from oellm.core.display import format_count, format_size
from oellm.fetch.download_progress import Progress, Target
from oellm.hub import errors, repositories
from oellm.hub.cache import CachedCommit, HubFile, WrongContentError, free_space
from oellm.hub.errors import Problem
from oellm.hub.repositories import HubModel
from oellm.models.file_selection import wanted

Report = Callable[[str], None]

# Files of one model to download at the same time.
_FILES = 8
# Seconds within which the hub must begin to answer a question about a repository.
_ANSWER = 30.0
# Room beside the files themselves: data sets, and others who write at the same time.
_HEAD_ROOM = 1.05


@dataclass(frozen=True)
class Download:
    """A model that is in the cache: its commit, its directory, and the bytes that are loaded."""

    commit: str
    directory: str
    bytes: int


@dataclass(frozen=True)
class _Plan:
    """A model at its commit: the files that it needs, and those of them that must come."""

    model: HubModel
    cached: CachedCommit
    files: list[HubFile]
    missing: list[HubFile]
    # Digests of contents that were there before, so that they were proved when they came.
    proved: frozenset[str]

    @property
    def coming(self) -> list[HubFile]:
        return [file for file in self.missing if file.digest not in self.proved]


class ModelDownloads:
    """Downloads models in threads, `jobs` of them at the same time, each once.

    `hub_problem` says that the hub gives no answer: then every model has this problem. `report`
    prints a message, `status` shows a line on the terminal, where there is one.
    """

    def __init__(
        self,
        address: str,
        hub_problem: Problem | None,
        jobs: int,
        report: Report,
        status: Report | None = None,
    ) -> None:
        self._address = address
        self._hub_problem = hub_problem
        self._jobs = jobs
        self._report = report
        self._status = status
        self._outcomes: Future[dict[HubModel, Download | Problem]] = Future()
        self._lock = threading.Lock()
        self._finished = 0

    def start(self, models: Iterable[HubModel]) -> None:
        """Start to download models, if there is room for all of them."""
        wanted_models = list(dict.fromkeys(models))
        if self._hub_problem is not None:
            text = self._hub_problem.text
            self._outcomes.set_result(
                {model: Problem(f"{model}: {text}", unreachable=True) for model in wanted_models}
            )
        elif not wanted_models:
            self._outcomes.set_result({})
        else:
            _relay_warnings(self._report)
            background = ThreadPoolExecutor(1, thread_name_prefix="models")
            self._outcomes = background.submit(self._download, wanted_models)
            background.shutdown(wait=False)

    def result(self, model: HubModel) -> Download | Problem:
        """Return what became of a model; waits for all of them."""
        return self._outcomes.result()[model]

    def _download(self, models: list[HubModel]) -> dict[HubModel, Download | Problem]:
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="model") as pool:
            planned = dict(zip(models, pool.map(self._planned, models), strict=True))
            plans = [plan for plan in planned.values() if isinstance(plan, _Plan)]
            no_room = self._room_problem(plans)
            targets = [] if no_room else [Target(plan.cached, plan.coming) for plan in plans]

            def outcome(model: HubModel) -> Download | Problem:
                plan = planned[model]
                if isinstance(plan, Problem):
                    return plan
                if no_room and plan.coming:
                    return Problem(f"{model}: {no_room}")
                return self._fetched(plan, len(models))

            with Progress(targets, self._report, self._status):
                return dict(zip(models, pool.map(outcome, models), strict=True))

    def _planned(self, model: HubModel) -> _Plan | Problem:
        try:
            return self._plan(model)
        except Exception as error:
            return self._problem(model, error)

    def _fetched(self, plan: _Plan, count: int) -> Download | Problem:
        try:
            if plan.missing:
                size = format_size(sum(file.size or 0 for file in plan.coming))
                files = format_count(len(plan.missing), "file")
                self._report(f"model {plan.model}: {files}, {size} to download")
            self._fetch(plan)
        except Exception as error:
            return self._problem(plan.model, error)
        total = sum(os.path.getsize(plan.cached.place(file)) for file in plan.files)
        with self._lock:
            self._finished += 1
            self._report(
                f"model {plan.model.path} at {plan.cached.commit[:12]}, {format_size(total)} "
                f"({self._finished} of {count})"
            )
        return Download(plan.cached.commit, plan.cached.directory, total)

    def _problem(self, model: HubModel, error: BaseException) -> Problem:
        page = f"{self._address.rstrip('/')}/{model.path}"
        problem = errors.problem(error, self._address, page)
        if isinstance(error, WrongContentError):
            problem = Problem(str(error))
        return Problem(f"{model}: {problem.text}", problem.unreachable)

    def _plan(self, model: HubModel) -> _Plan:
        """Ask the hub for the commit and the files of a model, and look what of them is there."""
        from huggingface_hub import HfApi
        from huggingface_hub.constants import HF_HUB_CACHE

        info = errors.retry_request(
            str(model),
            self._report,
            lambda: HfApi().model_info(
                model.path, revision=model.revision or None, files_metadata=True, timeout=_ANSWER
            ),
        )
        listed = {sibling.rfilename: sibling for sibling in info.siblings or []}
        files = [HubFile.listed(name, listed[name]) for name in wanted(listed, model)]
        cached = CachedCommit(HF_HUB_CACHE, model.path, str(info.sha))
        cached.remove_leftovers()
        missing = [file for file in files if not cached.holds(file)]
        proved = frozenset(file.digest for file in missing if cached.has_content(file))
        return _Plan(model, cached, files, missing, proved)

    def _room_problem(self, plans: list[_Plan]) -> str:
        """Return why there is no room for what is not in the cache yet, or nothing."""
        from huggingface_hub.constants import HF_HUB_CACHE

        sizes = {
            (plan.model.path, file.digest or file.name): file.size or 0
            for plan in plans
            for file in plan.coming
        }
        needed = int(sum(sizes.values()) * _HEAD_ROOM)
        free = free_space(HF_HUB_CACHE)
        if needed <= free:
            return ""
        return (
            f"no room: the models need {format_size(needed)} more in {HF_HUB_CACHE}, "
            f"but only {format_size(free)} are free: {errors.ROOM}"
        )

    def _fetch(self, plan: _Plan) -> None:
        """Download what a model lacks; the first file that cannot be had ends it."""
        with ThreadPoolExecutor(_FILES, thread_name_prefix="file") as pool:
            files = [pool.submit(self._fetch_file, plan, file) for file in plan.missing]
            done, pending = wait(files, return_when=FIRST_EXCEPTION)
            for file in pending:
                file.cancel()
        for file in done:
            file.result()
        if plan.model.remote_code:
            directory = os.path.join(plan.cached.directory, plan.model.subfolder)
            for repository in repositories.code_repositories(directory):
                self._fetch(self._plan(HubModel(repository, "", weights=False)))
        plan.cached.record(plan.model.revision or "main")

    def _fetch_file(self, plan: _Plan, file: HubFile) -> None:
        from huggingface_hub import hf_hub_download

        name = f"{plan.model}: {file.name}"
        cached = plan.cached
        if os.path.lexists(cached.place(file)) and cached.settle(file):
            return
        for proved in (plan.proved, frozenset[str]()):
            errors.retry_request(
                name,
                self._report,
                lambda: hf_hub_download(plan.model.path, file.name, revision=cached.commit),
            )
            if (cached.holds(file) and file.digest in proved) or cached.settle(file):
                return
            self._report(f"{name}: not what the hub lists; downloading it again")
        raise WrongContentError(file.name)


class _Relay(logging.Handler):
    """Passes on as messages what a library logs."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report("; ".join(record.getMessage().splitlines()))


def _relay_warnings(report: Report) -> None:
    """Make the warnings of the hub's library, as that it waits for a busy hub, messages of ours."""
    import huggingface_hub
    import huggingface_hub.file_download
    import huggingface_hub.hf_api

    logger = logging.getLogger(huggingface_hub.__name__)
    logger.handlers[:] = [_Relay(report)]
    logger.propagate = False
