"""A task's name without its language."""

from __future__ import annotations

import pytest

from oellm.tasks import suites
from oellm.tasks.languages import mark_language

KNOWN = suites.load_suites((), {}).languages


@pytest.mark.parametrize(
    ("task", "code", "marked"),
    [
        ("belebele_deu_Latn", "deu_Latn", "belebele_*"),
        ("belebele_DEU_latn", "deu_Latn", "belebele_*"),
        ("xnli_de", "deu_Latn", "xnli_*"),
        ("include_base_44_german", "deu_Latn", "include_base_44_*"),
        ("global-mmlu:de:full", "deu_Latn", "global-mmlu:*:full"),
        ("deu_Latn", "deu_Latn", "*"),
        # A language that no suite has is spelled as its code.
        ("flores_zzz", "zzz_Latn", "flores_*"),
        ("flores_zzz_Latn", "zzz_Latn", "flores_*"),
        # The last spelling counts, and words are whole.
        ("de_xnli_de", "deu_Latn", "de_xnli_*"),
        ("code_model", "deu_Latn", "code_model"),
        ("arc", "deu_Latn", "arc"),
        # A code is data, not a pattern.
        ("arc_(", "(", "arc_*"),
        ("arc", "_", "arc"),
    ],
)
def test_a_star_stands_for_the_language(task: str, code: str, marked: str) -> None:
    assert mark_language(task, code, KNOWN) == marked
