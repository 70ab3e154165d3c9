"""Tables of scores, models × languages, of suites that ask the same in several languages."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from oellm.report.leaderboard import Board, boards
from oellm.tasks.languages import Language, spellings

Record = Mapping[str, Any]


def language_boards(records: Iterable[Record], known: Mapping[str, Language]) -> list[Board]:
    """Return the boards, with languages for tasks, of suites with two languages or more.

    `records` are primary; those without a language, and parts of groups, are left out. Tasks are
    of one suite where their names differ in the language alone, by the spellings that `known` has;
    other shots or another metric make another board.
    """
    suites: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record["language"] and not record["group"]:
            code = record["language"]
            suite = _without_language(record["task"], known.get(code, Language(code, code, code)))
            setting = [record[name] for name in ("n_shot", "metric", "filter", "eval_suite")]
            suites[suite, str(setting)].append({**record, "task": code})
    return [
        board
        for (suite, _), found in sorted(suites.items())
        if len({record["task"] for record in found}) > 1
        for board in boards(found, suite)
    ]


def _without_language(task: str, language: Language) -> str:
    """Return the name of a task without the word that names its language."""
    words = sorted(spellings(language), key=len, reverse=True)
    spelled = "|".join(map(re.escape, words))
    rest = re.sub(rf"(?i)(?:^|[_-])(?:{spelled})(?=$|[_-])", "", task, count=1)
    return rest.strip("_-") or task
