"""Messages between the process of a row and the process of its model."""

from __future__ import annotations

from typing import Any, NamedTuple

from oellm.models.identity import ModelIdentity
from oellm.runs.result_record import Facts


class Handle(NamedTuple):
    """What rows know about a loaded model.

    Attributes:
        backend: The name of lm-eval's backend.
        arguments: The model arguments, as lm-eval's command line writes them into results.
        info: What lm-eval writes into results about the model.
        tokenizer_info: What lm-eval writes into results about the tokenizer.
        light_attributes: The model's attributes without weights, pickled: enough to tokenise.
            Empty if the model cannot be used without its weights.
        is_multimodal: Whether the model also takes images or sound.
        identity: Which model it is.
        accelerator: The GPU or CPU that it is on.
        dtype: The type of its weights, such as bfloat16; empty if the backend does not tell.
        seconds: The duration of loading, including the copy to the node's disk.
        staged_s: The duration of that copy; None if there was none.
    """

    backend: str
    arguments: str
    info: dict[str, Any]
    tokenizer_info: dict[str, Any]
    light_attributes: bytes
    is_multimodal: bool
    identity: ModelIdentity
    accelerator: Facts
    dtype: str
    seconds: float
    staged_s: float | None


class Call(NamedTuple):
    """A row's call of a method of its model.

    Attributes:
        method: The name of the method.
        arguments: For a method that scores, a list of requests; otherwise its arguments.
        keys: One key per request, under which its answer is stored; None if it is not stored.
            Empty for a method that does not score.
        batch_size: The row's batch size: a number, "auto" or "auto:N".
        generators: The state of the random number generators: at first their seeds, later what
            the previous reply says. Between two calls of a row, the model may answer other rows or
            even be another process.
    """

    method: str
    arguments: Any
    keys: list[str | None]
    batch_size: int | str
    generators: Seeds | bytes


class CallReply(NamedTuple):
    """The model's reply to a call.

    Attributes:
        answers: One answer per request, or what the method returned.
        usage: What answering took.
        batch_sizes: lm-eval's batch_sizes, which its results show.
        environment: What lm-eval writes into results about the machine.
        generators: The state of the random number generators after the call, pickled.
    """

    answers: Any
    usage: Usage
    batch_sizes: dict[int, int]
    environment: str
    generators: bytes


# Seeds of the generators random, NumPy and torch; None leaves a generator as it is.
Seeds = tuple[int | None, int | None, int | None]


class Usage(NamedTuple):
    """What answering a call took.

    Attributes:
        seconds: The duration.
        requests: The number of requests.
        kept: The number of requests that an earlier attempt had answered.
        tokens: Tokens through the model, including padding; 0 if unknown.
        batch_size: The largest batch size; empty if the backend decides.
        peak_bytes: The peak of GPU memory.
    """

    seconds: float = 0.0
    requests: int = 0
    kept: int = 0
    tokens: int = 0
    batch_size: int | str = ""
    peak_bytes: int = 0
