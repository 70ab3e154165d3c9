"""Answers on disk: complete batches come back, however the attempt that wrote them ended."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oellm.runs import answers
from oellm.runs.answers import Answer, Answers, remove_answers, request_key

ROW = "0123456789abcdef"
# Includes pairs of lone surrogates, which form no character, and all kinds of line ends.
TEXTS = st.text() | st.text(st.sampled_from('\ud83d\ude00\n\r\0\x85\u2028\\"é'))
ANSWERS = TEXTS | st.floats() | st.tuples(st.floats(), st.booleans())
STEPS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), ANSWERS) | st.sampled_from(["complete", "flush"])
)

# A process that writes batches for ever, starting with the given number.
WRITER = f"""
import itertools, pathlib, sys
from oellm.runs import answers

answers.INTERVAL = 0
writer = answers.Answers(pathlib.Path(sys.argv[1]), "{ROW}", "tiny", sys.exit)
for number in itertools.count(int(sys.argv[2])):
    for position in range(3):
        writer.add(f"{{number}}-{{position}}", f"{{number}} " * 10**4)
    writer.complete()
    print(writer.saved, flush=True)
"""
# A process that makes one attempt after the other.
ATTEMPTS = f"""
import pathlib, sys
from oellm.runs import answers

for _ in range(800):
    writer = answers.Answers(pathlib.Path(sys.argv[1]), "{ROW}", "tiny", str)
    writer.add("k", "text")
    writer.complete()
    writer.flush()
"""


def fail(message: str) -> None:
    raise AssertionError(message)


def attempt(
    directory: Path, origin: str = "tiny", report: Callable[[str], None] = fail, row: str = ROW
) -> Answers:
    return Answers(directory, row, origin, report)


def earlier(directory: Path) -> dict[str, Answer]:
    return attempt(directory).read_earlier()


def write(writer: Answers, batch: dict[str, Answer]) -> None:
    for key, answer in batch.items():
        writer.add(key, answer)
    writer.complete()
    writer.flush()


def batch_of(number: int) -> dict[str, Answer]:
    """Return a batch of WRITER."""
    return {f"{number}-{position}": f"{number} " * 10**4 for position in range(3)}


def exact(found: dict[str, Answer]) -> list[str]:
    """Return answers as texts, so that -0.0 differs from 0.0 and True from 1.0, and nan is nan."""
    return sorted(map(repr, found.items()))


def files(directory: Path) -> list[Path]:
    return sorted((directory / ROW).iterdir())


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[tuple[int, int, dict[str, Answer]]]]:
    """Return the file of an attempt, and its batches with their begin and end in the file."""
    writer, batches, begin = attempt(tmp_path), [], 0
    for number in range(4):
        batch: dict[str, Answer] = {
            f"{number}-{position}": (-number / 3, True) if position % 2 else "a\nb" * position
            for position in range(number + 1)
        }
        write(writer, batch)
        end = files(tmp_path)[0].stat().st_size
        batches.append((begin, end, batch))
        begin = end
    # The first write puts the line with row and origin before its batch.
    path = files(tmp_path)[0]
    batches[0] = (path.read_bytes().index(b"\n") + 1, *batches[0][1:])
    return path, batches


@settings(deadline=None)
@given(st.lists(STEPS, max_size=3))
def test_complete_batches_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[Any]
) -> None:
    directory = tmp_path_factory.mktemp("answers")
    expected: dict[str, Answer] = {}
    for number, steps in enumerate(attempts):
        writer = attempt(directory)
        batch: dict[str, Answer] = {}
        complete: dict[str, Answer] = {}
        for step in steps:
            if step == "complete":
                writer.complete()
                complete |= batch
                batch = {}
            elif step == "flush":
                writer.flush()
                expected |= complete
            else:
                # Keys of this attempt: if two attempts answer one request, either may come back.
                writer.add(f"{number}{step[0]}", step[1])
                batch[f"{number}{step[0]}"] = step[1]
    assert exact(earlier(directory)) == exact(expected)


def test_either_of_two_answers_to_one_request_comes_back(tmp_path: Path) -> None:
    for text in ("one", "other"):
        write(attempt(tmp_path), {"k": text, text: text})
    found = earlier(tmp_path)
    assert found.pop("k") in {"one", "other"}
    assert found == {"one": "one", "other": "other"}


def test_answers_are_written_once_per_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(answers, "time", SimpleNamespace(monotonic=lambda: now))
    writer = attempt(tmp_path)
    saved = []
    for tenth in range(36):
        now = tenth / 10
        writer.add(str(tenth), 1.0)
        writer.complete()
        saved.append(writer.saved)
        assert writer.saved == len(earlier(tmp_path))
        # Until the first interval is over, nothing is written.
        assert (tmp_path / ROW).exists() == (writer.saved > 0)
    assert saved == [0] * 10 + [11] * 10 + [21] * 10 + [31] * 6
    writer.add("in a batch that is not complete", 1.0)
    writer.flush()
    assert writer.saved == 36 == len(earlier(tmp_path))


def test_a_file_cut_anywhere_has_its_first_batches_whole(written: Any) -> None:
    path, batches = written
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        whole = [batch for _, end, batch in batches if end <= size]
        after = batches[len(whole)]
        # The last byte of a batch is a line end, which reading does not need.
        if size == after[1] - 1:
            whole.append(after[2])
        assert earlier(path.parent.parent) == {k: v for batch in whole for k, v in batch.items()}


def damages(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the begin and end of a damaged part, and what stands there instead."""
    for position, byte in enumerate(content):
        for other in {byte ^ 1, ord("\n"), ord(" ")} - {byte}:
            yield position, position + 1, bytes([other])
    chance = random.Random(1)
    for _ in range(150):
        begin, end = sorted(chance.sample(range(len(content) + 1), 2))
        # A block that never reached the disk, and a missing part.
        yield begin, end, bytes(end - begin)
        yield begin, end, b""


