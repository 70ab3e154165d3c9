"""Requests through an lm-eval model, batch by batch.

This wraps lm-eval's own loops: each finished batch is stored, a batch that does not fit into memory
is halved, and the model can be stopped between two batches. What the model computes, and in which
batches, is left to lm-eval, so that the scores are those of its command line.
"""

from __future__ import annotations

import array
import hashlib
import pickle
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from oellm.core.log import Log
from oellm.frameworks.interface import LOGLIKELIHOOD_ROLLING, GoOn, StoppedError
from oellm.frameworks.lm_eval import patches
from oellm.frameworks.lm_eval.messages import Seeds, Usage
from oellm.runs.answers import Answer, Answers

if TYPE_CHECKING:
    from oellm.frameworks.lm_eval.messages import Call


# For backends whose batches we cannot observe: how many seconds a piece of the requests should
# take, and the size of the first piece, when their speed is still unknown. Until a piece ends, the
# model seems to hang: of a reasoning model, which writes thousands of tokens, it must be small.
_PIECE_S = 300.0
_FIRST_PIECE = 64
# Such a backend may answer few requests no faster than many: only a piece that takes longer than
# this, half of the least row_timeout, is a reason for smaller ones than the first.
_LONGEST_PIECE_S = 1800.0
_OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "HIPBLAS_STATUS_ALLOC_FAILED")


class Scoring:
    """A loaded model, and the batch sizes that fit into its memory."""

    def __init__(self, model: Any, log: Log) -> None:
        import torch

        self.model = model
        self._log = log
        module = getattr(model, "model", None)
        # The module that is called once per batch or token; None if the backend does not expose it.
        self.module = module if isinstance(module, torch.nn.Module) else None
        self._sizes = _BatchSizes(model)

    def score(self, call: Call, answers: Answers | None, go_on: GoOn) -> tuple[list[Any], Usage]:
        """Return the answers to a call's requests, in order, and what they took.

        Raises StoppedError at the end of a batch if `go_on` says so, and whatever lm-eval raises.
        """
        import torch

        gpus = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
        for gpu in gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        started = time.perf_counter()
        attempt = _Attempt(self.model, call, answers=answers, go_on=go_on)
        _restore_generators(call.generators)
        with attempt.observing(self.module):
            replies = self._score_with_retries(call, attempt)
        usage = Usage(
            seconds=time.perf_counter() - started,
            requests=len(call.arguments),
            kept=attempt.count_kept(),
            tokens=attempt.tokens,
            batch_size=self._sizes.used,
            peak_bytes=max(map(torch.cuda.max_memory_allocated, gpus), default=0),
        )
        return replies, usage

    def _score_with_retries(self, call: Call, attempt: _Attempt) -> list[Any]:
        """Score all requests; halve the batch size and score the rest if memory runs out."""
        # Longer requests need more memory. Unless it gets tokens, lm-eval itself sizes batches for
        # the longest possible request.
        longest = self._sizes.longest
        if call.method == patches.SCORE_TOKENS:
            longest = max(len(context) + len(rest) for _, context, rest in call.arguments)
        self._sizes.choose(call.method, longest, call.batch_size)
        before = generator_states()
        while True:
            try:
                return self._score_in_pieces(attempt)
            # Backends raise various errors if memory runs out; all other errors are raised again.
            except Exception as error:
                if not is_out_of_memory(error) or not self._sizes.halve():
                    raise
                size, reason = self._sizes.used, str(error).splitlines()[0]
            # Outside the handler, because the error holds references to what fills the memory.
            free_memory()
            self._log(f"batch size {size} from now on: {reason}")
            _restore_generators(before)

    def _score_in_pieces(self, attempt: _Attempt) -> list[Any]:
        """Score all requests at once, or in pieces if the backend's batches are not observable."""
        todo = attempt.unanswered()
        size = _FIRST_PIECE if self.module is None else len(todo)
        while todo:
            piece, todo = todo[:size], todo[size:]
            started = time.perf_counter()
            attempt.ask(piece)
            attempt.end_batch()
            per_second = len(piece) / max(1e-3, time.perf_counter() - started)
            least = min(_FIRST_PIECE, int(per_second * _LONGEST_PIECE_S))
            size = max(1, least, int(per_second * _PIECE_S))
        return attempt.replies()


