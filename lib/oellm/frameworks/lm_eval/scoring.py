"""lm-evaluation-harness: requests through a model, batch by batch.

Around lm-eval's own loops: each batch that ends is kept, a batch that does not fit into memory is
halved, and between two batches the model can be stopped. What the model computes, and in which
batches, stays lm-eval's business, so that the scores are those of its command line.
"""

from __future__ import annotations

import array
import hashlib
import pickle
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from oellm.frameworks.interface import GoOn, StoppedError
from oellm.frameworks.lm_eval.messages import TOKENS, Seeds, Usage
from oellm.runs.answers import Answer, Answers

if TYPE_CHECKING:
    from oellm.frameworks.lm_eval.messages import Call


# Seconds that a piece of the requests should take, for backends that let no one look between
# their batches, and the requests of the first piece, when nobody knows how long they take.
_PIECE = 300.0
_FIRST_PIECE = 1024
_OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "HIPBLAS_STATUS_ALLOC_FAILED")


class Scoring:
    """A loaded model, and which batches fit into its memory."""

    def __init__(self, model: Any, report: Callable[[str], None]) -> None:
        import torch

        self.model = model
        self._report = report
        module = getattr(model, "model", None)
        # What is called once per batch or token, if the backend is one that shows it.
        self.module = module if isinstance(module, torch.nn.Module) else None
        self._sizes = _BatchSizes(model)

    def score(self, call: Call, answers: Answers | None, go_on: GoOn) -> tuple[list[Any], Usage]:
        """Return the answers to requests, in their order, and what they took.

        Raises StoppedError at the end of a batch, and whatever lm-eval raises.
        """
        import torch

        gpus = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
        for gpu in gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        started = time.perf_counter()
        attempt = _Attempt(self.model, call, answers, go_on)
        _restore(call.generators)
        with attempt.watching(self.module):
            replies = self._answered(call, attempt)
        return replies, Usage(
            time.perf_counter() - started,
            len(call.arguments),
            attempt.kept_in_all(),
            attempt.tokens,
            self._sizes.used,
            max(map(torch.cuda.max_memory_allocated, gpus), default=0),
        )

    def _answered(self, call: Call, attempt: _Attempt) -> list[Any]:
        # Longer requests need more memory; lm-eval itself tries the longest possible ones for all
        # requests but these.
        longest = self._sizes.longest
        if call.method == TOKENS:
            longest = max(len(context) + len(rest) for _, context, rest in call.arguments)
        self._sizes.choose(call.method, longest, call.batch_size)
        before = generators()
        while True:
            try:
                return self._in_pieces(attempt)
            # Whatever a backend raises when memory ends; what is something else goes on.
            except Exception as error:
                if not is_out_of_memory(error) or not self._sizes.halve():
                    raise
                size, reason = self._sizes.used, str(error).splitlines()[0]
            # Outside the handler: the error holds what fills the memory.
            _free_memory()
            self._report(f"batch size {size} from now on: {reason}")
            _restore(before)

    def _in_pieces(self, attempt: _Attempt) -> list[Any]:
        """Answer all requests at once, or, where no one can look between batches, in pieces."""
        todo = attempt.unanswered()
        size = _FIRST_PIECE if self.module is None else len(todo)
        while todo:
            piece, todo = todo[:size], todo[size:]
            started = time.perf_counter()
            attempt.ask(piece)
            attempt.end_batch()
            size = max(1, int(len(piece) * _PIECE / max(1e-3, time.perf_counter() - started)))
        return attempt.replies()