def test_damage_loses_no_batch_that_it_does_not_touch(written: Any) -> None:
    path, batches = written
    content = path.read_bytes()
    everything = {key: answer for *_, batch in batches for key, answer in batch.items()}
    for begin, end, instead in damages(content):
        path.write_bytes(content[:begin] + instead + content[end:])
        found = earlier(path.parent.parent)
        assert found.items() <= everything.items()
        for first, last, batch in batches:
            kept = [key for key in batch if key in found]
            assert len(kept) in (0, len(batch))
            assert kept or not (end <= first or last <= begin), (begin, end, instead)


def test_answers_of_another_origin_or_row_are_not_used(tmp_path: Path) -> None:
    write(attempt(tmp_path), {"k": "this model"})
    write(attempt(tmp_path, "tiny, torch 3"), {"k": "another"})
    assert earlier(tmp_path) == {"k": "this model"}
    other = "f" * 16
    assert attempt(tmp_path, row=other).read_earlier() == {}
    # Not even if somebody moves the file.
    (tmp_path / ROW).rename(tmp_path / other)
    assert attempt(tmp_path, row=other).read_earlier() == {}


@pytest.mark.slow
def test_two_killed_workers_of_one_row_leave_everything_that_they_saved(
    tmp_path: Path,
) -> None:
    chance = random.Random(2)
    starts = [0, 10**6]
    for _ in range(3):
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, tmp_path, str(start)], stdout=subprocess.PIPE
            )
            for start in starts
        ]
        said = [worker.stdout.readline() for worker in workers]
        time.sleep(chance.uniform(0, 0.05))
        for worker in workers:
            worker.kill()
        said = [first + worker.stdout.read() for first, worker in zip(said, workers, strict=True)]
        assert [worker.wait() for worker in workers] == [-signal.SIGKILL] * 2
        found = earlier(tmp_path)
        numbers = sorted({int(key.partition("-")[0]) for key in found})
        assert found == {key: text for number in numbers for key, text in batch_of(number).items()}
        for turn, counts in enumerate(said):
            # The last count may be cut off.
            saved = int(counts.rpartition(b"\n")[0].split()[-1])
            assert {starts[turn] + n for n in range(saved // 3)} <= set(numbers)
            # The next attempt resumes there.
            starts[turn] = max(n for n in numbers if n // 10**6 == turn) + 1
    assert len(files(tmp_path)) == 6


def test_a_full_disk_loses_only_the_answers_that_do_not_fit(small_disk: Path) -> None:
    said: list[str] = []
    writer = attempt(small_disk, report=said.append)
    for number in range(30):
        write(writer, {f"{number}-{position}": f"{number} " * 9999 for position in range(2)})
    assert len(said) == 1
    assert said[0].startswith(f"{files(small_disk)[0]}: No space left on device: answers after the")
    assert 0 < writer.saved < 60
    found = earlier(small_disk)
    assert list(found) == [f"{n}-{p}" for n in range(writer.saved // 2) for p in range(2)]
    assert all(answer == f"{key.partition('-')[0]} " * 9999 for key, answer in found.items())
    # Another attempt's answers are whole despite the torn file.
    subprocess.run(["mount", "-o", "remount,size=2m", small_disk], check=True)
    write(attempt(small_disk), {"later": 1.0})
    assert earlier(small_disk) == found | {"later": 1.0}


def test_a_write_error_is_reported_once(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").touch()
    for directory, answer in ((tmp_path / "file", 1.0), (tmp_path, b"bytes")):
        writer = attempt(directory, report=said.append)
        for key in ("a", "b"):
            write(writer, {key: answer})  # type: ignore[dict-item]
        assert writer.saved == 0
        assert writer.read_earlier() == {}
    assert [message.partition(ROW)[0] for message in said] == [f"{tmp_path}/file/", f"{tmp_path}/"]
    assert "Not a directory: answers after the first 0 are not kept" in said[0]
    assert "bytes is not JSON serializable: answers after the first 0" in said[1]


def test_answers_are_removed_while_workers_write(tmp_path: Path) -> None:
    remove_answers(tmp_path, ROW)
    said: list[str] = []
    mine = attempt(tmp_path, report=said.append)
    write(mine, {"a": 1.0})
    remove_answers(tmp_path, ROW)
    assert not (tmp_path / ROW).exists()
    # The row is done: a worker that still evaluates it does not create the directory again.
    write(mine, {"b": 1.0})
    assert len(said) == 1
    assert not (tmp_path / ROW).exists()

    writers = [subprocess.Popen([sys.executable, "-c", ATTEMPTS, tmp_path]) for _ in range(2)]
    while any(writer.poll() is None for writer in writers):
        remove_answers(tmp_path, ROW)
        assert earlier(tmp_path) in ({}, {"k": "text"})
    assert [writer.returncode for writer in writers] == [0, 0]
    remove_answers(tmp_path, ROW)
    assert not (tmp_path / ROW).exists()


# Few pieces, so that two requests often differ only in where a text ends, or in its type.
PIECES = st.text(st.sampled_from('a1\n"[\ud83d\ude00\U0001f600'), max_size=3)
PLAIN = st.recursive(
    st.none() | PIECES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(PIECES, inner, max_size=2),
    max_leaves=4,
)
REQUESTS = st.tuples(st.sampled_from(["a", "aa"]), st.lists(PIECES | PLAIN, max_size=3).map(tuple))


@settings(deadline=None)
@given(REQUESTS, REQUESTS)
@example(("a", ("[]",)), ("a", ([],)))
@example(("a", ("p", "")), ("a", ("p",)))
def test_requests_have_the_same_key_only_if_they_are_equal(one: Any, other: Any) -> None:
    assert (request_key(*one) == request_key(*other)) == (one == other)


def test_the_order_of_named_arguments_does_not_change_the_key() -> None:
    one = {"until": ["a", "b"], "max_gen_toks": 9, "extra": {"x": 1, "y": 2}}
    other = {"extra": {"y": 2, "x": 1}, "max_gen_toks": 9, "until": ["a", "b"]}
    assert request_key("generate_until", ("p", one)) == request_key("generate_until", ("p", other))
    other["until"] = ["b", "a"]
    assert request_key("generate_until", ("p", one)) != request_key("generate_until", ("p", other))


@pytest.mark.parametrize(
    ("arguments", "is_kept"),
    [
        ({"do_sample": True, "temperature": 0.8}, False),
        ({"do_sample": True}, False),
        ({"temperature": 0.8}, False),
        ({"do_sample": False, "temperature": 0.8}, True),
        ({"temperature": 0.0}, True),
        ({"do_sample": None, "temperature": None}, True),
        ({"until": ["\n"]}, True),
        ({"visual": [object()]}, False),
        ({"audio": b"RIFF"}, False),
        ({"stop": {1, 2}}, False),
    ],
)
def test_sampled_requests_and_requests_without_json_have_no_key(
    arguments: dict[str, Any], is_kept: bool
) -> None:
    assert (request_key("generate_until", ("p", arguments)) is not None) == is_kept
    assert (request_key("generate_until", ("p", {}, arguments)) is not None) == is_kept
