"""What the reciting model has learnt: prompts as the frameworks send them, and its answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from support import human_eval
from support.belebele_rows import belebele_rows
from support.small_programs import SMALL_PROGRAMS

# The model knows some of this many problems.
PROBLEMS = 12


class KnownAnswer(NamedTuple):
    """A prompt, and the text with which the model continues it."""

    prompt: str
    answer: str
    # Whether the model is to stop after the answer.
    ends: bool = True


def known_answers(knows: int) -> list[KnownAnswer]:
    """Return everything that a model answers which knows the first problems of each data set."""
    answers = [*_human_eval(knows), *_small_programs(knows), *_belebele(knows)]
    return list(dict.fromkeys(answers))


def _human_eval(knows: int) -> Iterator[KnownAnswer]:
    for problem in human_eval.problems()[:knows]:
        prompt, solution = problem.prompt, problem.canonical_solution.rstrip() + "\n"
        # lm-eval and bigcodebench; bigcode; evalplus. A seam decides how text becomes tokens.
        yield KnownAnswer(prompt, solution)
        yield KnownAnswer(prompt.strip(), "\n" + solution)
        yield KnownAnswer(prompt.strip() + "\n", solution)


def _small_programs(knows: int) -> Iterator[KnownAnswer]:
    for program in SMALL_PROGRAMS[:knows]:
        # bigcode and evalplus.
        yield KnownAnswer(f'"""\n{program.text}\n{program.tests[0]}\n"""\n', program.code)
        # lm-eval with n_shot=0: its three examples are longer than everything else.
        tests = "\n".join(program.tests)
        asked = (
            f"You are an expert Python programmer, and here is your task: {program.text}"
            f" Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
        )
        yield KnownAnswer(asked, f"{program.code}[DONE]")


def _belebele(knows: int) -> Iterator[KnownAnswer]:
    """Yield the right answers of the known rows, and a wrong one of each other row."""
    for number, row in enumerate(belebele_rows(PROBLEMS)):
        right = number < knows
        passage, question = row["flores_passage"], row["question"]
        choices = "".join(
            f"{letter}: {row[f'mc_answer{n}']}\n" for n, letter in enumerate("ABCD", 1)
        )
        lettered = f"P: {passage}\nQ: {question}\n{choices}Answer:"
        yield KnownAnswer(lettered, " A" if right else " C", ends=False)
        # lighteval in the form `cf`, without and with the model's chat template.
        plain = f"{passage}\nВъпрос: {question}\nОтговор:"
        chosen = row["mc_answer1" if right else "mc_answer3"]
        for prompt in (plain, plain + "\n"):
            yield KnownAnswer(prompt, f" {chosen}", ends=False)
