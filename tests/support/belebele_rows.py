"""Rows in the schema of facebook/belebele, written for this project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.hub import Hub
from support.hub_content import write_dataset

# Lighteval's task is belebele_LANGUAGE_cf, lm-eval's is belebele_LANGUAGE.
LANGUAGE = "bul_Cyrl"


def belebele_rows(count: int = 12) -> list[dict[str, Any]]:
    """Return questions whose first answer is right."""
    return [
        {
            "link": f"https://example.org/{number}",
            "question_number": 1,
            "flores_passage": f"The number {number} was written on the wall.",
            "question": "Which number was written?",
            "mc_answer1": f"The number on the wall was {number}",
            "mc_answer2": f"The number on the wall was {number + 1}",
            "mc_answer3": f"There was no number on it but {number + 2}",
            "mc_answer4": f"It was written {number + 3} times there",
            "correct_answer_num": "1",
            "dialect": LANGUAGE,
            "ds": "2023-05-03",
        }
        for number in range(count)
    ]


def serve_belebele(hub: Hub, directory: Path, count: int = 12) -> None:
    """Serve facebook/belebele with one language."""
    write_dataset(directory, LANGUAGE, LANGUAGE, belebele_rows(count), ("test",))
    hub.add_dataset("facebook/belebele", directory)
