"""lm-evaluation-harness: a model that is in another process, as tasks see it.

What can be done without the weights is done here, beside the model's work for other rows: prompts
are made and tokenised. The rest is asked of the model's process.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Mapping
from typing import Any

from lm_eval.api.model import LM

from oellm.frameworks.interface import ModelClient
from oellm.frameworks.lm_eval.messages import TOKENS, Call, Handle, Reply, Seeds
from oellm.runs.answers import request_key


class RemoteModel(LM):  # type: ignore[misc]
    """The model of one row; notes when it is asked what, and how long that takes.

    `seeds` is where the generators random, NumPy and torch begin; `tasks` are there, with their
    requests, when lm-eval asks first.
    """

    def __init__(
        self, client: ModelClient, batch_size: int | str, seeds: Seeds, tasks: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self._client = client
        self._batch_size = batch_size
        self._generators: Seeds | bytes = seeds
        self._tasks = tasks
        self._shell: Any = None
        self._was_opened = False
        self._handle: Handle | None = None
        self.replies: list[Reply] = []
        # Of time.perf_counter: when lm-eval first asked, and when it had its last answer.
        self.asked_at = self.answered_at = 0.0
        self.tokenize_s = 0.0
        # Waiting for the model while prompts were made, since its chat template was needed.
        self.early_wait_s = 0.0

    @property
    def handle(self) -> Handle:
        """What is known of the loaded model; waits for it."""
        if self._handle is None:
            started = time.perf_counter()
            handle: Handle = self._client.handle()
            self._handle = handle
            if not self.asked_at:
                self.early_wait_s = time.perf_counter() - started
        return self._handle

    def __getattr__(self, name: str) -> Any:
        # lm-eval asks whether this is there at all, and only for models of images and sounds it is.
        if name == "MULTIMODAL" and self.handle.is_multimodal:
            return True
        raise AttributeError(name)

    @property
    def batch_sizes(self) -> dict[int, int]:
        """The batch sizes that were found, as lm-eval's results show them."""
        return self.replies[-1].batch_sizes if self.replies else {}

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm-eval's results show of the model."""
        return self.handle.info

    @property
    def tokenizer_name(self) -> str:
        """Name in lm-eval's cache of requests, which is not used."""
        return ""

    def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
        """Return a conversation as the model's prompt."""
        return str(self._call_light("apply_chat_template", chat_history, add_generation_prompt))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the text of the model's chat template."""
        text: str | None = self._call_light("chat_template", chat_template)
        return text

    def loglikelihood(self, requests: list[Any], **_: Any) -> list[Any]:
        """Tokenise here, where that is possible, and ask."""
        self._note_first()
        arguments = [request.args for request in requests]
        keys = [request_key("loglikelihood", pair) for pair in arguments]
        shell = self._opened()
        if shell is None:
            return self._ask("loglikelihood", arguments, keys)
        started = time.perf_counter()
        tokens = shell.loglikelihood(requests, disable_tqdm=True)
        self.tokenize_s += time.perf_counter() - started
        return self._ask(TOKENS, tokens, keys)

    def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[Any]:
        """Ask for the likelihood of whole texts."""
        return self._ask_all("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Any], **_: Any) -> list[Any]:
        """Ask for texts."""
        return self._ask_all("generate_until", requests)

    def _ask_all(self, method: str, requests: list[Any]) -> list[Any]:
        self._note_first()
        arguments = [request.args for request in requests]
        return self._ask(method, arguments, [request_key(method, each) for each in arguments])

    def _ask(self, method: str, arguments: list[Any], keys: list[str | None]) -> list[Any]:
        call = Call(method, arguments, keys, self._batch_size, self._generators)
        # Now: when the row is scored, the model may be another one.
        _ = self.handle
        # lm-eval asks once for each type of requests.
        types = {each.request_type for task in self._tasks.values() for each in task.instances}
        reply: Reply = self._client.ask(call, last=len(self.replies) + 1 >= len(types))
        self.replies.append(reply)
        self._generators = reply.generators
        self.answered_at = time.perf_counter()
        answers: list[Any] = reply.answers
        return answers

    def _call_light(self, method: str, *arguments: Any) -> Any:
        """Call a method that needs no weights: here, or else there."""
        shell = self._opened()
        if shell is not None:
            return getattr(shell, method)(*arguments)
        return self._client.ask(Call(method, arguments, [], 1, b""), last=False).answers

    def _note_first(self) -> None:
        self.asked_at = self.asked_at or time.perf_counter()

    def _opened(self) -> Any:
        """Return the model's shell, or None where there is none that works here."""
        if not self._was_opened:
            self._shell = _opened(self.handle.shell)
            self._was_opened = True
        return self._shell


def _opened(pickled: bytes) -> Any:
    huggingface = sys.modules.get("lm_eval.models.huggingface")
    if not pickled or huggingface is None:
        return None
    try:
        attributes = pickle.loads(pickled)  # noqa: S301
    # The tokenizer's code may come with the model, and not be importable here.
    except Exception:
        return None

    class Shell(huggingface.HFLM):  # type: ignore[misc,name-defined]
        """lm-eval's model on transformers, up to where the weights come in."""

        def __init__(self) -> None:
            self.__dict__.update(attributes)

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any:
            return requests

    return Shell()
