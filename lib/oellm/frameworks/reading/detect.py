"""Result files, ours and those of other tools, whose readers say whether the tool wrote a file."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from oellm import frameworks
from oellm.core import json_codec
from oellm.frameworks.reading import native_cells
from oellm.manifest import foreign_names
from oellm.metrics.scored_rows import ScoredRow, read_scored_row
from oellm.runs.result_file import KEY, check_result

# Neither CSV nor UTF-8 can hold these.
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# The names of files that frameworks write, and of what is in a directory `results`; not those of
# lm-eval's samples, which have the name of a task: samples_humaneval_2024-05-01T….
_RESULT_NAME = re.compile(
    r"(?!(?:.*/)?samples_[^/]*_[0-9]{4}-[0-9]{2}-[0-9]{2}T[^/]*\Z)"
    r"(?:.*/results/[^/]*|(?:.*/)?[^/]*(?:result|metric|score|eval|pass_at_k)[^/]*)",
    re.IGNORECASE | re.DOTALL,
)


def read_result(content: bytes, path: str, model: str = "") -> list[ScoredRow] | None:
    """Return the rows of a result file: our one, or those of another tool's result.

    Another tool's result has a row for each task or group asked for. Returns None for what is no
    known result, and for a file that another file stands for. `path` names the file; some tools
    give the model or the time only there. `model` is the model of a result that names none; if it
    is empty, such a result has the name of its directory, marked as guessed. Metrics without a
    finite value are left out, and the remarks of their row say so. Raises ValueError, with the
    reason, if the file is damaged or has no metric at all.
    """
    found: list[ScoredRow] = []
    for text, document in _parse_documents(content, path):
        rows = _read_document(text, document, path=path)
        if rows is None:
            return None
        found += rows
    return [_name_model(row, path, model) for row in found] or None


def is_result_name(path: str) -> bool:
    """Return whether a file is named like a result, so that it is damaged if it holds none."""
    return _RESULT_NAME.fullmatch(path) is not None


def _read_document(text: bytes, document: Any, path: str) -> list[ScoredRow] | None:
    if not isinstance(document, dict):
        return None
    if isinstance(document.get(KEY), dict):
        check_result(document)
        return [read_scored_row(document, path)]
    try:
        for reader in frameworks.result_readers():
            rows = reader.read_scored_rows(document, path)
            if rows is not None:
                # Nobody can know which value of a key counts that an object has twice.
                json.loads(text, object_pairs_hook=_unique_members)
                _require_scores(rows)
                _require_texts(rows)
                return rows
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return None


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        keys = Counter(key for key, _ in pairs)
        raise ValueError(f"an object has the key {keys.most_common(1)[0][0]!r:.80} twice")
    return members


def _require_scores(rows: Sequence[ScoredRow]) -> None:
    """Raise ValueError if a result has neither scores nor notes that say why."""
    if not any(row.scores or row.notes for row in rows):
        remarks = [remark for row in rows for remark in row.remarks]
        raise ValueError(": ".join(["no metric has a finite value", *remarks[:1]]))


def _require_texts(rows: Sequence[ScoredRow]) -> None:
    """Raise ValueError for a text that neither CSV nor UTF-8 can hold."""
    for row in rows:
        names = ((score.task, score.group, score.metric, score.filter) for score in row.scores)
        states = (text for state in row.tasks.values() for text in state)
        for text in (*itertools.chain(*names), *states, *row.environment, *row.contents):
            if _NO_TEXT.search(text):
                raise ValueError(f"expected UTF-8 text without NUL, got {text!r:.80}")


def _name_model(scored: ScoredRow, path: str, model: str) -> ScoredRow:
    """Return the scores with a model, if the result names none."""
    if scored.row["model_path"]:
        return scored
    notes = scored.notes
    if model:
        cells = foreign_names.named_model(model)
    else:
        directory = os.path.basename(os.path.dirname(os.path.abspath(path))) or "/"
        cells = native_cells.model_cells(f"{directory} (guessed)", {})
        notes += (
            f"names no model; its directory's name stands for it: {cells['model_path']!r}"
            " (oe-collect --model names it)",
        )
    row = scored.row.with_cells(**cells)
    named = native_cells.make_row(row.cells)
    return scored._replace(row=named, notes=notes, has_guessed_model=not model)


def _parse_documents(content: bytes, path: str) -> Iterator[tuple[bytes, Any]]:
    """Yield the JSON documents of a file, each with its text: one, or one on each line.

    Yields nothing for a file that cannot be a result: JSON lines of something else, and no JSON in
    a file that is not named like a result. Raises ValueError if the file is no JSON.
    """
    if not content.strip():
        problem = "the file is empty"
    elif content.startswith(_LFS_POINTER):
        problem = "it is a Git LFS pointer, not the file; `git lfs pull` fetches the file"
    else:
        yield from _parse_json(content)
        return
    if is_result_name(path):
        raise ValueError(problem)


def _parse_json(content: bytes) -> Iterator[tuple[bytes, Any]]:
    """Yield the JSON of a file, or of its lines; also accepts NaN and Infinity, as Python writes.

    The lines after the first are parsed when they are asked for.
    """
    try:
        yield content, json_codec.loads(content)
        return
    except ValueError:
        pass
    try:
        yield content, _loads(content)
        return
    except ValueError as error:
        problem = error
    lines = content.splitlines()
    numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
    for number in numbers:
        try:
            document = _loads(lines[number - 1])
        except ValueError as error:
            if number == numbers[0]:
                raise problem from None
            raise ValueError(f"line {number}: {error}") from None
        if isinstance(document, dict) and KEY in document:
            # Lines of rows that failed are no damage, but here they would be.
            raise ValueError("it has lines of oe-run-task; they are read if you name the file")
        yield lines[number - 1], document


def _loads(content: bytes) -> Any:
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is not JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
