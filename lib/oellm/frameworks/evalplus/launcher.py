"""Starts evalplus inside its own environment; nothing else of oellm is there.

usage: launcher.py OPTIONS.json

Calls evalplus's functions with the values in OPTIONS.json, because its command line would take the
text of a path or of a name for a number if it looks like one. The options:

    stage      generate or evaluate
    dataset    humaneval or mbpp
    problems   the file of its problems, one a line, which may be compressed
    limit      how many of them to use, from the first; null for all
    work       a directory for everything that is thrown away
    output     the directory for what is kept
    values     arguments of evalplus's function
    model      for generate: a directory, or the name that the server of openai knows
    samples    for evaluate: the file with the answers

Exits with a message if evaluating would say 0 whatever the answers are.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

_OVERRIDES = {"humaneval": "HUMANEVAL_OVERRIDE_PATH", "mbpp": "MBPP_OVERRIDE_PATH"}
_GZIP = b"\x1f\x8b"


def main() -> None:
    """Do what the options say."""
    options = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    version = importlib.metadata.version("evalplus")
    Path(options["output"], "version.txt").write_text(version, encoding="ascii")
    work = Path(options["work"])
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    problems = _cut_problems(options, work)
    # evalplus reads the variable when it is imported.
    os.environ[_OVERRIDES[options["dataset"]]] = str(problems)
    if options["stage"] == "generate":
        _generate(options, work, problems)
    else:
        _evaluate(options, work, problems)


def _cut_problems(options: dict[str, Any], work: Path) -> Path:
    """Write the problems that are used into a file of their own, and return it."""
    try:
        content = Path(options["problems"]).read_bytes()
    except OSError as error:
        sys.exit(f"oellm: {options['problems']}: {error.strerror}; run oe-fetch")
    if content.startswith(_GZIP):
        content = gzip.decompress(content)
    lines = [line for line in content.splitlines() if line.strip()]
    path = work / "problems.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines[: options["limit"]]))
    return path


def _generate(options: dict[str, Any], work: Path, problems: Path) -> None:
    from evalplus.codegen import run_codegen

    values, output = options["values"], Path(options["output"])
    if values["backend"] == "openai":
        model = options["model"]
    else:
        # The name of the answers' file is made from the path, which may be too long for one.
        model = "model"
        os.symlink(options["model"], model)
    found = run_codegen(model=model, dataset=options["dataset"], root=str(work / "root"), **values)
    shutil.move(found, output / "samples.jsonl")
    shutil.move(found.replace(".jsonl", ".raw.jsonl"), output / "samples.raw.jsonl")
    content = problems.read_bytes()
    facts = {
        "hash": hashlib.md5(content).hexdigest(),  # noqa: S324 as evalplus names its problems
        "problems": [json.loads(line)["task_id"] for line in content.splitlines()],
    }
    (output / "problems.json").write_text(json.dumps(facts), encoding="utf-8")


def _evaluate(options: dict[str, Any], work: Path, problems: Path) -> None:
    from evalplus import evaluate

    _require_passing_trial(options["dataset"], problems)
    samples = work / "samples.jsonl"
    shutil.copyfile(options["samples"], samples)
    evaluate.evaluate(dataset=options["dataset"], samples=str(samples), **options["values"])
    found = work / "samples_eval_results.json"
    shutil.move(found, Path(options["output"]) / "eval_results.json")


def _require_passing_trial(dataset: str, problems: Path) -> None:
    """Exit unless the evaluator finds that the solution of the first problem passes here.

    It would not with too small a limit of the stack or of memory, without saying so.
    """
    from evalplus import evaluate
    from evalplus.data import get_human_eval_plus, get_mbpp_plus

    loaded = get_human_eval_plus() if dataset == "humaneval" else get_mbpp_plus()
    first = next(iter(loaded.values()))
    truth = evaluate.get_groundtruth(
        {first["task_id"]: first},
        "oellm-trial",
        evaluate.MBPP_OUTPUT_NOT_NONE_TASKS if dataset == "mbpp" else [],
    )
    solution = first["prompt"] + first["canonical_solution"]
    found = evaluate.check_correctness(
        dataset,
        completion_id=0,
        problem=first,
        solution=solution,
        expected_output=truth[first["task_id"]],
    )
    statuses = [found["base"][0], found["plus"][0]]
    if statuses != ["pass", "pass"]:
        sys.exit(
            f"oellm: the evaluator says {' and '.join(map(str, statuses))} for the solution of "
            f"{first['task_id']} in {problems}; it needs 4 GiB of memory and of stack for each "
            "program (ulimit -H -s, ulimit -H -v)"
        )


if __name__ == "__main__":
    main()
