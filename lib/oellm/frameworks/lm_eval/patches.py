"""Changes to lm-eval at run time, and the private names of lm-eval that we use.

No other module changes lm-eval or touches one of its private names. Each entry says why it is
needed and in which versions that was seen; tests/frameworks/test_patches.py fails if an upstream
change makes an entry wrong or unnecessary.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oellm.hub import data_sets

# The method in which lm-eval's own backends score tokens. We replace it in two places: to return
# tokens instead of scores in a model without weights, and to watch the windows of long texts.
SCORE_TOKENS = "_loglikelihood_tokens"

# Parts of messages that are of no use here: about lm-eval's own command line, about shots, which
# the row gives, and about metrics that its tasks do not describe.
_ADVICE = (
    "Custom kwargs can be passed",
    "Overwriting default num_fewshot",
    "is defined, but aggregation is not.",
    "is defined, but higher_is_better is not.",
)
# The metric of the library `evaluate` that runs code which a model wrote.
CODE_METRIC = "code_eval"
# Number of compiled templates that are kept; a task has about five.
_MAX_TEMPLATES = 512


def patch_libraries() -> None:
    """Change lm-eval, which must be imported, and `datasets` in this process; once is enough."""
    _confine_templates()
    _cache_templates()
    _filter_log()
    _silence_git()
    data_sets.install()


def _confine_templates() -> None:
    """Render prompts where a template cannot reach Python's own objects.

    A prompt's template is data of a task, and may be anybody's, but lm-eval renders it in an
    environment in which `cycler.__init__.__globals__.os` is the module os (0.4.12 and 0.4.13).
    """
    import lm_eval.utils
    from jinja2.sandbox import SandboxedEnvironment

    theirs = lm_eval.utils.env
    if isinstance(theirs, SandboxedEnvironment):
        return
    confined = SandboxedEnvironment(
        loader=theirs.loader,
        undefined=theirs.undefined,
        keep_trailing_newline=theirs.keep_trailing_newline,
    )
    confined.filters.update(theirs.filters)
    lm_eval.utils.env = confined


def _cache_templates() -> None:
    """Compile each prompt template only once.

    lm-eval compiles it again for every document, which takes 1 ms each time (0.4.12 and 0.4.13).
    """
    import lm_eval.utils

    compile_template = lm_eval.utils.env.from_string
    if not hasattr(compile_template, "cache_info"):
        lm_eval.utils.env.from_string = functools.lru_cache(_MAX_TEMPLATES)(compile_template)


def _filter_log() -> None:
    """Send lm-eval's messages to stderr, each of them once.

    lm-eval repeats some warnings for every request and every task (0.4.12 and 0.4.13).
    """
    logger = logging.getLogger("lm_eval")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("lm_eval: %(message)s"))
    handler.addFilter(_RepeatFilter())
    logger.handlers[:] = [handler]
    logger.propagate = False


def _silence_git() -> None:
    """Drop git's complaint if the working directory is in no repository.

    lm-eval asks git for a commit in each evaluation, and git's complaint would appear in the log
    once for each row (0.4.12 and 0.4.13).
    """
    import lm_eval.evaluator
    from lm_eval.loggers.utils import get_commit_from_path

    def describe_commit() -> str | None:
        try:
            done = subprocess.run(
                ["git", "describe", "--always"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                check=True,
            )
        # As in lm-eval: git may be missing, or refuse.
        except (subprocess.CalledProcessError, FileNotFoundError):
            commit: str | None = get_commit_from_path(os.getcwd())
            return commit
        return done.stdout.strip()

    lm_eval.evaluator.get_git_commit_hash = describe_commit


class _RepeatFilter(logging.Filter):
    """Drops advice, and messages that differ from an earlier one in their numbers only."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = re.sub(r"[0-9]+", "0", record.getMessage())
        if text in self._seen or any(part in text for part in _ADVICE):
            return False
        self._seen.add(text)
        return True


def set_environment_text(text: Callable[[], str]) -> None:
    """Have lm-eval write a text into its result as the description of this machine.

    lm-eval computes it anew in each evaluation, which starts pip and takes 0.84 s (0.4.12 and
    0.4.13). The model's process computes it once.
    """
    import torch.utils.collect_env

    torch.utils.collect_env.get_pretty_env_info = text


def environment_text() -> str:
    """Return the description of this machine as lm-eval writes it, without starting pip.

    Starting pip for the list of installed packages takes most of the time; importlib.metadata
    gives the same list (torch 2.7 to 2.13).
    """
    from torch.utils import collect_env

    ask_pip = collect_env.get_pip_packages
    collect_env.get_pip_packages = lambda _, patterns=None: ask_pip(_list_packages, patterns)
    try:
        return str(collect_env.get_pretty_env_info())
    # As in lm-eval: anything that this asks the system may be missing or fail.
    except Exception as error:
        return str(error)
    finally:
        collect_env.get_pip_packages = ask_pip