class _Attempt:
    """One call: which of its requests are answered, and the model's hooks while it lasts."""

    def __init__(self, model: Any, call: Call, answers: Answers | None, go_on: GoOn) -> None:
        self._model = model
        self._call = call
        self._answers = answers
        self._go_on = go_on
        self._earlier: dict[str, Answer] = answers.earlier() if answers else {}
        self._replies: list[Any] = [
            self._earlier.get(key) if key is not None else None for key in call.keys
        ]
        # By what lm-eval names a request in its hook: the positions in this call.
        self._positions: dict[Any, list[int]] = {}
        for position in reversed(self.unanswered()):
            name = _name(call.method, call.arguments[position])
            self._positions.setdefault(name, []).append(position)
        self._has_ended_batch = True
        # Requests that have an answer, and those of them that had it before.
        self.answered = self.kept = sum(reply is not None for reply in self._replies)
        # Of the texts that are asked for: their windows, and those that were answered before.
        self._windows = self._kept_windows = 0
        self.tokens = 0

    def kept_in_all(self) -> int:
        """Return how many requests were answered before; where half of the windows were, half."""
        asked = len(self._replies) - self.kept
        return self.kept + asked * self._kept_windows // max(1, self._windows)

    def unanswered(self) -> list[int]:
        """Return the positions of the requests that have no answer yet."""
        return [position for position, reply in enumerate(self._replies) if reply is None]

    def replies(self) -> list[Any]:
        """Return the answers, in the order of the requests."""
        return self._replies

    def ask(self, positions: Sequence[int]) -> None:
        """Have lm-eval answer some of the requests."""
        requests = [self._call.arguments[position] for position in positions]
        if self._call.method != TOKENS:
            requests = [_Request(arguments) for arguments in requests]
        replies = getattr(self._model, self._call.method)(requests)
        for position, reply in zip(positions, replies, strict=True):
            self._replies[position] = reply

    def watching(self, module: Any) -> _Watch:
        """Return a context in which batches that end are noticed."""
        return _Watch(self, self._model, module, self._call.method)

    def begin_forward(self, tokens: int) -> None:
        """Note that the model computes something; before a batch's first, the last one ended."""
        self.tokens += tokens
        if not self._has_ended_batch:
            self.end_batch()

    def end_batch(self) -> None:
        """Keep what was answered; raises StoppedError if it is time to."""
        self._has_ended_batch = True
        if self._answers is not None:
            self._answers.complete()
        if not self._go_on(self.answered, len(self._replies), self.kept):
            raise StoppedError

    def add(self, request: Any, reply: Any) -> None:
        """Note the answer to a request, as lm-eval's hook gives it."""
        # The same request may be there several times, and then is answered as often.
        waiting = self._positions.get(_hashable(request))
        if waiting:
            position = waiting.pop()
            self._replies[position] = reply
            self.answered += 1
            self.keep(self._call.keys[position], reply)

    def keep(self, key: str | None, reply: Any) -> None:
        """Keep an answer on disk, with the batch that it belongs to."""
        self._has_ended_batch = False
        if key is not None and self._answers is not None:
            self._answers.add(key, reply)

    def of_windows(self, score: Callable[..., Any], requests: Any, **options: Any) -> list[Any]:
        """Answer windows of long texts; lm-eval's hook only tells of whole texts, at the end."""
        keys = [_window_key(context, rest) for _, context, rest in requests]
        self._windows += len(keys)
        # All or nothing: a batch of other windows would differ in the last digits.
        if all(key in self._earlier for key in keys):
            self._kept_windows += len(keys)
            return [self._earlier[key] for key in keys]
        replies: list[Any] = score(requests=requests, **options)
        for key, reply in zip(keys, replies, strict=True):
            self.keep(key, reply)
        return replies


class _Request:
    """A request as lm-eval's models take it."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.args = self.arguments = arguments
        self.task_name = None


class _Watch:
    """While it lasts, a model tells an attempt of its batches."""

    def __init__(self, attempt: _Attempt, model: Any, module: Any, method: str) -> None:
        self._attempt, self._model, self._module = attempt, model, module
        self._method = method
        self._hook: Any = None

    def __enter__(self) -> None:
        self._model.set_cache_hook(self)
        if self._module is not None:
            self._hook = self._module.register_forward_pre_hook(self._before, with_kwargs=True)
        if self._method == "loglikelihood_rolling" and hasattr(self._model, TOKENS):
            score = getattr(self._model, TOKENS)
            setattr(
                self._model,
                TOKENS,
                lambda requests, **options: self._attempt.of_windows(score, requests, **options),
            )

    def __exit__(self, *_: object) -> None:
        from lm_eval.api.model import CacheHook

        self._model.set_cache_hook(CacheHook(None))
        if self._hook is not None:
            self._hook.remove()
        vars(self._model).pop(TOKENS, None)

    def add_partial(self, _method: str, request: Any, reply: Any) -> None:
        """Be lm-eval's hook: called once per request when it is answered."""
        self._attempt.add(request, reply)

    def _before(self, _module: Any, arguments: Any, named: Any) -> None:
        inputs = arguments[0] if arguments else named.get("input_ids")
        self._attempt.begin_forward(inputs.numel() if hasattr(inputs, "numel") else 0)