class _Attempt:
    """One call: which of its requests are answered. Also lm-eval's cache hook."""

    def __init__(self, model: Any, call: Call, answers: Answers | None, go_on: GoOn) -> None:
        self._model = model
        self._call = call
        self._answers = answers
        self._go_on = go_on
        self._earlier: dict[str, Answer] = answers.read_earlier() if answers else {}
        self._replies: list[Any] = [
            self._earlier.get(key) if key is not None else None for key in call.keys
        ]
        # The positions of each request in this call, by what lm-eval passes to its cache hook.
        self._positions: dict[Any, list[int]] = {}
        for position in reversed(self.unanswered()):
            name = _hook_key(call.method, call.arguments[position])
            self._positions.setdefault(name, []).append(position)
        self._has_ended_batch = True
        # The number of answered requests, and how many of them earlier attempts answered.
        self.answered = self.kept = sum(reply is not None for reply in self._replies)
        # For long texts: the number of their windows, and how many earlier attempts scored.
        self._windows = self._kept_windows = 0
        self.tokens = 0

    def count_kept(self) -> int:
        """Return how many requests earlier attempts answered.

        For long texts this is estimated: half of the windows count as half of the requests.
        """
        asked = len(self._replies) - self.kept
        return self.kept + asked * self._kept_windows // max(1, self._windows)

    def unanswered(self) -> list[int]:
        """Return the positions of the requests without an answer."""
        return [position for position, reply in enumerate(self._replies) if reply is None]

    def replies(self) -> list[Any]:
        """Return the answers, in the order of the requests."""
        return self._replies

    def ask(self, positions: Sequence[int]) -> None:
        """Have lm-eval answer the requests at these positions."""
        requests = [self._call.arguments[position] for position in positions]
        if self._call.method != patches.SCORE_TOKENS:
            requests = [_Request(arguments) for arguments in requests]
        replies = getattr(self._model, self._call.method)(requests)
        for position, reply in zip(positions, replies, strict=True):
            self._replies[position] = reply

    @contextmanager
    def observing(self, module: Any) -> Iterator[None]:
        """Within the context, this attempt sees the model's answers, batches and windows."""
        from lm_eval.api.model import CacheHook

        with ExitStack() as stack:
            self._model.set_cache_hook(self)
            stack.callback(self._model.set_cache_hook, CacheHook(None))
            if module is not None:
                hook = module.register_forward_pre_hook(self._before_forward, with_kwargs=True)
                stack.callback(hook.remove)
            if self._call.method == LOGLIKELIHOOD_ROLLING:
                stack.enter_context(
                    patches.wrapped_window_scoring(self._model, self._score_windows)
                )
            yield

    def end_batch(self) -> None:
        """Store the answers of the batch; raises StoppedError if the model should stop."""
        self._has_ended_batch = True
        if self._answers is not None:
            self._answers.complete()
        if not self._go_on(self.answered, len(self._replies), self.kept):
            raise StoppedError

    def add_partial(self, _method: str, request: Any, reply: Any) -> None:
        """Note an answer; lm-eval's cache hook, called once for each answered request."""
        # Equal requests are answered as often as they occur.
        waiting = self._positions.get(_hashable(request))
        if waiting:
            position = waiting.pop()
            self._replies[position] = reply
            self.answered += 1
            self._store(self._call.keys[position], reply)

    def _store(self, key: str | None, reply: Any) -> None:
        """Add an answer to the batch that is stored at its end."""
        self._has_ended_batch = False
        if key is not None and self._answers is not None:
            self._answers.add(key, reply)

    def _before_forward(self, _module: Any, arguments: Any, named: Any) -> None:
        """Count the tokens of a forward pass; the first pass of a batch ends the previous batch."""
        inputs = arguments[0] if arguments else named.get("input_ids")
        self.tokens += inputs.numel() if hasattr(inputs, "numel") else 0
        if not self._has_ended_batch:
            self.end_batch()

    def _score_windows(self, score: Callable[..., Any], requests: Any, **options: Any) -> list[Any]:
        """Score windows of long texts with lm-eval's function `score`, or take stored scores."""
        keys = [_window_key(context, rest) for _, context, rest in requests]
        self._windows += len(keys)
        # All or none: in a batch with other windows, scores differ in their last digits.
        if all(key in self._earlier for key in keys):
            self._kept_windows += len(keys)
            return [self._earlier[key] for key in keys]
        replies: list[Any] = score(requests=requests, **options)
        for key, reply in zip(keys, replies, strict=True):
            self._store(key, reply)
        return replies


