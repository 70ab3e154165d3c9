"""What passes between a row's process and the process of its model."""

from __future__ import annotations

from typing import Any, NamedTuple


class Handle(NamedTuple):
    """What rows must know of a loaded model."""

    backend: str
    # Its arguments, as lm-eval's command line writes them into results.
    arguments: str
    # What lm-eval writes into results about the model, and about its tokenizer.
    info: dict[str, Any]
    tokenizer_info: dict[str, Any]
    # The model without its weights, pickled: enough to tokenise; empty where that cannot be had.
    shell: bytes
    is_multimodal: bool
    identity: dict[str, Any]
    accelerator: dict[str, Any]
    seconds: float
    # Of these, until the model was copied to the node's disk; None where it was not.
    staged_s: float | None


class Call(NamedTuple):
    """What a row asks: a method of the model, and what that gets."""

    method: str
    arguments: Any
    # By what the answer to each request is kept; None for those that are not.
    keys: list[str | None]
    batch_size: int | str
    # Where random, NumPy and torch are: their seeds, then what the reply before says. The model
    # may answer other rows between two calls of one, and be another process.
    generators: Seeds | bytes


class Reply(NamedTuple):
    """What a row gets for a call."""

    answers: Any
    usage: Usage
    # lm-eval's batch_sizes, which its results show.
    batch_sizes: dict[int, int]
    # What lm-eval writes into results about the machine.
    environment: str
    generators: bytes


# For the generators random, NumPy, torch; those without are left as they are.
Seeds = tuple[int | None, int | None, int | None]


TOKENS = "_loglikelihood_tokens"


class Usage(NamedTuple):
    """What answering took."""

    seconds: float = 0.0
    requests: int = 0
    # Requests that an earlier attempt had answered.
    kept: int = 0
    # Through the model, with padding; 0 where that is not known.
    tokens: int = 0
    # The largest batch that was used; empty where the backend decides.
    batch_size: int | str = ""
    peak_bytes: int = 0
