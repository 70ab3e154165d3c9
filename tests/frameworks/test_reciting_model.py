"""The model with known scores, read by the versions of transformers that the frameworks have."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support import human_eval
from support.frameworks import KNOWN, PROBLEMS, framework_environment, reciting_model

pytestmark = pytest.mark.slow

ANSWER = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
for prompt in json.load(sys.stdin):
    ids = tokenizer(prompt, return_tensors="pt")
    answer = model.generate(**ids, do_sample=False, max_new_tokens=200)[0]
    print(json.dumps(tokenizer.decode(answer, skip_special_tokens=True)))
"""


@pytest.mark.parametrize("knows", [4, KNOWN])
def test_answers_the_problems_that_it_knows_and_no_other(knows: int) -> None:
    assert solved(sys.executable, knows) == list(range(knows))


def test_older_transformers_read_it() -> None:
    python = framework_environment("evalplus-generate") / "bin" / "python"
    assert solved(str(python), KNOWN) == list(range(KNOWN))


def solved(python: str, knows: int) -> list[int]:
    """Return the numbers of the problems that the model continues with their solution."""
    problems = human_eval.problems()[:PROBLEMS]
    done = subprocess.run(
        [python, "-c", ANSWER, reciting_model(knows)],
        input=json.dumps([problem.prompt for problem in problems]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    texts = [json.loads(line) for line in done.stdout.splitlines()]
    expected = [problem.prompt + problem.canonical_solution for problem in problems]
    pairs = enumerate(zip(texts, expected, strict=True))
    return [number for number, (text, right) in pairs if text.strip() == right.strip()]
