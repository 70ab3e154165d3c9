"""Made-up result files of other tools, in the shape of each version, with what they say.

`generate` makes a file and the scores that a reader must find in it: no more and no less.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

Object = dict[str, Any]


class Expected(NamedTuple):
    """One score in a file; n_shot, stderr and n_samples are None if the file does not tell."""

    model_path: str
    task: str
    n_shot: int | None
    metric: str
    filter: str
    value: float
    stderr: float | None
    n_samples: int | None


class GeneratedFile(NamedTuple):
    """A result file.

    Attributes:
        name: its name.
        document: its JSON, which may have NaN and Infinity.
        scores: what a reader must find.
        n_lost: how many metrics have no finite value, so that the reader must name them.
    """

    name: str
    document: Object
    scores: list[Expected]
    n_lost: int


METRICS = ("acc", "acc_norm", "exact_match", "chrf++", "pass@1", "word_perplexity", "mc2")
FILTERS = ("none", "strict-match", "flexible,extract")
TASKS = (
    "arc_easy",
    "mmlu_law",
    "belebele_deu_Latn",
    "flores200:a-b",
    "jqa-1.1-0.3",
    "tâche",
    "t 1",
)
# Models as a file spells them, and as a record does.
PLAIN_MODELS = (
    ("org/name", "org/name"),
    ("gpt2", "gpt2"),
    ("/scratch/run/iter_0001000", "/scratch/run/iter_0001000"),
    ("/scratch//run/./iter_0001000/", "/scratch/run/iter_0001000"),
    ("/m/lr=1e-4/step=5", "/m/lr=1e-4/step=5"),
    ("/c/hub/models--org--name/snapshots/0a1b2c", "org/name"),
    ("/ö/模 x", "/ö/模 x"),
)
ODD_MODELS = (
    *PLAIN_MODELS,
    ("/m/lr=1,bs=8/iter_1", '"/m/lr=1,bs=8/iter_1"'),
    ('/m/"quoted"', '/m/"quoted"'),
)
STRUCTURED = ({"image": 2, "audio": [1, "a,b=c"]}, ["a, b", "c"], {"x": {"y": None}})


def _value(rng: random.Random) -> float:
    choices = (0.0, 1.0, 0, 1, 100.0, 1e-12, 31.5, rng.random(), rng.uniform(-1e3, 1e6))
    return rng.choice(choices)


def _scores_of(rng: random.Random, n: int = 3) -> dict[str, tuple[float, float | None]]:
    """Return values, of which some are not finite, and their standard errors by metric."""
    made = {}
    for metric in rng.sample(METRICS, rng.randint(1, n)):
        value = rng.choice([float("nan"), float("inf")]) if rng.random() < 0.1 else _value(rng)
        made[metric] = (value, rng.random() if rng.random() < 0.7 else None)
    return made


def _is_lost(value: float) -> bool:
    return not math.isfinite(value)


def _arguments(rng: random.Random) -> Object:
    chosen = {
        "dtype": rng.choice(["float16", "bfloat16", "auto"]),
        "revision": rng.choice(["step1000", "0123", "5e12345"]),
        "add_bos_token": True,
        "max_length": 2048,
    }
    return {name: chosen[name] for name in rng.sample(list(chosen), rng.randint(0, 3))}


def _with_arguments(model: str, arguments: Object) -> str:
    told = sorted((k, v) for k, v in arguments.items() if (k, v) != ("dtype", "auto"))
    pairs = [f"{k}={'true' if v is True else v}" for k, v in told]
    return ",".join([model, *pairs])


def lm_eval_0_3(rng: random.Random) -> GeneratedFile:
    """Return a result of lm-eval 0.3: metrics have no filter, shots are in config."""
    (given, model), arguments = rng.choice(PLAIN_MODELS), _arguments(rng)
    tasks = rng.sample(TASKS, rng.randint(1, 4))
    shots = rng.randint(0, 25) if rng.random() < 0.5 else [rng.randint(0, 25) for _ in tasks]
    results: Object = {}
    scores, n_lost = [], 0
    for place, task in enumerate(tasks):
        results[task] = {}
        for metric, (value, stderr) in _scores_of(rng).items():
            results[task][metric] = value
            if stderr is not None:
                results[task][f"{metric}_stderr"] = stderr
            n_lost += _is_lost(value)
            n_shot = shots[place] if isinstance(shots, list) else shots
            scores.append(
                Expected(
                    model_path=_with_arguments(model, arguments),
                    task=task,
                    n_shot=n_shot,
                    metric=metric,
                    filter="none",
                    value=value,
                    stderr=stderr,
                    n_samples=None,
                )
            )
    texts = [f"pretrained={given}", *(f"{name}={value}" for name, value in arguments.items())]
    config: Object = {
        "model": rng.choice(["hf-causal", "hf-causal-experimental", "gpt2"]),
        "model_args": ",".join(texts),
        "num_fewshot": shots,
        "batch_size": "8",
        "device": None,
        "no_cache": True,
        "limit": rng.choice([None, 10]),
        "bootstrap_iters": 100000,
        "description_dict": {},
    }
    versions = {task: rng.choice([0, 1, 2, 1.1]) for task in tasks}
    document = {"results": results, "versions": versions, "config": config}
    return GeneratedFile("output.json", document, _finite(scores), n_lost)


def lm_eval_0_4(version: str) -> Callable[[random.Random], GeneratedFile]:
    """Return what makes results of a version of lm-eval: tasks, and a group with its own score."""
    minor = int(version.split(".")[2])

    def make(rng: random.Random) -> GeneratedFile:
        given, model = rng.choice(ODD_MODELS if minor >= 10 else PLAIN_MODELS)
        arguments = _arguments(rng)
        tasks = rng.sample(TASKS, rng.randint(1, 4))
        n_docs = {task: rng.randint(1, 5000) for task in tasks}
        shots = {task: rng.randint(0, 25) for task in tasks}
        results: Object = {}
        scores, n_lost = [], 0

        def expect(task: str, metric: str, **facts: Any) -> None:
            cell = _with_arguments(model, arguments)
            known = n_docs[task] if minor >= 3 else None
            usual = {"n_shot": shots[task], "n_samples": known}
            scores.append(Expected(cell, task, metric=metric, **{**usual, **facts}))

        for task in tasks:
            results[task] = {"alias": f" - {task}" if rng.random() < 0.2 and minor >= 3 else task}
            if minor >= 12:
                results[task] |= {"name": task, "sample_len": n_docs[task]}
            filters = rng.sample(FILTERS, rng.randint(1, 2))
            for metric, (value, stderr) in _scores_of(rng).items():
                for filter_name in filters:
                    results[task][f"{metric},{filter_name}"] = value
                    missing = rng.choice(["N/A", float("nan")])
                    results[task][f"{metric}_stderr,{filter_name}"] = (
                        missing if stderr is None else stderr
                    )
                    n_lost += _is_lost(value)
                    expect(task, metric, filter=filter_name, value=value, stderr=stderr)
        document: Object = {
            "results": results,
            "configs": {
                task: {"task": task, "num_fewshot": shots[task], "output_type": "multiple_choice"}
                for task in tasks
            },
            "versions": {task: rng.choice([0.0, 1.0, 2.0, "Yaml"]) for task in tasks},
            "n-shot": shots,
            "config": {
                "model": rng.choice(["hf", "vllm"]),
                "model_args": _model_arguments(given, arguments, minor),
                "batch_size": rng.choice([1, "auto", "auto:4"]),
                "limit": rng.choice([None, 10.0, 0.5]),
                "gen_kwargs": rng.choice([None, "temperature=0", {"until": ["a,b"]}]),
            },
            "git_hash": "abc",
            "date": 1.7e9 + rng.random(),
        }
        if minor >= 2:
            document["group_subtasks"] = {task: [] for task in tasks} if minor == 2 else {}
        if minor >= 3:
            document["n-samples"] = {
                task: {"original": number, "effective": number} for task, number in n_docs.items()
            }
            document["higher_is_better"] = {task: {"acc": True} for task in tasks}
            document["total_evaluation_time_seconds"] = "25.5"
            document["model_name"] = given
        if minor >= 9:
            document["lm_eval_version"] = version
        name = "results.json" if minor < 3 else "results_2024-06-17T12-20-26.826621.json"
        return GeneratedFile(name, document, _finite(scores), n_lost)

    return make


def _model_arguments(given: str, arguments: Object, minor: int) -> str | Object:
    """Return model_args: an object since 0.4.10, a text before."""
    if minor >= 10:
        return {"pretrained": given, **arguments, "trust_remote_code": False}
    return ",".join([f"pretrained={given}", *(f"{k}={v}" for k, v in arguments.items())])


def bigcode(rng: random.Random) -> GeneratedFile:
    """Return a result of bigcode-evaluation-harness."""
    given, model = rng.choice(ODD_MODELS)
    document: Object = {}
    scores, n_lost = [], 0
    for task in rng.sample(["humaneval", "mbpp", "multiple-py", "apps-introductory"], 2):
        document[task] = {}
        for k in rng.sample([1, 10, 100], rng.randint(1, 3)):
            value = float("nan") if rng.random() < 0.1 else rng.random()
            document[task][f"pass@{k}"] = value
            n_lost += _is_lost(value)
            shots = 0 if task in ("humaneval", "mbpp") else None
            scores.append(Expected(model, task, shots, f"pass@{k}", "none", value, None, None))
    document["config"] = {
        "model": given,
        "revision": None,
        "tasks": "humaneval,mbpp",
        "precision": "fp32",
        "load_generations_path": "x.json",
        "metric_output_path": "evaluation_results.json",
        "limit": None,
        "limit_start": 0,
        "n_samples": 1,
    }
    return GeneratedFile("evaluation_results.json", document, _finite(scores), n_lost)


def bigcodebench(rng: random.Random) -> GeneratedFile:
    """Return a file of scores of bigcodebench, which has no outcomes beside it."""
    revision = rng.choice(["main", "step1000"])
    split, subset = rng.choice(["complete", "instruct"]), rng.choice(["full", "hard"])
    hard = "hard-" if subset == "hard" else ""
    ending = rng.choice(["", "-sanitized", "-sanitized_calibrated", "-sanitized-calibrated"])
    backend = rng.choice(["vllm", "hf", "openai"])
    name = f"a.b--c--{revision}--bigcodebench-{hard}{split}--{backend}-0.2-5{ending}_pass_at_k.json"
    document: Object = {"split": split, "subset": subset, "gt_pass_rate": 1.0}
    model = "a.b/c" if revision == "main" else f"a.b/c,revision={revision}"
    task = f"bigcodebench-{hard}{split}"
    scores, n_lost = [], 0
    for k in rng.sample([1, 5, 10], rng.randint(1, 3)):
        value = float("nan") if rng.random() < 0.1 else rng.random()
        document[f"pass@{k}"] = value
        n_lost += _is_lost(value)
        scores.append(Expected(model, task, 0, f"pass@{k}", "none", value, None, None))
    return GeneratedFile(name, document, _finite(scores), n_lost)


def evalplus(rng: random.Random) -> GeneratedFile:
    """Return outcomes of evalplus, whose file's name tells the model; with a single problem."""
    ending = rng.choice(
        ["", "-sanitized", "-sanitized-calibrated", ".raw", "-sanitized_calibrated"]
    )
    backend, temperature = rng.choice(["vllm", "hf", "openai", "gptqmodel"]), rng.choice([0.0, 0.8])
    model = rng.choice(["org/name", "gpt2", "a.b/c_d-7b-v0.2"])
    stem = f"{model.replace('/', '--')}_{backend}_temp_{temperature}{ending}"
    name = stem + rng.choice(["_eval_results.json", ".eval_results.json"])
    prefix, task = rng.choice([("HumanEval", "humaneval"), ("Mbpp", "mbpp")])
    n_problems, n_tries = rng.randint(2, 6), rng.choice([1, 10])
    outcomes = {
        f"{prefix}/{n}": [
            {"base_status": rng.choice(["pass", "fail"]), "plus_status": "fail"}
            for _ in range(n_tries)
        ]
        for n in range(n_problems)
    }
    rates = [
        sum(sample["base_status"] == "pass" for sample in samples) / n_tries
        for samples in outcomes.values()
    ]
    mean = sum(rates) / n_problems
    error = (sum((rate - mean) ** 2 for rate in rates) / (n_problems - 1) / n_problems) ** 0.5
    scores = [
        Expected(model, task, 0, "pass@1", "base", value=mean, stderr=error, n_samples=n_problems),
        Expected(model, task, 0, "pass@1", "plus", value=0.0, stderr=0.0, n_samples=n_problems),
    ]
    if n_tries == 10:
        at_10 = [float(rate > 0) for rate in rates]
        mean = sum(at_10) / n_problems
        error = (sum((rate - mean) ** 2 for rate in at_10) / (n_problems - 1) / n_problems) ** 0.5
        scores += [
            Expected(model, task, 0, "pass@10", "base", mean, error, n_problems),
            Expected(model, task, 0, "pass@10", "plus", 0.0, 0.0, n_problems),
        ]
    document = {"date": "2025-01-01 10:00", "hash": "0" * 32, "eval": outcomes}
    return GeneratedFile(name, document, scores, 0)


