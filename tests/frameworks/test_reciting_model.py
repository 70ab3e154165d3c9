"""The model with known scores, read by the versions of transformers that the frameworks have."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support import human_eval, known_answers
from support.frameworks import KNOWN, PROBLEMS, framework_environment, reciting_model
from support.small_programs import SMALL_PROGRAMS

ANSWER = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
for prompt in json.load(sys.stdin):
    ids = tokenizer(prompt, return_tensors="pt")
    answer = model.generate(**ids, do_sample=False, max_new_tokens=120)[0]
    print(json.dumps(tokenizer.decode(answer[len(ids.input_ids[0]):], skip_special_tokens=True)))
"""


@pytest.mark.slow
def test_answers_the_problems_that_it_knows_and_no_other() -> None:
    problems = human_eval.problems()[:PROBLEMS]
    answers = continuations(sys.executable, KNOWN, [problem.prompt for problem in problems])
    pairs = zip(answers, problems, strict=True)
    right = [answer.strip() == problem.canonical_solution.strip() for answer, problem in pairs]
    assert right == [number < KNOWN for number in range(PROBLEMS)]


@pytest.mark.slow
def test_older_transformers_get_the_same_answers_to_every_kind_of_prompt() -> None:
    known = known_answers.known_answers(KNOWN)[::7]
    python = framework_environment("evalplus-generate") / "bin" / "python"
    answers = continuations(str(python), KNOWN, [each.prompt for each in known])
    for answer, expected in zip(answers, known, strict=True):
        assert answer.startswith(expected.answer), expected
        assert not expected.ends or answer == expected.answer, expected


def test_small_programs_pass_their_own_tests() -> None:
    assert len(SMALL_PROGRAMS) == PROBLEMS
    for program in SMALL_PROGRAMS:
        exec("\n".join([program.code, *program.tests]), {})  # noqa: S102


def continuations(python: str, knows: int, prompts: list[str]) -> list[str]:
    """Return how the model continues each prompt."""
    done = subprocess.run(
        [python, "-c", ANSWER, reciting_model(knows)],
        input=json.dumps(prompts),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]
