"""oe-run-task under signals, kills and rivals: finished rows stay, begun rows are resumed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from commands.test_oe_run_task import manifest
from oellm.manifest.csv_file import read_rows
from oellm.manifest.locations import locate_row
from oellm.manifest.rows import identify_row
from support.faulty_model import FaultyModel
from support.process_tree import children, is_alive
from support.processes import BIN, clean_environment
from support.task_files import write_task

pytestmark = pytest.mark.slow

DOCUMENTS = 24
# Seconds; anything that takes longer has failed, even on a busy machine.
PATIENCE = 240.0
CODE = f"""
import pathlib
import time


def load(**_):
    import datasets

    words = "the old clock in the station ran four minutes fast".split()
    texts = [" ".join((words * 4)[n : 3 * n // 2 + 4]) for n in range({DOCUMENTS})]
    documents = [{{"text": text}} for text in texts]
    return datasets.DatasetDict({{"test": datasets.Dataset.from_list(documents)}})


def waits(*_):
    # A file beside this one that it names would be a part of the task.
    while not (pathlib.Path(__file__).parents[1] / "go").exists():
        time.sleep(0.02)
    return {{"acc": 1.0}}
"""
SAMPLED = "do_sample=true,temperature=1.0"


class Interruption(NamedTuple):
    """A row, the pace of its batches, and the signal that the worker gets meanwhile."""

    note: str
    task: str
    batch_size: int
    # Seconds per call of the model.
    pace: float
    signal: signal.Signals
    status: int
    # Whether all processes get the signal, as from Ctrl-C and scancel.
    goes_to_all: bool = False
    gen_kwargs: str = ""
    # The batch size of the next attempt, if it is another one.
    later_batch_size: int | None = None

    @property
    def batches(self) -> int:
        """The number of batches of the row if nothing interrupts it."""
        requests = 2 * DOCUMENTS if self.task == "multiple_choice" else DOCUMENTS
        return requests // self.batch_size


# At these paces, each row takes about ten seconds, and a batch less than two.
INTERRUPTIONS = (
    Interruption("choice", "multiple_choice", 1, 0.2, signal.SIGTERM, 75, goes_to_all=True),
    Interruption("choices", "multiple_choice", 4, 0.8, signal.SIGUSR1, 75),
    Interruption("text", "generate_until", 1, 0.05, signal.SIGINT, 130, goes_to_all=True),
    Interruption("texts", "generate_until", 4, 0.2, signal.SIGHUP, 75),
    Interruption("prose", "loglikelihood_rolling", 1, 0.4, signal.SIGKILL, -9),
    Interruption("proses", "loglikelihood_rolling", 4, 1.6, signal.SIGTERM, 75),
    Interruption("resized", "multiple_choice", 4, 0.8, signal.SIGKILL, -9, later_batch_size=2),
)
# A row that is scored but still computes its metrics when the first signal arrives.
SCORED = "scored"
# This row gets the signal twice, because its batch does not end.
URGENT = Interruption("sampled", "generate_until", 2, 1000, signal.SIGINT, 130, gen_kwargs=SAMPLED)


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    """Wait until a condition holds; return its value. The process must not end before that."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.02)
    return found


@contextmanager
def worker(rows: str, home: Path, log_name: str = "log") -> Iterator[subprocess.Popen[str]]:
    """Start a worker in its own session; kill it when the context ends."""
    with open(home / log_name, "a") as log:
        process = subprocess.Popen(
            [BIN / "oe-run-task", "--output_dir", home / "out"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            text=True,
            env=clean_environment(home),
            cwd=home,
            start_new_session=True,
        )
    process.stdin.write(rows)
    process.stdin.close()
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def results(directory: Path) -> dict[str, Any]:
    """Return the results by the notes of their rows."""
    read = [json.loads(path.read_text()) for path in (directory / "results").glob("*.json")]
    return {result["oellm"]["row"]["note"]: result for result in read}


def samples(directory: Path, result: dict[str, Any]) -> str:
    return (directory / "samples" / f"{result['oellm']['eval_id']}.jsonl").read_text()


def marks(directory: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of each file; writing a file again changes them."""
    paths = [*(directory / "results").glob("*"), *(directory / "samples").glob("*")]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def has_answers(directory: Path, eval_id: str) -> bool:
    """Return whether a row has answers on disk."""
    return any((directory / "answers").glob(f"{eval_id}/*"))


class Chain(NamedTuple):
    """The outcome of a chain of workers; each was interrupted in another row."""

    directory: Path
    models: dict[str, FaultyModel]
    statuses: dict[str, int]
    # The marks of all files after each worker.
    marks: list[dict[str, tuple[int, int]]]
    # Seconds from the second SIGINT to the end.
    urgent_s: float
    messages: str


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tasks")
    (directory / "tasks.py").write_text(CODE)
    choice = {"doc_to_choice": '[" stone garden", " silver"]', "doc_to_target": "0"}
    write_task(directory, "multiple_choice", **choice)
    write_task(directory, SCORED, **choice, process_results="!function tasks.waits")
    text = {
        "output_type": "generate_until",
        "generation_kwargs": "{max_gen_toks: 8, do_sample: false}",
        "metric_list": "[{metric: exact_match}]",
    }
    write_task(directory, "generate_until", **text)
    prose = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": '""',
        "metric_list": "[{metric: bits_per_byte}]",
    }
    write_task(directory, "loglikelihood_rolling", **prose)
    return directory


def row(each: Interruption, model: Path, tasks: Path, **more: object) -> dict[str, object]:
    return {
        "model_path": model,
        "task_path": each.task,
        "n_shot": 0,
        "include_path": tasks,
        "trust_remote_code": "true",
        "batch_size": each.batch_size,
        "gen_kwargs": each.gen_kwargs,
        "log_samples": "true",
        "note": each.note,
        **more,
    }


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a worker that nobody interrupted."""
    home = tmp_path_factory.mktemp("undisturbed")
    # The limits differ to make the rows differ: the batch size is not part of the identity.
    rows = [
        row(each, tiny_model, tasks, limit=DOCUMENTS + number)
        for number, each in enumerate((*INTERRUPTIONS, URGENT))
    ]
    with worker(manifest(*rows), home) as process:
        assert process.wait(PATIENCE) == 0
    return home / "out"


@pytest.fixture(scope="module")
def chain(tiny_model: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Interrupt workers of one manifest, each in the next row, and let the last one finish."""
    home = tmp_path_factory.mktemp("chain")
    directory = home / "out"
    every = (*INTERRUPTIONS, URGENT)
    models = {each.note: FaultyModel(tiny_model, home / each.note) for each in every}
    for each in every:
        models[each.note].set_pace(each.pace)
    sizes = {each.note: each.batch_size for each in every}

    def rows() -> str:
        scored = row(URGENT, tiny_model, tasks, task_path=SCORED, gen_kwargs="", note=SCORED)
        others = (
            row(each, models[each.note].directory, tasks, batch_size=sizes[each.note])
            for each in every
        )
        return manifest(scored, *others)

    made = Chain(directory, models, {}, [], 0.0, "")
    identified = (identify_row(locate_row(each)) for each in read_rows(io.StringIO(rows()), "rows"))
    ids = {each["note"]: each["eval_id"] for each in identified}
    for each in INTERRUPTIONS:
        with worker(rows(), home) as process:
            wait_for(lambda: has_answers(directory, ids[each.note]), process)  # noqa: B023
            below = children(process.pid)
            assert len(below) >= 2
            if each.goes_to_all:
                os.killpg(process.pid, each.signal)
            else:
                process.send_signal(each.signal)
            # Rows that are not fully scored end at once.
            wait_for(lambda: not below <= children(process.pid))  # noqa: B023
            (tasks.parent / "go").touch()
            made.statuses[each.note] = process.wait(PATIENCE)
            wait_for(lambda: not any(map(is_alive, below)))  # noqa: B023
        made.marks.append(marks(directory))
        models[each.note].set_pace(0)
        sizes[each.note] = each.later_batch_size or each.batch_size
    with worker(rows(), home) as process:
        urgent_s = interrupt_twice(process, models[URGENT.note])
        made.statuses[URGENT.note] = process.wait(PATIENCE)
    made.marks.append(marks(directory))
    models[URGENT.note].set_pace(0)
    with worker(rows(), home) as process:
        assert process.wait(PATIENCE) == 0
    made.marks.append(marks(directory))
    return made._replace(urgent_s=urgent_s, messages=(home / "log").read_text())


def interrupt_twice(process: subprocess.Popen[str], model: FaultyModel) -> float:
    """Send SIGINT, and again after it took effect; return the seconds until the end."""
    wait_for(model.batches, process)
    before = children(process.pid)
    process.send_signal(signal.SIGINT)
    # The first SIGINT leaves the model time to finish its batch.
    wait_for(lambda: not before <= children(process.pid))
    assert process.poll() is None
    started = time.monotonic()
    while process.poll() is None:
        # A SIGINT within half a second counts as the same Ctrl-C.
        process.send_signal(signal.SIGINT)
        time.sleep(0.6)
        assert time.monotonic() < started + PATIENCE
    return time.monotonic() - started


def test_the_exit_status_tells_what_ended_the_worker(chain: Chain) -> None:
    assert chain.statuses == {each.note: each.status for each in (*INTERRUPTIONS, URGENT)}
    kept = "; some answers of unfinished rows are kept\n"
    for name in ("SIGTERM", "SIGUSR1", "SIGHUP"):
        assert f"oe-run-task: stopped by {name}{kept}" in chain.messages
    assert "oe-run-task: interrupted\n" in chain.messages


def test_a_second_sigint_ends_the_worker_at_once(chain: Chain) -> None:
    # After one SIGINT, the model would have twenty seconds.
    assert chain.urgent_s < 12


def test_what_is_finished_is_not_touched_again(chain: Chain) -> None:
    assert len(chain.marks[-1]) == 2 + 2 * len(chain.models)
    for before, after in zip(chain.marks, chain.marks[1:], strict=False):
        assert before.items() <= after.items()
    # The first worker finished the scored row. Each later worker finished the row in which the
    # previous one was interrupted.
    assert [len(each) for each in chain.marks] == list(range(2, 3 + 2 * len(chain.models), 2))


def test_nothing_is_left_behind(chain: Chain) -> None:
    assert not list((chain.directory / "answers").iterdir())
    assert not [path for path in chain.directory.rglob("*") if path.name.startswith(".")]
    assert not (chain.directory / "failures").exists()


@pytest.mark.parametrize("each", INTERRUPTIONS, ids=lambda each: each.note)
def test_an_interrupted_row_is_resumed(chain: Chain, each: Interruption) -> None:
    usage = results(chain.directory)[each.note]["oellm"]["usage"]
    assert 0 < usage["requests_kept"] < usage["requests"]
    assert usage["batch_size"] == (each.later_batch_size or each.batch_size)


@pytest.mark.parametrize(
    "each",
    [each for each in INTERRUPTIONS if each.signal != signal.SIGKILL],
    ids=lambda each: each.note,
)
def test_no_batch_is_computed_twice(chain: Chain, each: Interruption) -> None:
    # A call with one token continues a generated text.
    batches = [batch for batch in chain.models[each.note].batches() if batch.tokens > 1]
    assert len(batches) == each.batches
    assert len({batch.pid for batch in batches}) == 2


@pytest.mark.parametrize(
    "each",
    [each for each in (*INTERRUPTIONS, URGENT) if not each.later_batch_size],
    ids=lambda each: each.note,
)
def test_scores_are_those_of_a_worker_that_was_not_interrupted(
    chain: Chain, undisturbed: Path, each: Interruption
) -> None:
    ours, theirs = results(chain.directory)[each.note], results(undisturbed)[each.note]
    assert ours["results"] == theirs["results"]
    assert ours["oellm"]["metrics"] == theirs["oellm"]["metrics"]
    # Each answer is equal to the last digit.
    assert samples(chain.directory, ours) == samples(undisturbed, theirs)


def test_a_row_that_is_resumed_with_another_batch_size_differs_in_the_last_digits_at_most(
    chain: Chain, undisturbed: Path
) -> None:
    ours, theirs = (
        [
            float(each[0][0])
            for line in samples(directory, results(directory)["resized"]).splitlines()
            for each in json.loads(line)["resps"]
        ]
        for directory in (chain.directory, undisturbed)
    )
    assert len(ours) == 2 * DOCUMENTS
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_sampled_texts_are_drawn_anew(chain: Chain) -> None:
    result = results(chain.directory)[URGENT.note]
    assert result["oellm"]["usage"]["requests_kept"] == 0
    drawn = map(json.loads, samples(chain.directory, result).splitlines())
    assert len({document["resps"][0][0] for document in drawn}) > DOCUMENTS // 2


def test_of_two_workers_with_the_same_rows_the_first_to_finish_one_keeps_it(
    tiny_model: Path, tasks: Path, undisturbed: Path, tmp_path: Path
) -> None:
    model = FaultyModel(tiny_model, tmp_path / "model")
    model.set_pace(1000)
    kinds = ("choices", "texts")
    rivals = [each for each in INTERRUPTIONS if each.note in kinds]
    rows = manifest(*(row(each, model.directory, tasks) for each in rivals))
    with worker(rows, tmp_path, "one log") as one, worker(rows, tmp_path, "other log") as other:
        # Both workers have begun both rows and finished none.
        wait_for(lambda: len({batch.pid for batch in model.batches()}) == 2)
        model.set_pace(0)
        assert (one.wait(PATIENCE), other.wait(PATIENCE)) == (0, 0)
    directory = tmp_path / "out"
    found, expected = results(directory), results(undisturbed)
    for note in kinds:
        assert found[note]["results"] == expected[note]["results"]
        assert samples(directory, found[note]) == samples(undisturbed, expected[note])
    assert sorted(path.suffix for path in directory.rglob("*") if path.is_file()) == [
        *(".json", ".json", ".jsonl", ".jsonl")
    ]
    messages = [(tmp_path / name).read_text() for name in ("one log", "other log")]
    faster = sum(text.count("another worker was faster; its result stays") for text in messages)
    done = sum(text.count(" n_shot=0 done in ") for text in messages)
    assert (done, faster) == (4, 2)