def lighteval(rng: random.Random) -> GeneratedFile:
    """Return a result of lighteval, before 0.13 with the suite in the task's name."""
    given, model = rng.choice(ODD_MODELS)
    is_old = rng.random() < 0.5
    results: Object = {}
    scores, n_lost = [], 0
    for task in rng.sample(["arc", "mmlu:law", "flores200:a-b", "gsm8k"], rng.randint(1, 4)):
        shots = rng.randint(0, 10)
        shown = f"leaderboard|{task}" if is_old else task
        key = f"{shown}|{shots}|0" if is_old else f"{shown}|{shots}"
        results[key] = {}
        for metric, (value, stderr) in _scores_of(rng).items():
            results[key][metric] = value
            if stderr is not None:
                results[key][f"{metric}_stderr"] = stderr
            n_lost += _is_lost(value)
            scores.append(Expected(model, shown, shots, metric, "none", value, stderr, None))
    results["all"] = {"acc": 0.5}
    general = {"model_config": {"model_name": given, "revision": "main"}, "max_samples": None}
    document = {"config_general": general, "results": results, "versions": {}, "config_tasks": {}}
    return GeneratedFile("results_2024-05-01T12-30-45.1.json", document, _finite(scores), n_lost)


def evalchemy(rng: random.Random) -> GeneratedFile:
    """Return a result of evalchemy."""
    given, model = rng.choice(PLAIN_MODELS)
    results: Object = {}
    scores, n_lost = [], 0
    for task in rng.sample(["AIME24", "GPQADiamond", "MATH500", "OwnBench"], rng.randint(1, 4)):
        n_problems = rng.randint(1, 500)
        shots = None if task == "OwnBench" else 0
        average = float("nan") if rng.random() < 0.1 else rng.random()
        error, solved = rng.random(), rng.random() * n_problems
        results[task] = {
            "num_total": n_problems,
            "solved_avg": solved,
            "run_stats": [{"repetition": 1, "accuracy": 0.5}],
            "accuracy_avg": average,
            "accuracy_std_err": error,
            "num_repeat": rng.randint(1, 16),
        }
        n_lost += _is_lost(average)
        for metric, value, stderr in (
            ("accuracy_avg", average, error),
            ("solved_avg", solved, None),
        ):
            scores.append(Expected(model, task, shots, metric, "none", value, stderr, n_problems))
    config = {"model": "vllm", "model_args": f"pretrained={given}", "annotator_model": "auto"}
    document = {"results": results, "config": config, "date": 1.76e9}
    return GeneratedFile("results_2026-10-01T22-47-48.1.json", document, _finite(scores), n_lost)


def _finite(scores: list[Expected]) -> list[Expected]:
    return [score for score in scores if not _is_lost(score.value)]


GENERATORS: dict[str, Callable[[random.Random], GeneratedFile]] = {
    "lm_eval 0.3": lm_eval_0_3,
    **{
        f"lm_eval {version}": lm_eval_0_4(version)
        for version in ("0.4.0", "0.4.2", "0.4.3", "0.4.9", "0.4.12", "0.4.13")
    },
    "bigcode": bigcode,
    "bigcodebench": bigcodebench,
    "evalplus": evalplus,
    "lighteval": lighteval,
    "evalchemy": evalchemy,
}


def generate(kind: str, seed: int) -> GeneratedFile:
    """Return a file of a kind of GENERATORS that is the same for the same seed."""
    return GENERATORS[kind](random.Random(f"{kind} {seed}"))