class _BatchSizes:
    """Which batch sizes a model is given, so that batches fit into memory.

    Found once: a size that fits requests of some length fits shorter ones too, and one that was too
    large for some is too large for longer ones.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        # lm-eval's models on transformers keep their batch size here, others in batch_size.
        self._is_adjustable = hasattr(model, "batch_size_per_gpu")
        self.longest: int = getattr(model, "max_length", 0) or 0
        self.used: int | str = ""
        self._place: tuple[str, int] = ("", 0)
        # By method and length.
        self._found: dict[tuple[str, int], int] = {}
        self._limits: dict[tuple[str, int], int] = {}

    def choose(self, method: str, longest: int, asked: int | str) -> None:
        """Give the model the batch size for requests of at most `longest` tokens."""
        self._place = (method, longest)
        size = self._automatic(method, longest) if asked == "auto" else asked
        limits = [
            limit
            for (known, length), limit in self._limits.items()
            if known == method and length <= longest
        ]
        if isinstance(size, int):
            size = min([size, *limits])
        self._set(size)
        if asked == "auto" and self._is_adjustable:
            # Where lm-eval's results have it.
            self._model.batch_sizes = {0: size}

    def halve(self) -> bool:
        """Take half the batch size from now on; False where it is 1, or not ours to say."""
        # Of a schedule (auto:N) only the largest size is known.
        if not self._is_adjustable:
            return False
        size = self.used if isinstance(self.used, int) else int(self._model.max_batch_size)
        if size == 1:
            return False
        self._limits[self._place] = size // 2
        self._set(size // 2)
        return True

    def _automatic(self, method: str, longest: int) -> int | str:
        """Return the size that lm-eval finds for requests of a length, found once per length."""
        if not self._is_adjustable:
            return "auto"
        # Rounded up to a power of two, so that tasks of nearly the same length share a size.
        shape = min(1 << (longest - 1).bit_length(), self.longest)
        place = (method, shape)
        if place not in self._found:
            half = [0] * (shape // 2), [0] * (shape + 1 - shape // 2)
            self._found[place] = self._model._detect_batch_size([(None, *half)])
        return self._found[place]

    def _set(self, size: int | str) -> None:
        """Give a loaded model another batch size; lm-eval only records the one given to a call."""
        name, _, schedule = str(size).partition(":")
        value: int | str = int(name) if name.isdecimal() else name
        self.used = value
        if self._is_adjustable:
            self._model.batch_size_per_gpu = value
            self._model.batch_schedule = float(schedule or 1)
            self._model.batch_sizes = {}
        else:
            self._model.batch_size = value


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an accelerator's memory was too small (CUDA and HIP)."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)
    )


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _name(method: str, request: Any) -> Any:
    return _hashable(request[0] if method == TOKENS else request)


def _hashable(request: Any) -> Any:
    """Return what stands for a request in a dict: options of generation are a dict themselves."""
    return tuple(part if isinstance(part, str) else repr(part) for part in request)


def _window_key(context: list[int], rest: list[int]) -> str:
    tokens = array.array("q", [len(context), *context, *rest]).tobytes()
    return f"window {hashlib.blake2b(tokens, digest_size=16).hexdigest()}"


def generators() -> bytes:
    """Return where the generators of random numbers are, pickled."""
    return pickle.dumps([get() for get, _ in _states()])


def _restore(known: Seeds | bytes) -> None:
    """Put the generators where lm-eval has them when it makes a call."""
    if not isinstance(known, bytes):
        _seed(*known)
        return
    for (_, put), state in zip(_states(), pickle.loads(known), strict=True):  # noqa: S301
        put(state)


def _states() -> Iterator[tuple[Callable[[], Any], Callable[[Any], None]]]:
    import numpy as np
    import torch

    yield random.getstate, random.setstate
    yield np.random.get_state, np.random.set_state
    yield torch.get_rng_state, torch.set_rng_state
    # Where this process computes on a GPU; asking others about theirs would take their memory.
    if torch.cuda.is_initialized():
        yield torch.cuda.get_rng_state, torch.cuda.set_rng_state


def _seed(python: int | None, numpy: int | None, torch: int | None) -> None:
    import numpy as np
    from lm_eval.utils import set_torch_seed

    if python is not None:
        random.seed(python)
    if numpy is not None:
        np.random.seed(numpy)
    if torch is not None:
        set_torch_seed(torch)
