"""What each document adds to a score: the values in the samples of a result.

Samples are JSON lines, one for each document, task and filter. Ours are in samples/EVAL_ID.jsonl of
the run directory, each with the key `task`; lm-eval's own in samples_TASK_TIME.jsonl beside
results_TIME.json. A file is read line by line; of a document and metric two numbers are kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from oellm.core import json_codec
from oellm.metrics.records import MetricRecord
from oellm.runs.result_store import ResultStore

# Scores by a hash of the document's task, number, content and target. Hashes hold in this process
# only.
ScoreByDocument = dict[int, float]

# What a line must have kept that is parsed in part, besides its metrics.
_NEEDED = {"doc_id", "doc_hash", "target_hash", "metrics"}
# What a mean of the values may differ from the recorded score by: sums depend on their order.
_TOLERANCE = 1e-9
# No document has a larger score; sums and squares of such are finite.
_LARGEST = 1e100
# Bytes: lines with few-shot prompts are longer than Python's usual buffer.
_BUFFER = 2**18
_NO_MEAN = "the score is no mean over the documents"


class DocumentScores(NamedTuple):
    """The scores of the documents behind one metric record.

    Attributes:
        scores: empty if there are none, or none whose mean is the record's score.
        reason: why there are none; empty if there are just no samples.
    """

    scores: ScoreByDocument
    reason: str = ""


class RowSamples:
    """The samples of one row, as far as its metric records need them.

    Takes the records of the row, at least one. Damaged or missing files are no error before
    `document_scores` is called.
    """

    def __init__(self, records: Sequence[MetricRecord]) -> None:
        subtasks = _subtasks(records[0]) if any(record.aggregate for record in records) else {}
        self._leaves = {record.task: _leaves(subtasks, record.task) for record in records}
        # By task and filter, then by metric; None if a document's value is no number.
        self._scores: dict[tuple[str, str], dict[str, ScoreByDocument | None]] = {}
        for record in records:
            for task in self._leaves[record.task]:
                self._scores.setdefault((task, record.filter), {})[record.metric] = {}
        self._problem = ""
        tasks = dict.fromkeys(task for task, _ in self._scores)
        for path, task in _files(records[0], tasks):
            self._problem = self._problem or self._read(path, task)

    def document_scores(self, record: MetricRecord) -> DocumentScores:
        """Return the scores whose mean is the record's; of a group, those of all its tasks."""
        if self._problem:
            return DocumentScores({}, self._problem)
        found: ScoreByDocument = {}
        for task in self._leaves[record.task]:
            scores = self._scores[task, record.filter][record.metric]
            if scores is None:
                return DocumentScores({}, _NO_MEAN)
            if not scores:
                return DocumentScores({})
            found.update(scores)
        mean = math.fsum(found.values()) / len(found)
        if math.isclose(mean, record.value, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            return DocumentScores(found)
        if record.n_samples in (None, len(found)):
            return DocumentScores({}, _NO_MEAN)
        reason = f"the samples are those of {len(found)} of {record.n_samples} documents"
        return DocumentScores({}, reason)

    def _read(self, path: Path, task: str) -> str:
        """Take the values in a file of samples, of `task` where a line names none.

        Return what is wrong with the file; nothing is, where it is not there.
        """
        taken, needed = 0, _NEEDED if task else {*_NEEDED, "task"}
        try:
            with open(path, "rb", buffering=_BUFFER) as stream:
                for line in stream:
                    self._take(_sample(line, needed), task)
                    taken += 1
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            return f"{path}: {error.strerror}"
        except (ValueError, TypeError, LookupError, AttributeError):
            return f"{path}:{taken + 1}: no sample"
        return ""

    def _take(self, sample: Mapping[str, Any], task: str) -> None:
        task = sample.get("task", task)
        wanted = self._scores.get((task, sample.get("filter", "none")), {})
        document = (task, sample["doc_id"], sample["doc_hash"], sample["target_hash"])
        for metric, values in wanted.items():
            # lm-eval leaves out the metrics that a document does not have.
            if values is None or metric not in sample:
                continue
            value = sample[metric]
            if not isinstance(value, (int, float)) or not -_LARGEST < value < _LARGEST:
                wanted[metric] = None
                continue
            identity, repeat = hash(document), 0
            while identity in values:
                repeat += 1
                identity = hash((*document, repeat))
            values[identity] = float(value)


def _sample(line: bytes, needed: set[str]) -> dict[str, Any]:
    """Parse a line, if possible without prompts and answers, which are most of it.

    These are between the keys `doc` and `filter`. Inside a string of JSON each quote has a
    backslash before it, so that no text of a prompt looks like a key.
    """
    start, end = line.find(b'"doc":'), line.rfind(b'"filter":')
    if 0 < start < end:
        try:
            short: dict[str, Any] = json_codec.loads(line[:start] + line[end:])
            if short.keys() >= needed and short.keys() >= set(short["metrics"]):
                return short
        except (ValueError, TypeError):
            pass
    # Another order of keys than lm-eval's, or not all of them.
    sample: dict[str, Any] = json_codec.loads(line)
    return sample


def _files(record: MetricRecord, tasks: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """Yield where a row's samples may be, with the task of files whose lines name none."""
    place = Path(record.run_dir)
    if not place.name:
        # Of a result that came through a pipe, nothing tells where it is.
        return
    if record.eval_id:
        yield ResultStore(place).samples_path(record.eval_id), ""
        return
    time = place.stem.rpartition("_")[2]
    for task in tasks:
        if "/" not in task:
            yield place.with_name(f"samples_{task}_{time}.jsonl"), task


def _subtasks(record: MetricRecord) -> dict[str, list[str]]:
    """Return the members of each group, as the result of a record's row has them."""
    path = Path(record.run_dir)
    if record.eval_id:
        path = ResultStore(path).result_path(record.eval_id)
    try:
        # Other tools' results may hold NaN, which json_codec refuses.
        groups = json.loads(path.read_bytes())["group_subtasks"]
        return {group: [str(member) for member in members] for group, members in groups.items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return {}


def _leaves(subtasks: Mapping[str, list[str]], group: str) -> list[str]:
    """Return the tasks of a group, through its subgroups, each once."""
    found, waiting, seen = [], [group], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if members := subtasks.get(name):
            waiting += members
        else:
            found.append(name)
    return found