class _Request:
    """A request with those attributes of lm-eval's Instance that its models read."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.args = self.arguments = arguments
        self.task_name = None


class _BatchSizes:
    """Chooses batch sizes that fit into memory.

    A size is detected once: a size that fits requests of some length also fits shorter ones, and a
    size that is too large for some requests is too large for longer ones.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        # lm-eval's models on transformers have this attribute, other backends batch_size.
        self._is_adjustable = hasattr(model, "batch_size_per_gpu")
        self.longest: int = getattr(model, "max_length", 0) or 0
        self.used: int | str = ""
        self._method_and_length: tuple[str, int] = ("", 0)
        # Both by method and length.
        self._detected: dict[tuple[str, int], int] = {}
        self._limits: dict[tuple[str, int], int] = {}

    def choose(self, method: str, longest: int, asked: int | str) -> None:
        """Give the model the batch size for requests of at most `longest` tokens."""
        self._method_and_length = (method, longest)
        size = self._detect(method, longest) if asked == "auto" else asked
        limits = [
            limit
            for (known, length), limit in self._limits.items()
            if known == method and length <= longest
        ]
        if isinstance(size, int):
            size = min([size, *limits])
        self._set(size)
        if asked == "auto" and self._is_adjustable:
            # lm-eval's results show this attribute.
            self._model.batch_sizes = {0: size}

    def halve(self) -> bool:
        """Halve the batch size; return False if it is 1 already, or the backend decides it."""
        if not self._is_adjustable:
            return False
        # Of a schedule (auto:N), only the largest size is known.
        size = self.used if isinstance(self.used, int) else int(self._model.max_batch_size)
        if size == 1:
            return False
        self._limits[self._method_and_length] = size // 2
        self._set(size // 2)
        return True

    def _detect(self, method: str, longest: int) -> int | str:
        """Return the batch size that lm-eval detects for requests of this length."""
        if not self._is_adjustable:
            return "auto"
        # Rounded up to a power of two, so that tasks of similar length share a size.
        shape = min(1 << (longest - 1).bit_length(), self.longest)
        key = (method, shape)
        if key not in self._detected:
            context, continuation = [0] * (shape // 2), [0] * (shape + 1 - shape // 2)
            self._detected[key] = patches.detect_batch_size(self._model, context, continuation)
        return self._detected[key]

    def _set(self, size: int | str) -> None:
        """Change the batch size of the loaded model.

        A size passed to lm-eval's evaluation beside a loaded model is only written into results.
        """
        name, _, schedule = str(size).partition(":")
        value: int | str = int(name) if name != "auto" else name
        self.used = value
        if self._is_adjustable:
            self._model.batch_size_per_gpu = value
            self._model.batch_schedule = float(schedule or 1)
            self._model.batch_sizes = {}
        else:
            self._model.batch_size = value


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an accelerator ran out of memory (CUDA or HIP)."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)
    )


def free_memory() -> None:
    """Free the memory of objects that nothing refers to, also on the accelerator."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _hook_key(method: str, request: Any) -> Any:
    return _hashable(request[0] if method == patches.SCORE_TOKENS else request)


def _hashable(request: Any) -> Any:
    """Return a dict key for a request, whose generation options are a dict themselves."""
    return tuple(part if isinstance(part, str) else repr(part) for part in request)


def _window_key(context: list[int], rest: list[int]) -> str:
    tokens = array.array("q", [len(context), *context, *rest]).tobytes()
    return f"window {hashlib.blake2b(tokens, digest_size=16).hexdigest()}"


def generator_states() -> bytes:
    """Return the states of the random number generators, pickled."""
    return pickle.dumps([get() for get, _ in _state_accessors()])


def _restore_generators(states: Seeds | bytes) -> None:
    """Put the generators into the state that they have when lm-eval makes a call."""
    if not isinstance(states, bytes):
        _seed_generators(*states)
        return
    for (_, put), state in zip(_state_accessors(), pickle.loads(states), strict=True):  # noqa: S301
        put(state)


def _state_accessors() -> Iterator[tuple[Callable[[], Any], Callable[[Any], None]]]:
    import numpy as np
    import torch

    yield random.getstate, random.setstate
    yield np.random.get_state, np.random.set_state
    yield torch.get_rng_state, torch.set_rng_state
    # Only if this process uses the GPU already: asking another one would allocate memory on it.
    if torch.cuda.is_initialized():
        yield torch.cuda.get_rng_state, torch.cuda.set_rng_state


def _seed_generators(python: int | None, numpy: int | None, torch: int | None) -> None:
    import numpy as np
    from lm_eval.utils import set_torch_seed

    if python is not None:
        random.seed(python)
    if numpy is not None:
        np.random.seed(numpy)
    if torch is not None:
        set_torch_seed(torch)
