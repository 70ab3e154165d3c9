"""A model in another process, as lm-eval's tasks see it.

Work that needs no weights is done here, while the model works for other rows: making prompts and
tokenising. Everything else is asked of the model's process.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Mapping
from typing import Any

from lm_eval.api.model import LM

from oellm.frameworks.interface import GENERATE_UNTIL, LOGLIKELIHOOD, ModelClient
from oellm.frameworks.interface import LOGLIKELIHOOD_ROLLING as ROLLING
from oellm.frameworks.lm_eval import patches
from oellm.frameworks.lm_eval.messages import Call, CallReply, Handle, Seeds
from oellm.runs.answers import request_key


class RemoteModel(LM):  # type: ignore[misc]
    """The model of one row; notes when lm-eval calls it, and how long the steps take.

    `seeds` are those of the generators random, NumPy and torch. `tasks` is filled, including the
    tasks' requests, by the time lm-eval first asks for answers.
    """

    def __init__(
        self, client: ModelClient, batch_size: int | str, seeds: Seeds, tasks: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self._client = client
        self._batch_size = batch_size
        self._generators: Seeds | bytes = seeds
        self._tasks = tasks
        self._tokenizing_model: Any = None
        self._has_tried_tokenizing = False
        self._handle: Handle | None = None
        self.replies: list[CallReply] = []
        # Readings of time.perf_counter: when lm-eval first asked, and when it had its last answer.
        self.asked_at = self.answered_at = 0.0
        self.tokenize_s = 0.0
        # Seconds of waiting for the model while making prompts, which need its chat template.
        self.early_wait_s = 0.0

    @property
    def handle(self) -> Handle:
        """The facts about the loaded model; waits for it."""
        if self._handle is None:
            started = time.perf_counter()
            handle: Handle = self._client.wait_for_model()
            self._handle = handle
            if not self.asked_at:
                self.early_wait_s = time.perf_counter() - started
        return self._handle

    def __getattr__(self, name: str) -> Any:
        # lm-eval tests whether this attribute exists, and only models of images and sound have it.
        if name == "MULTIMODAL" and self.handle.is_multimodal:
            return True
        raise AttributeError(name)

    @property
    def batch_sizes(self) -> dict[int, int]:
        """The detected batch sizes, as lm-eval's results show them."""
        return self.replies[-1].batch_sizes if self.replies else {}

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm-eval's results show about the model."""
        return self.handle.info

    @property
    def tokenizer_name(self) -> str:
        """A name for lm-eval's cache of requests, which is off.

        lm-eval reads it for every row with a chat template, and its base class raises.
        """
        return ""

    def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
        """Return a conversation as a prompt of the model."""
        arguments = (chat_history, add_generation_prompt)
        return str(self._call_without_weights("apply_chat_template", *arguments))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the text of the model's chat template."""
        text: str | None = self._call_without_weights("chat_template", chat_template)
        return text

    def loglikelihood(self, requests: list[Any], **_: Any) -> list[Any]:
        """Return the likelihoods of continuations; tokenises here if possible."""
        self._note_first_request()
        arguments = [request.args for request in requests]
        keys = [request_key(LOGLIKELIHOOD, pair) for pair in arguments]
        model = self._load_tokenizing_model()
        if model is None:
            return self._score(LOGLIKELIHOOD, arguments, keys)
        started = time.perf_counter()
        tokens = model.loglikelihood(requests, disable_tqdm=True)
        self.tokenize_s += time.perf_counter() - started
        return self._score(patches.SCORE_TOKENS, tokens, keys)

    def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[Any]:
        """Return the likelihoods of whole texts."""
        return self._score_untokenized(ROLLING, requests)

    def generate_until(self, requests: list[Any], **_: Any) -> list[Any]:
        """Return generated texts."""
        return self._score_untokenized(GENERATE_UNTIL, requests)

    def _score_untokenized(self, method: str, requests: list[Any]) -> list[Any]:
        self._note_first_request()
        arguments = [request.args for request in requests]
        return self._score(method, arguments, [request_key(method, each) for each in arguments])

    def _score(self, method: str, arguments: list[Any], keys: list[str | None]) -> list[Any]:
        call = Call(
            method=method,
            arguments=arguments,
            keys=keys,
            batch_size=self._batch_size,
            generators=self._generators,
        )
        # Ask for the handle now: once the row is scored, the model may be replaced.
        _ = self.handle
        # lm-eval makes one call for each type of requests.
        types = {each.request_type for task in self._tasks.values() for each in task.instances}
        reply: CallReply = self._client.request_reply(
            call, is_last=len(self.replies) + 1 >= len(types)
        )
        self.replies.append(reply)
        self._generators = reply.generators
        self.answered_at = time.perf_counter()
        answers: list[Any] = reply.answers
        return answers

    def _call_without_weights(self, method: str, *arguments: Any) -> Any:
        """Call a method that needs no weights: in this process if possible."""
        model = self._load_tokenizing_model()
        if model is not None:
            return getattr(model, method)(*arguments)
        call = Call(method=method, arguments=arguments, keys=[], batch_size=1, generators=b"")
        return self._client.request_reply(call, is_last=False).answers

    def _note_first_request(self) -> None:
        self.asked_at = self.asked_at or time.perf_counter()

    def _load_tokenizing_model(self) -> Any:
        """Return the model without its weights; None if it cannot be used in this process."""
        if not self._has_tried_tokenizing:
            self._tokenizing_model = _load_light_model(self.handle.light_attributes)
            self._has_tried_tokenizing = True
        return self._tokenizing_model


def _load_light_model(pickled: bytes) -> Any:
    if not pickled or "lm_eval.models.huggingface" not in sys.modules:
        return None
    try:
        attributes = pickle.loads(pickled)  # noqa: S301
    # The tokenizer's code may have come with the model, and not be importable here.
    except Exception:
        return None
    return patches.create_tokenizing_model(attributes)
