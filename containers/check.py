"""Check an image: import what evaluations import, and score something whose score is known.

Usage: python3 check.py [--torch cuda|rocm] NAME

NAME is that of a file in requirements/, or bigcode_eval-multiple for its compilers. --torch also
checks what torch was built for; no GPU is needed for it. Needs no network. The %test of every
definition runs it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# Two answers to one problem, of which the first is right.
GOOD, BAD = "def add(a, b):\n    return a + b\n", "def add(a, b):\n    return a - b\n"


def require(what: str, found: object, expected: object) -> None:
    """Exit with a message unless two values are equal."""
    if found != expected:
        raise SystemExit(f"check: {what} is {found!r}, expected {expected!r}")


def score_lm_eval() -> None:
    """Let lm-eval ask two questions of a model that answers all of them with the first choice."""
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class FirstChoice(LM):  # type: ignore[misc]
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return [(-float(request.args[1] != " red"), False) for request in requests]

        # A task of choices asks nothing else, but lm-eval takes no model without these.
        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            raise AssertionError(requests)

        def generate_until(self, requests: list[Any]) -> list[str]:
            raise AssertionError(requests)

    with tempfile.TemporaryDirectory() as place:
        rows = Path(place, "rows.jsonl")
        rows.write_text('{"start": "A rose is", "gold": 0}\n{"start": "Grass is", "gold": 1}\n')
        Path(place, "check.yaml").write_text(
            "task: oellm_check\ndataset_path: json\noutput_type: multiple_choice\n"
            f"dataset_kwargs: {{data_files: {{test: {rows}}}}}\ntest_split: test\n"
            "doc_to_text: '{{start}}'\ndoc_to_choice: [red, green]\ndoc_to_target: gold\n"
            "metric_list: [{metric: acc}]\n"
        )
        tasks = TaskManager(include_path=place, include_defaults=False)
        found = lm_eval.simple_evaluate(
            model=FirstChoice(), tasks=["oellm_check"], task_manager=tasks, bootstrap_iters=0
        )
    require("lm-eval's accuracy", found["results"]["oellm_check"]["acc,none"], 0.5)


def score_bigcode() -> None:
    """Let bigcode run two programs."""
    from bigcode_eval.tasks.custom_metrics.code_eval import compute_code_eval

    os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    scores, _ = compute_code_eval(
        predictions=[[GOOD, BAD]], references=["assert add(1, 2) == 3"], k=[1], timeout=20.0
    )
    require("bigcode's pass@1", float(scores["pass@1"]), 0.5)


def score_multiple() -> None:
    """Let MultiPL-E's evaluator run two programs in each language, of which one is right."""
    from bigcode_eval.tasks.custom_metrics.multiple_metrics.containerized_eval import (
        eval_string_script,
    )

    programs = json.loads(Path(__file__).with_name("programs.json").read_text())
    for language, program in programs.items():
        results = [eval_string_script(language, program.replace("OP", sign)) for sign in "+-"]
        outcomes = [result["status"] == "OK" for result in results]
        if outcomes != [True, False]:
            raise SystemExit(f"check: {language} passes {outcomes}: {results}")


def score_bigcodebench() -> None:
    """Let bigcodebench run two programs, and its libraries that every program imports."""
    from bigcodebench.eval import estimate_pass_at_k, untrusted_check

    tests = (
        "import unittest\nclass TestCases(unittest.TestCase):\n"
        "    def test_sum(self):\n        self.assertEqual(add(1, 2), 3)\n"
    )
    limits = (30 * 1024, 30 * 1024, 10)
    statuses = [untrusted_check(code, tests, "add", *limits)[0] for code in (GOOD, BAD)]
    require("bigcodebench's outcome of two programs", statuses, ["pass", "fail"])
    require("bigcodebench's pass@1", float(estimate_pass_at_k(2, [1], 1)[0]), 0.5)


def score_evalplus() -> None:
    """Let evalplus run two programs."""
    from evalplus.eval import estimate_pass_at_k, untrusted_check

    statuses = [
        untrusted_check("humaneval", code, [[1, 2]], "add", [3], 0, [1.0])[0]
        for code in (GOOD, BAD)
    ]
    require("evalplus' outcome of two programs", statuses, ["pass", "fail"])
    require("evalplus' pass@1", float(estimate_pass_at_k(2, [1], 1)[0]), 0.5)


def score_lighteval() -> None:
    """Let lighteval's metric compare two answers, and load its registry of tasks offline."""
    from lighteval.metrics.metrics_sample import ExactMatches
    from lighteval.tasks.registry import Registry

    metric = ExactMatches()
    scores = [metric.compute_one_item(gold="red", pred=answer) for answer in ("red", "green")]
    require("lighteval's exact match", scores, [1, 0])
    Registry(tasks="belebele_bul_Cyrl_cf|0", load_multilingual=True)


def generate() -> None:
    """Let transformers write three tokens with a random model of a few kilobytes, on the CPU."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 16}
    config = LlamaConfig(**sizes, num_attention_heads=1, num_key_value_heads=1, eos_token_id=None)
    written = LlamaForCausalLM(config).generate(
        torch.ones(1, 2, dtype=torch.long), max_new_tokens=3, min_new_tokens=3, do_sample=False
    )
    require("the number of tokens after a prompt of 2", written.shape[1], 5)


WITH_VLLM = ("vllm", "lm_eval.models.vllm_causallms", "bigcodebench.provider.vllm")
# What evaluations import from the packages of each lock file, and what is tried with it.
CHECKS: dict[str, tuple[tuple[str, ...], tuple[Callable[[], None], ...]]] = {
    "bigcode_eval": (
        ("bigcode_eval.evaluator", "accelerate", "torch"),
        (score_bigcode, generate),
    ),
    "bigcode_eval-multiple": (("bigcode_eval.evaluator",), (score_bigcode, score_multiple)),
    "bigcodebench-evaluate": (("bigcodebench.evaluate", "matplotlib"), (score_bigcodebench,)),
    "evalplus-evaluate": (("evalplus.evaluate",), (score_evalplus,)),
    "evalplus-generate": (("evalplus.codegen", "evalplus.provider.hf"), (generate,)),
    "lighteval": (("lighteval.main_accelerate", "torch"), (score_lighteval, generate)),
    "lm_eval": (("lm_eval.models.huggingface", "torch"), (score_lm_eval, generate)),
    "vllm-cpu": (WITH_VLLM, (score_lm_eval,)),
    "vllm-cuda": (WITH_VLLM, (score_lm_eval,)),
}


def require_torch(accelerator: str) -> None:
    """Exit with a message unless torch was built for an accelerator."""
    import torch

    built = {"cuda": torch.version.cuda, "rocm": torch.version.hip}[accelerator]
    if not built:
        raise SystemExit(f"check: torch {torch.__version__} is not built for {accelerator}")


def main() -> None:
    """Do what the docstring above says."""
    arguments = sys.argv[1:]
    accelerator = arguments[1] if arguments[:1] == ["--torch"] else ""
    modules, trials = CHECKS[arguments[-1]]
    # Nothing is downloaded, and nothing is left in the home of whoever runs this.
    with tempfile.TemporaryDirectory() as home:
        os.environ.update(HF_HOME=home, HF_HUB_OFFLINE="1", MPLCONFIGDIR=home, XDG_CACHE_HOME=home)
        for module in modules:
            import_module(module)
        for trial in trials:
            trial()
    # Last, so that the rest is checked on a machine that has only another torch.
    if accelerator:
        require_torch(accelerator)


if __name__ == "__main__":
    main()
