"""Scoring with a backend whose batches are hidden and that uses all random generators."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oellm.frameworks.interface import StoppedError
from oellm.frameworks.lm_eval import scoring
from oellm.frameworks.lm_eval.messages import Call
from oellm.runs.answers import Answers

pytestmark = pytest.mark.slow

ROW = "0123456789abcdef"


class Model:
    """Takes one second per request, or as asked; notes how many requests each call has."""

    def __init__(self, clock: SimpleNamespace) -> None:
        self.clock = clock
        self.request_s, self.call_s = 1.0, 0.0
        self.pieces: list[int] = []
        self.hook: Any = None

    def set_cache_hook(self, hook: Any) -> None:
        self.hook = hook

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        return self._answers(requests, lambda context, text: (-len(context) / 3, context < text))

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        import numpy as np
        import torch

        def drawn(_prompt: str, _options: Any) -> str:
            return f"{random.random()} {np.random.rand()} {torch.rand(1).item()}"

        return self._answers(requests, drawn)

    def _answers(self, requests: Sequence[Any], answer: Any) -> list[Any]:
        self.pieces.append(len(requests))
        self.clock.now += self.call_s + self.request_s * len(requests)
        found = []
        for request in requests:
            found.append(answer(*request.args))
            self.hook.add_partial("", request.args, found[-1])
        return found


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(scoring, "time", clock)
    return Model(clock)


def call(method: str, requests: Sequence[Any], **more: Any) -> Call:
    keys = [f"{method} {request}" for request in requests]
    return Call(**{"method": method, "arguments": requests, "keys": keys, "batch_size": 1, **more})


def go_on(*_: object) -> bool:
    return True


def fail(message: str) -> None:
    raise AssertionError(message)


def test_requests_are_asked_in_pieces_of_some_minutes_and_resumed_between_two(
    model: Model, tmp_path: Path
) -> None:
    # Some requests occur more than once, as in real tasks.
    requests = [(f"{'x' * (number % 1500)}", "y") for number in range(2000)]
    asked = call("loglikelihood", requests, generators=(0, 0, 0))
    expected, usage = scoring.Scoring(model, fail).score(asked, None, go_on)
    assert model.pieces == [64, *[300] * 6, 136]
    assert expected == [(-len(context) / 3, context < text) for context, text in requests]
    assert (usage.requests, usage.kept) == (2000, 0)

    model.pieces.clear()
    answers = Answers(tmp_path, ROW, "tiny", fail)
    with pytest.raises(StoppedError):
        scoring.Scoring(model, fail).score(asked, answers, lambda *_: len(model.pieces) < 2)
    answers.flush()
    assert model.pieces == [64, 300]

    model.pieces.clear()
    answers = Answers(tmp_path, ROW, "tiny", fail)
    replies, usage = scoring.Scoring(model, fail).score(asked, answers, go_on)
    assert replies == expected
    # A repeated request has its answer, too.
    assert usage.kept == 364 + 364
    assert model.pieces == [64, *[300] * 4, 8]


@pytest.mark.parametrize(
    ("request_s", "call_s", "pieces"),
    [
        # It answers 64 requests as fast as one.
        (0.0, 600.0, [64, 64, 64, 8]),
        # It answers one after the other.
        (60.0, 0.0, [64, *[30] * 4, 16]),
        (6000.0, 0.0, [64, *[1] * 136]),
    ],
)
def test_a_slow_model_shows_that_it_lives(
    model: Model, request_s: float, call_s: float, pieces: list[int]
) -> None:
    model.request_s, model.call_s = request_s, call_s
    asked = call("loglikelihood", [(f"{n}", "y") for n in range(200)], generators=(0, 0, 0))
    scoring.Scoring(model, fail).score(asked, None, go_on)
    assert model.pieces == pieces


def test_each_row_has_the_generators_to_itself(model: Model) -> None:
    texts = [("prompt", {"do_sample": True})] * 3

    def drawn(is_disturbed: bool) -> list[Any]:
        served = scoring.Scoring(model, fail)
        first = call("generate_until", texts, generators=(1, 2, 3))
        replies, _ = served.score(first, None, go_on)
        generators = scoring.generator_states()
        if is_disturbed:
            # Another row is served between two calls of this one.
            served.score(call("generate_until", texts, generators=(7, 7, 7)), None, go_on)
        second = call("generate_until", texts, generators=generators)
        return [*replies, *served.score(second, None, go_on)[0]]

    assert len(set(drawn(False))) == 6
    assert drawn(True) == drawn(False)


def test_what_does_not_fit_and_cannot_be_halved_is_the_row_s_failure(model: Model) -> None:
    def fails(_requests: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.loglikelihood = fails  # type: ignore[method-assign,assignment]
    asked = call("loglikelihood", [("x", "y")], generators=(0, 0, 0))
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        scoring.Scoring(model, fail).score(asked, None, go_on)