def _list_packages(_command: Any) -> tuple[int, str, str]:
    """Stand in for `pip list --format=freeze`: return exit status, stdout and stderr."""
    import importlib.metadata

    distributions = importlib.metadata.distributions()
    lines = {f"{each.metadata['Name']}=={each.version}" for each in distributions}
    return 0, "\n".join(sorted(lines, key=str.lower)), ""


def detect_batch_size(model: Any, context: list[int], continuation: list[int]) -> int:
    """Return the batch size that lm-eval finds for requests as long as this one.

    `batch_size="auto"` given to lm-eval detects it anew in each evaluation, and the method has no
    public name (0.4.12 and 0.4.13).
    """
    size: int = model._detect_batch_size([(None, context, continuation)])
    return size


def metric_functions(task: Any) -> Mapping[str, Any]:
    """Return the functions of a task's metrics by name; None for one that lm-eval cannot load.

    lm-eval only logs that, and fails after all inference (0.4.12 and 0.4.13). Tasks written in
    Python have no such list.
    """
    functions: Mapping[str, Any] = getattr(task, "_metric_fn_list", {})
    return functions


@contextmanager
def idle_code_metric() -> Iterator[None]:
    """Within the context, the metric that runs code loads as ever, and runs none.

    The code of humaneval and mbpp tries out the metric while lm-eval loads the task (0.4.12 and
    0.4.13), also if nothing is to be scored.
    """
    import evaluate

    load = evaluate.load

    def load_idle(path: str, *arguments: Any, **options: Any) -> Any:
        metric = load(path, *arguments, **options)
        if Path(path).name == CODE_METRIC:
            metric.compute = lambda **_: ({"pass@1": 0.0}, {})
        return metric

    evaluate.load = load_idle
    try:
        yield
    finally:
        evaluate.load = load


def set_index_entry(
    manager: Any, name: str, *, kind: str, path: Path | None, tags: set[str]
) -> None:
    """Add a name to the index of a TaskManager.

    A TaskManager that builds its index itself parses 14,000 files, for ten seconds (0.4.12 and
    0.4.13). `kind` is the name of a member of lm-eval's enum `Kind`. lm-eval itself reads the file
    at the path.
    """
    from lm_eval.tasks._index import Entry, Kind

    manager.task_index[name] = Entry(name=name, kind=Kind[kind], yaml_path=path, tags=tags)


def create_tokenizing_model(attributes: Mapping[str, Any]) -> Any:
    """Return lm-eval's model on transformers without weights.

    It makes prompts, and its method `loglikelihood` returns tokens instead of scores.
    lm-eval/models/huggingface must be imported. lm-eval can only tokenise in a model that has its
    weights (0.4.12 and 0.4.13).
    """
    from lm_eval.models.huggingface import HFLM

    class TokenizingModel(HFLM):  # type: ignore[misc]
        def __init__(self) -> None:
            self.__dict__.update(attributes)

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any:
            return requests

    return TokenizingModel()


def tokenizing_attributes(model: Any) -> dict[str, Any]:
    """Return the attributes of a loaded model that create_tokenizing_model needs, and no weights.

    `_max_length` has to be set: otherwise lm-eval looks into the configuration of the weights.
    """
    attributes = {name: value for name, value in vars(model).items() if _is_light(value)}
    return {**attributes, "_max_length": model.max_length}


def _is_light(value: Any) -> bool:
    import torch
    from transformers import PreTrainedTokenizerBase

    if isinstance(value, (list, tuple)):
        return all(map(_is_light, value))
    if isinstance(value, dict):
        return all(map(_is_light, value.values()))
    simple = (bool, int, float, str, torch.dtype, torch.device, PreTrainedTokenizerBase)
    return value is None or isinstance(value, simple)


@contextmanager
def wrapped_window_scoring(model: Any, wrap: Callable[..., list[Any]]) -> Iterator[None]:
    """Within the context, a model scores the windows of long texts through `wrap`.

    `wrap` is called with the model's own function and that function's arguments. lm-eval's cache
    hook only sees whole texts, after all of them are scored (0.4.12 and 0.4.13). Models without
    that function stay as they are.
    """
    score = getattr(model, SCORE_TOKENS, None)
    if score is None:
        yield
        return
    setattr(model, SCORE_TOKENS, functools.partial(wrap, score))
    try:
        yield
    finally:
        delattr(model, SCORE_TOKENS)
