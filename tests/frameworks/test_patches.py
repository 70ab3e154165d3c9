"""What patches.py assumes about lm-eval and torch: each test fails if upstream changes that.

If a test fails because a reason for a patch is gone, remove the patch.
"""

from __future__ import annotations

import copy
import importlib.metadata
import inspect
import logging
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oellm.frameworks.lm_eval import environment, patches
from oellm.frameworks.lm_eval.catalog.task_index import KINDS
from support.processes import DEMO_TASKS
from support.task_files import write_task

pytestmark = pytest.mark.slow

DOCUMENTS = """
def load(**_):
    import datasets

    return datasets.DatasetDict({"test": datasets.Dataset.from_list([{"text": "x"}])})
"""
PROMPT, CONTINUATION = "The old clock ran", " four minutes fast"


@pytest.fixture(scope="module", autouse=True)
def _environment() -> None:
    environment.prepare()


@pytest.fixture(autouse=True)
def _lm_eval_log() -> Iterator[None]:
    """Undo what a test does to lm-eval's messages."""
    logger = logging.getLogger("lm_eval")
    before, propagates = list(logger.handlers), logger.propagate
    yield
    logger.handlers[:], logger.propagate = before, propagates


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    """Return lm-eval's model on transformers, loaded with a tiny model."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(tiny_model), device="cpu", batch_size=2)


def make_requests(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.fixture
def _templates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what a test does to lm-eval's templates."""
    import jinja2
    import lm_eval.utils

    fresh = jinja2.Environment(  # noqa: S701
        loader=jinja2.BaseLoader(), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    fresh.filters["regex_replace"] = lm_eval.utils.regex_replace
    monkeypatch.setattr(lm_eval.utils, "env", fresh)


@pytest.mark.usefixtures("_templates")
def test_lm_eval_compiles_a_template_for_each_document(monkeypatch: pytest.MonkeyPatch) -> None:
    import jinja2
    import lm_eval.utils

    compiled: list[str] = []
    compile_template = jinja2.Environment.from_string

    def note(self: jinja2.Environment, template: str) -> Any:
        compiled.append(template)
        return compile_template(self, template)

    monkeypatch.setattr(jinja2.Environment, "from_string", note)
    for number in range(3):
        assert lm_eval.utils.apply_template("{{n}}", {"n": number}) == str(number)
    assert len(compiled) == 3
    patches.patch_libraries()
    for number in range(3):
        assert lm_eval.utils.apply_template("{{n}}", {"n": number}) == str(number)
    assert len(compiled) == 4


def test_lm_eval_makes_the_environment_of_templates_as_the_tests_do() -> None:
    import lm_eval.utils

    # If options are added, _confine_templates must pass them on. If the environment is one of
    # jinja2.sandbox, _confine_templates is not needed any more.
    source = inspect.getsource(lm_eval.utils)
    made = source[source.index("\nenv = ") : source.index("\ndef apply_template")]
    assert "".join(made.split()) == (
        "env=Environment(loader=BaseLoader,undefined=StrictUndefined,keep_trailing_newline=True)"
        'env.filters["regex_replace"]=regex_replace'
    )


@pytest.mark.usefixtures("_templates")
def test_a_template_cannot_reach_the_interpreter() -> None:
    import lm_eval.utils
    from jinja2.exceptions import SecurityError

    attack = "{{ cycler.__init__.__globals__.os.getpid() }}"
    assert lm_eval.utils.apply_template(attack, {}) == str(os.getpid())
    patches.patch_libraries()
    for template in (attack, "{{ ''.__class__.__mro__ }}", "{{ '{0.__class__}'.format(a) }}"):
        with pytest.raises(SecurityError, match="unsafe"):
            lm_eval.utils.apply_template(template, {"a": 1})


@pytest.mark.usefixtures("_templates")
def test_templates_give_what_they_gave_before() -> None:
    import lm_eval.utils

    document = {"a": {"items": 1, "b": ["x", "y"]}, "text": "__label__ one two\n", "n": 3}
    templates = (
        "{{a['items']}} {{a.b[0]}} {{text.split()[1]}} {{text|regex_replace('o', '0')}}",
        "{% for i in range(n) %}{{i}}{% endfor %}{{'%s' % n}}{{'{}'.format(n)}}\n",
        "{{ {'__label__': 1}[text.split()[0]] }}{% set x = a.b.append('z') %}{{a.b}}",
    )
    before = [lm_eval.utils.apply_template(each, copy.deepcopy(document)) for each in templates]
    patches.patch_libraries()
    after = [lm_eval.utils.apply_template(each, copy.deepcopy(document)) for each in templates]
    assert after == before


def test_lm_eval_still_gives_the_advice_that_is_dropped() -> None:
    import lm_eval

    directory = Path(lm_eval.__path__[0])
    rooms = ("api", "tasks", "models", "_cli", ".")
    paths = [path for room in rooms for path in (directory / room).glob("*.py")]
    source = "".join(path.read_text() for path in paths)
    assert [advice for advice in patches._ADVICE if advice not in source] == []


def test_a_message_that_differs_in_numbers_only_is_shown_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    patches.patch_libraries()
    logger = logging.getLogger("lm_eval.models.huggingface")
    for number in (1, 22, 333):
        logger.warning("request %d is too long", number)
    logger.warning("Overwriting default num_fewshot of task from 0 to 5")
    assert capsys.readouterr().err == "lm_eval: request 1 is too long\n"


def test_lm_eval_shows_the_complaints_of_git_and_we_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import lm_eval.evaluator
    import lm_eval.loggers.utils

    theirs = lm_eval.loggers.utils.get_git_commit_hash
    monkeypatch.setattr(lm_eval.evaluator, "get_git_commit_hash", theirs)
    patches.patch_libraries()
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\necho 'fatal: not a git repository' >&2\nexit 128\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    assert theirs() is None
    assert capfd.readouterr().err == "fatal: not a git repository\n"
    assert lm_eval.evaluator.get_git_commit_hash() is None
    assert capfd.readouterr().err == ""
    git.write_text("#!/bin/sh\necho v1.2-3-gabcdef\n")
    assert lm_eval.evaluator.get_git_commit_hash() == theirs() == "v1.2-3-gabcdef"


def test_lm_eval_describes_the_machine_anew_in_each_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch.utils.collect_env
    from lm_eval.loggers.utils import add_env_info

    original = torch.utils.collect_env.get_pretty_env_info
    monkeypatch.setattr(torch.utils.collect_env, "get_pretty_env_info", original)
    texts = iter(("one", "two"))
    patches.set_environment_text(lambda: next(texts))
    for text in ("one", "two"):
        stored: dict[str, Any] = {}
        add_env_info(stored)
        assert stored["pretty_env_info"] == text


def test_torch_starts_pip_for_the_list_of_packages_and_we_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.utils import collect_env

    commands: list[Any] = []

    def run(command: Any) -> tuple[int, str, str]:
        commands.append(command)
        return 0, "torch==1.2.3\nunrelated==1.0\n", ""

    assert collect_env.get_pip_packages(run)[1] == "torch==1.2.3"
    assert "-mpip" in str(commands)
    ask_pip = collect_env.get_pip_packages
    monkeypatch.setattr(collect_env, "run_and_read_all", _run_without_pip(collect_env))
    text = patches.environment_text()
    assert collect_env.get_pip_packages is ask_pip
    assert f"torch=={importlib.metadata.version('torch')}" in text


def _run_without_pip(collect_env: Any) -> Any:
    run_and_read_all = collect_env.run_and_read_all

    def run(run_lambda: Any, command: Any) -> Any:
        assert run_lambda is patches._list_packages or "-mpip" not in str(command)
        return run_and_read_all(run_lambda, command)

    return run


def test_lm_eval_detects_a_batch_size_for_the_given_requests(model: Any) -> None:
    assert parameters(type(model)._detect_batch_size)[:2] == ["self", "requests"]
    for name in ("batch_size_per_gpu", "batch_schedule", "batch_sizes", "max_batch_size"):
        assert hasattr(model, name)
    size = patches.detect_batch_size(model, [0] * 8, [0] * 9)
    assert 0 < size <= 64


def test_lm_eval_only_logs_a_metric_that_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import evaluate
    from lm_eval.tasks import TaskManager

    def fail(name: str) -> None:
        raise OSError(f"no {name}")

    monkeypatch.setattr(evaluate, "load", fail)
    metrics = "[{metric: acc}, {metric: no_such_metric, aggregation: mean}]"
    write_task(tmp_path, "mine", doc_to_choice='["a", "b"]', doc_to_target="0", metric_list=metrics)
    (tmp_path / "tasks.py").write_text(DOCUMENTS)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    functions = patches.metric_functions(manager.load(["mine"])["tasks"]["mine"])
    assert functions["acc"] is not None
    assert functions["no_such_metric"] is None


def test_an_index_can_be_filled_and_not_be_given() -> None:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import Kind

    # If a parameter takes an index, set_index_entry is not needed any more.
    assert set(parameters(TaskManager)) == {
        *("verbosity", "include_path", "include_defaults", "metadata")
    }
    assert set(KINDS) == {kind.name for kind in Kind} - {"UNKNOWN"}
    scanned = TaskManager(include_path=str(DEMO_TASKS), include_defaults=False)
    filled = TaskManager(include_defaults=False)
    for name, entry in scanned.task_index.items():
        patches.set_index_entry(
            filled,
            name,
            kind=entry.kind.name,
            path=entry.yaml_path,
            tags=set(entry.tags),
        )
    assert set(filled.load(["oellm_copy"])["tasks"]) == {"oellm_copy"}


def test_a_model_without_weights_tokenises_like_the_model(model: Any) -> None:
    attributes = pickle.dumps(patches.tokenizing_attributes(model))
    light = patches.create_tokenizing_model(pickle.loads(attributes))  # noqa: S301
    requests = make_requests("loglikelihood", (PROMPT, CONTINUATION), ("", PROMPT))
    tokens = light.loglikelihood(requests, disable_tqdm=True)
    assert [pair for pair, _, _ in tokens] == [(PROMPT, CONTINUATION), ("", PROMPT)]
    scores = getattr(model, patches.SCORE_TOKENS)(tokens)
    assert scores == model.loglikelihood(requests, disable_tqdm=True)
    assert "model" not in vars(light)
    chat = [{"role": "user", "content": PROMPT}]
    assert light.apply_chat_template(chat) == model.apply_chat_template(chat)


def test_windows_of_long_texts_are_only_seen_by_a_wrapper(model: Any) -> None:
    from lm_eval.api.model import CacheHook

    class Hook(CacheHook):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(None)
            self.requests: list[Any] = []

        def add_partial(self, _method: str, request: Any, _reply: Any) -> None:
            self.requests.append(request)

    windows: list[Any] = []

    def wrap(score: Any, requests: Any, **options: Any) -> list[Any]:
        windows.extend(requests)
        found: list[Any] = score(requests=requests, **options)
        return found

    text = " ".join([PROMPT] * model.max_length)
    hook = Hook()
    model.set_cache_hook(hook)
    try:
        with patches.wrapped_window_scoring(model, wrap):
            watched = model.loglikelihood_rolling(
                make_requests("loglikelihood_rolling", (text,)), disable_tqdm=True
            )
        assert patches.SCORE_TOKENS not in vars(model)
    finally:
        model.set_cache_hook(CacheHook(None))
    assert len(windows) > 1
    assert all(len(window) == 3 for window in windows)
    # If lm-eval's hook saw windows too, no wrapper would be needed.
    assert hook.requests == [(text,)]
    again = make_requests("loglikelihood_rolling", (text,))
    assert model.loglikelihood_rolling(again, disable_tqdm=True) == watched


def test_lm_eval_asks_every_model_for_the_name_of_its_tokenizer() -> None:
    from lm_eval.api.model import LM

    class Bare(LM):  # type: ignore[misc]
        loglikelihood = loglikelihood_rolling = generate_until = None

    with pytest.raises(NotImplementedError):
        _ = Bare().tokenizer_name
