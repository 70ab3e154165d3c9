"""What a model answered to a row, in a directory, so that lm-eval can score it elsewhere.

`answers/` has the answers in the format of runs/answers, and `model.json` everything else that
lm-eval asks of a model: facts about it, and the texts of its chat template.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oellm.core import atomic, json_codec
from oellm.core.log import Log
from oellm.core.regular_files import read_regular
from oellm.frameworks.interface import ModelClient
from oellm.frameworks.lm_eval.environment import describe_environment
from oellm.frameworks.lm_eval.messages import Call, CallReply, Handle, Usage
from oellm.models.identity import HubIdentity, LocalIdentity
from oellm.runs.answers import Answers
from oellm.runs.environment import Environment

_MODEL = "model.json"
# The directory of answers/ for the one row that a directory is about.
_ROW = "row"
_ORIGIN = "recorded"
_DIGITS = 16


class AllAnsweredError(Exception):
    """The model has answered all requests of a row, which is to be scored elsewhere."""


class RecordingClient:
    """A model whose answers to one row are recorded in a directory.

    Raises AllAnsweredError in the place of the last reply.
    """

    def __init__(self, client: ModelClient, directory: Path, log: Log) -> None:
        self._client = client
        self._directory = directory
        self._answers = Answers(directory / "answers", _ROW, origin=_ORIGIN, log=log)
        self._handle: Handle | None = None
        self._calls: list[dict[str, Any]] = []
        self._texts: dict[str, Any] = {}
        self.replies: list[CallReply] = []

    def wait_for_model(self) -> Handle:
        """Return the handle of the model, without what lets a row do the model's work itself."""
        if self._handle is None:
            handle: Handle = self._client.wait_for_model()
            self._handle = handle._replace(light_attributes=b"")
        return self._handle

    def request_reply(self, call: Call, is_last: bool) -> CallReply:
        """Return the model's reply, and record it."""
        reply: CallReply = self._client.request_reply(call, is_last)
        if not call.keys:
            self._texts[_text_key(call)] = reply.answers
            return reply
        for key, answer in zip(
            _answer_keys(len(self._calls), call.arguments), reply.answers, strict=True
        ):
            self._answers.add(key, answer)
        self._answers.complete()
        self._calls.append(
            {
                "method": call.method,
                "usage": reply.usage._asdict(),
                "batch_sizes": sorted(reply.batch_sizes.items()),
                "environment": reply.environment,
            }
        )
        self.replies.append(reply)
        if is_last:
            self._write()
            raise AllAnsweredError
        return reply

    def _write(self) -> None:
        self._answers.flush()
        expected = sum(len(reply.answers) for reply in self.replies)
        if self._answers.saved != expected:
            raise OSError(f"{self._answers.saved} of {expected} answers could be kept")
        handle = self.wait_for_model()
        content = {
            "handle": {
                **handle._asdict(),
                "light_attributes": "",
                "identity": handle.identity.to_json(),
            },
            "environment": describe_environment(handle).to_json(),
            "calls": self._calls,
            "texts": self._texts,
        }
        atomic.write_file(self._directory / _MODEL, json_codec.dumps(content))


class RecordedModel:
    """A model that answers one row from what was recorded; a ModelClient.

    Raises OSError or ValueError if the record cannot be read.

    Attributes:
        environment: What the answers were computed with.
    """

    def __init__(self, directory: Path) -> None:
        content = json_codec.loads(read_regular(directory / _MODEL))
        try:
            self._handle = _read_handle(content["handle"])
            self.environment = Environment.from_json(content["environment"])
            self._calls = [_read_call(call) for call in content["calls"]]
            self._texts: dict[str, Any] = dict(content["texts"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{_MODEL}: damaged: {error}") from None
        answers = Answers(directory / "answers", _ROW, origin=_ORIGIN, log=_ignore)
        self._answers = answers.read_earlier()
        self._answered = 0

    def wait_for_model(self) -> Handle:
        """Return the handle of the model."""
        return self._handle

    def request_reply(self, call: Call, is_last: bool) -> CallReply:
        """Return the reply that was recorded.

        Raises ValueError if the model was asked something else: a prompt has changed since.
        """
        if not call.keys:
            if (key := _text_key(call)) not in self._texts:
                raise ValueError(f"{call.method} was not asked when the answers were generated")
            return CallReply(self._texts[key], Usage(), {}, environment="", generators=b"")
        number = self._answered
        is_same = number < len(self._calls) and self._calls[number][0] == call.method
        keys = _answer_keys(number, call.arguments)
        missing = [key for key in keys if key not in self._answers]
        if not is_same or missing:
            raise ValueError(
                f"{len(missing) if is_same else len(keys)} of {len(keys)} prompts are not those "
                "that the model has answered: the task, its data or lm-eval have changed since"
            )
        if is_last and number + 1 != len(self._calls):
            raise ValueError("the model was asked more than the task asks now")
        self._answered += 1
        _, usage, batch_sizes, environment = self._calls[number]
        return CallReply(
            [self._answers[key] for key in keys],
            usage,
            batch_sizes,
            environment=environment,
            generators=b"",
        )


def _read_handle(content: dict[str, Any]) -> Handle:
    local = LocalIdentity.from_json(content["identity"])
    identity = local or HubIdentity(str(content["identity"]["commit"]))
    return Handle(**{**content, "identity": identity, "light_attributes": b""})


def _read_call(content: dict[str, Any]) -> tuple[str, Usage, dict[int, int], str]:
    sizes = {int(position): int(size) for position, size in content["batch_sizes"]}
    return content["method"], Usage(**content["usage"]), sizes, content["environment"]


def _answer_keys(number: int, arguments: Sequence[Any]) -> list[str]:
    """Return the keys of a call's answers: the number of the call, the place and the prompt.

    The place, because a request that is sampled is repeated, and each answer is another one.
    """
    return [
        f"{number}:{place}:{hashlib.sha256(repr(each).encode()).hexdigest()[:_DIGITS]}"
        for place, each in enumerate(arguments)
    ]


def _text_key(call: Call) -> str:
    return json.dumps([call.method, call.arguments], sort_keys=True)


def _ignore(_message: str) -> None:
    """Take the messages of a reader, which has none."""
