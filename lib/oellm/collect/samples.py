"""The scores of single documents, from the samples of a result.

Samples are JSON lines, one for each document, task and filter; the framework's reader parses them.
oe-run-task writes them to samples/EVAL_ID.jsonl of the run directory. A file is read line by line,
and two numbers are kept of each document and metric.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from oellm import frameworks
from oellm.core.regular_files import DOCUMENT, open_regular, read_regular
from oellm.frameworks.interface import Sample, SampleReader
from oellm.metrics.records import MetricRecord
from oellm.runs.result_store import ResultStore

# Scores by a hash of the document's task, content and target. Hashes hold in this process
# only.
ScoreByDocument = dict[int, float]

# The largest difference between the mean of the documents and the recorded score, because the order
# of a sum changes its last digits.
_TOLERANCE = 1e-9
# The largest score of a document. Sums and squares of such scores are finite.
_LARGEST = 1e100
# In bytes. Lines with few-shot prompts are longer than Python's default buffer.
_BUFFER = 2**18
_NO_MEAN = "the score is not a mean over the documents"


class DocumentScores(NamedTuple):
    """The scores of the documents behind one metric record.

    Attributes:
        scores: empty if there are none, or none whose mean is the record's score.
        reason: why there are none; None if there are just no samples.
    """

    scores: ScoreByDocument
    reason: str | None = None


class RowSamples:
    """The samples of one row, as far as its metric records need them.

    Takes the records of the row, at least one. Damaged or missing files are no error before
    `document_scores` is called.
    """

    def __init__(self, records: Sequence[MetricRecord]) -> None:
        reader = frameworks.samples_reader(records[0].eval_suite)
        subtasks: dict[str, list[str]] = {}
        if reader is not None and any(record.aggregate for record in records):
            subtasks = _group_members(records[0], reader)
        self._leaves = {record.task: _leaves(subtasks, record.task) for record in records}
        # By task and filter, then by metric; None if a document's value is no number.
        self._scores: dict[tuple[str, str], dict[str, ScoreByDocument | None]] = {}
        for record in records:
            for task in self._leaves[record.task]:
                self._scores.setdefault((task, record.filter), {})[record.metric] = {}
        self._problem: str | None = None
        tasks = dict.fromkeys(task for task, _ in self._scores)
        if reader is not None:
            for path, task in _sample_files(records[0], tasks, reader):
                self._problem = self._problem or self._read_file(path, task, reader)

    def document_scores(self, record: MetricRecord) -> DocumentScores:
        """Return the scores whose mean is the record's; of a group, those of all its tasks."""
        if self._problem:
            return DocumentScores({}, self._problem)
        by_document: ScoreByDocument = {}
        for task in self._leaves[record.task]:
            scores = self._scores[task, record.filter][record.metric]
            if scores is None:
                return DocumentScores({}, _NO_MEAN)
            if not scores:
                return DocumentScores({})
            by_document.update(scores)
        mean = math.fsum(by_document.values()) / len(by_document)
        if math.isclose(mean, record.value, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            return DocumentScores(by_document)
        if record.n_samples in (None, len(by_document)):
            return DocumentScores({}, _NO_MEAN)
        reason = f"there are samples of only {len(by_document)} of {record.n_samples} documents"
        return DocumentScores({}, reason)

    def _read_file(self, path: Path, task: str, reader: SampleReader) -> str | None:
        """Take the scores in a file of samples; `task` is the task of lines that name none.

        Returns the problem with the file, or None. A missing file is no problem.
        """
        taken = 0
        try:
            with open_regular(path, buffering=_BUFFER) as stream:
                for line in iter(partial(stream.readline, DOCUMENT), b""):
                    self._take(reader.parse_sample(line, task))
                    taken += 1
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return f"{path}: {error.strerror}"
        except (ValueError, TypeError, LookupError, AttributeError):
            return f"{path}:{taken + 1}: no sample"
        return None

    def _take(self, sample: Sample) -> None:
        wanted = self._scores.get((sample.task, sample.filter), {})
        document = (sample.task, *sample.document)
        for metric, values in wanted.items():
            # A document need not have every metric.
            if values is None or metric not in sample.scores:
                continue
            value = sample.scores[metric]
            if not isinstance(value, (int, float)) or not -_LARGEST < value < _LARGEST:
                wanted[metric] = None
                continue
            identity, repeat = hash(document), 0
            while identity in values:
                repeat += 1
                identity = hash((*document, repeat))
            values[identity] = float(value)


def _sample_files(
    record: MetricRecord, tasks: Iterable[str], reader: SampleReader
) -> Iterator[tuple[Path, str]]:
    """Yield the possible files of a row's samples, with the task if their lines name none."""
    place = Path(record.run_dir)
    if not place.name:
        # The result came through a pipe, so nobody knows where it is stored.
        return
    if record.eval_id:
        yield _store(record).samples_path(record.eval_id), ""
        return
    for task in tasks:
        names = reader.sample_file_names(place.name, task)
        files = (place.with_name(name) for name in names)
        if path := next(filter(os.path.lexists, files), None):
            yield path, task


def _store(record: MetricRecord) -> ResultStore:
    """Return the directory of a result of ours: the run's, or oe-run-task's --output_dir."""
    place = Path(record.run_dir)
    return ResultStore(place.parent.parent if place.name == f"{record.eval_id}.json" else place)


def _group_members(record: MetricRecord, reader: SampleReader) -> dict[str, list[str]]:
    """Return the members of each group in the result that a record comes from."""
    path = Path(record.run_dir)
    if record.eval_id:
        path = _store(record).result_path(record.eval_id)
    try:
        # Other tools may write NaN, which json_codec refuses.
        return reader.group_members(json.loads(read_regular(path)))
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return {}


def _leaves(subtasks: Mapping[str, list[str]], group: str) -> list[str]:
    """Return the tasks of a group, through its subgroups, each once."""
    leaves, waiting, seen = [], [group], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if members := subtasks.get(name):
            waiting += members
        else:
            leaves.append(name)
    return leaves
