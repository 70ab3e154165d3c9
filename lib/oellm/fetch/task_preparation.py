"""Fetching what tasks need, and proving that they can start without a network.

First every task is tried as on a compute node, in a process that is refused the network. For those
that fail, the data sets that their configurations name are downloaded, several at a time. Tasks
that still fail are built with the network, and in the end tried without it again. So every task
that passes has been seen to start offline, and nothing in the cache is asked for anew.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from oellm import frameworks
from oellm.core.log import Log
from oellm.core.processes import fork_pool
from oellm.errors import InputError
from oellm.fetch.task_records import Obstacle, TaskRecord, demand_cells
from oellm.frameworks.interface import DataSet, Demand, TaskFacts, Tasks
from oellm.hub import environment, errors
from oellm.hub.errors import Problem
from oellm.manifest.rows import Row


class TaskRequest(NamedTuple):
    """A task, and where else to look for it."""

    eval_suite: str
    task_path: str
    include_path: str


# For each demand on a task, its facts or what is in its way.
TaskAnswer = list[TaskFacts | Obstacle]
Wanted = dict[TaskRequest, list[Demand]]


def prepare_tasks(
    rows: Iterable[Row], *, fetch: bool, at_once: int, log: Log
) -> Iterator[TaskRecord]:
    """Prepare the tasks of rows in `at_once` processes; yield a record for each demand."""
    # The spellings of each demand.
    cells: dict[TaskRequest, dict[Demand, list[tuple[str, ...]]]] = {}
    for row in rows:
        request = TaskRequest(row.value("eval_suite"), row["task_path"], row["include_path"])
        demand = Demand(row.value("n_shot"), row.value("limit"))
        spellings = cells.setdefault(request, {}).setdefault(demand, [])
        spelling = demand_cells(row)
        if spelling not in spellings:
            spellings.append(spelling)
    for suite in dict.fromkeys(request.eval_suite for request in cells):
        wanted = {each: list(cells[each]) for each in cells if each.eval_suite == suite}
        preparation = Preparation(
            frameworks.create_tasks(suite, log), fetch=fetch, at_once=at_once, log=log
        )
        for request, answer in preparation.run(wanted):
            for spellings, facts in zip(cells[request].values(), answer, strict=True):
                yield from (TaskRecord(spelling, facts) for spelling in spellings)


class Preparation:
    """The preparation of the tasks of one framework.

    With `fetch` it downloads; without, it only checks. `at_once` is the number of processes.
    """

    def __init__(self, tasks: Tasks, *, fetch: bool, at_once: int, log: Log) -> None:
        self._tasks = tasks
        self._fetch = fetch
        self._at_once = at_once
        self._log = log
        self._address = environment.hub_address(os.environ)

    def run(self, wanted: Wanted) -> Iterator[tuple[TaskRequest, TaskAnswer]]:
        """Yield each request with its answer as soon as it is known."""
        for number, (request, answer) in enumerate(self._answers(wanted), 1):
            can = "cannot" if any(isinstance(part, Obstacle) for part in answer) else "can"
            # Frameworks that are programs have tasks of the same names.
            suite = request.eval_suite
            name = request.task_path + ("" if frameworks.is_resident(suite) else f" of {suite}")
            self._log(f"task {name} {can} start ({number} of {len(wanted)})")
            yield request, answer

    def _answers(self, wanted: Wanted) -> Iterator[tuple[TaskRequest, TaskAnswer]]:
        self._tasks.prepare()
        data_sets: dict[TaskRequest, Sequence[DataSet]] = {}
        for request, demands in wanted.items():
            enumerated = self._enumerated(request)
            if isinstance(enumerated, Obstacle):
                yield request, [enumerated] * len(demands)
            else:
                data_sets[request] = enumerated
        missing = yield from self._settled(self._built(data_sets, wanted, False), self._fetch)
        if not missing:
            return
        self._download(dict.fromkeys(part for each in missing for part in data_sets[each]))
        missing = yield from self._settled(self._built(missing, wanted, False), True)
        built = []
        for request, answer in self._built(missing, wanted, True):
            if all(isinstance(part, Obstacle) for part in answer):
                yield request, answer
            else:
                built.append(request)
        yield from self._built(built, wanted, False)

    def _enumerated(self, request: TaskRequest) -> Sequence[DataSet] | Obstacle:
        try:
            return self._tasks.data_sets(request.task_path, request.include_path)
        # The file of a task may be anything.
        except Exception as error:
            return self._obstacle(request.task_path, error, online=True)

    def _settled(
        self, answers: Iterator[tuple[TaskRequest, TaskAnswer]], has_means: bool
    ) -> Generator[tuple[TaskRequest, TaskAnswer], None, list[TaskRequest]]:
        """Yield the answers about which nothing more can be done; return the other requests."""
        left = []
        for request, answer in answers:
            is_open = any(isinstance(part, Obstacle) and not part.is_final for part in answer)
            if has_means and is_open:
                left.append(request)
            else:
                yield request, answer
        return left

    def _built(
        self, requests: Iterable[TaskRequest], wanted: Wanted, online: bool
    ) -> Iterator[tuple[TaskRequest, TaskAnswer]]:
        """Build tasks, with the network or with the network refused."""

        def build(request: TaskRequest) -> TaskAnswer:
            return self._answer(request, wanted[request], online)

        for request, answer in fork_pool.run(build, requests, self._at_once):
            if isinstance(answer, fork_pool.Crash):
                text = f"{request.task_path}: building it failed, {answer}"
                yield request, [Obstacle("task_path", Problem(text))] * len(wanted[request])
            else:
                yield request, answer

    def _answer(self, request: TaskRequest, demands: list[Demand], online: bool) -> TaskAnswer:
        if not online:
            refuse_network()
        # A task's code is anybody's; one even raises SystemExit.
        try:
            found = self._tasks.describe_task(request.task_path, request.include_path, demands)
        except (Exception, SystemExit) as error:
            found = [error] * len(demands)
        return [
            self._obstacle(request.task_path, part, online)
            if isinstance(part, BaseException)
            else part
            for part in found
        ]

    def _obstacle(self, task: str, error: BaseException, online: bool) -> Obstacle:
        if isinstance(error, InputError):
            return Obstacle(error.column, Problem(error.message), is_final=True)
        problem = self._problem(task, error, online)
        is_final = isinstance(error, ImportError)
        return Obstacle("task_path", problem, is_final, remedy=_remedy(error, problem))

    def _problem(self, task: str, error: BaseException, online: bool) -> Problem:
        problem = errors.explain_error(error, self._address)
        said = errors.first_line(error)
        if not online and (problem.unreachable or _is_loss(error)):
            return Problem(f"{task}: the cache does not have all of it: {said}", unreachable=True)
        # The library's words name the data set, ours say what to do.
        text = problem.text if said in problem.text else f"{said} ({problem.text})"
        return Problem(f"{task}: {text}", problem.unreachable)

    def _download(self, data_sets: Collection[DataSet]) -> None:
        """Load the data sets that the configurations name; building the task tells failures."""
        loaded = fork_pool.run(self._load, data_sets, self._at_once)
        for number, (data_set, failure) in enumerate(loaded, 1):
            failed = f" failed: {failure}" if failure else ""
            self._log(f"data set {data_set}{failed} ({number} of {len(data_sets)})")

    def _load(self, data_set: DataSet) -> str:
        """Load a data set; return why that failed, or an empty text."""
        try:
            errors.retry_request(str(data_set), self._log, data_set.load)
        except (Exception, SystemExit) as error:
            return errors.first_line(error) or type(error).__name__
        return ""


@functools.cache
def refuse_network() -> None:
    """Refuse this process the network for good, as a compute node does."""
    environment.forbid_network(os.environ)
    # These libraries read the variables when they are imported; they may have been.
    for name, flag in (
        ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
        ("datasets.config", "HF_HUB_OFFLINE"),
        ("datasets.config", "HF_DATASETS_OFFLINE"),
        ("evaluate.config", "HF_EVALUATE_OFFLINE"),
    ):
        if name in sys.modules:
            setattr(sys.modules[name], flag, True)
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo" or (
        event == "socket.connect" and isinstance(arguments[1], tuple)
    ):
        raise ConnectionError("the network is blocked, as on a compute node")


def _is_loss(error: BaseException) -> bool:
    """Return whether a file of the cache, or a resource of NLTK, is missing or incomplete."""
    is_resource = type(error) is LookupError
    return isinstance(error, OSError) or is_resource or type(error).__name__ == "ArrowInvalid"


def _remedy(error: BaseException, problem: Problem) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{sys.executable} -m pip install {error.name.partition('.')[0]}"
    return "oe-fetch" if problem.unreachable else ""
