"""Starts evalplus inside its own environment; nothing else of oellm is there.

usage: launcher.py OPTIONS.json [NAME PATH]…

Calls evalplus's functions with the values in OPTIONS.json, because its command line would take the
text of a path or of a name for a number if it looks like one. It starts in the directory of the
stage's output. The options:

    stage      generate or evaluate
    dataset    humaneval or mbpp
    limit      how many of its problems to use, from the first; null for all
    values     arguments of evalplus's function

and the paths:

    problems   the file of the problems, one a line, which may be compressed
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
import tempfile
from pathlib import Path
from typing import Any

_OVERRIDES = {"humaneval": "HUMANEVAL_OVERRIDE_PATH", "mbpp": "MBPP_OVERRIDE_PATH"}
_GZIP = b"\x1f\x8b"


def main() -> None:
    """Do what the options say."""
    options = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    paths = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    output, work = Path.cwd(), Path(tempfile.mkdtemp())
    (output / "version.txt").write_text(importlib.metadata.version("evalplus"), encoding="ascii")
    os.chdir(work)
    problems = _cut_problems(paths["problems"], options["limit"])
    # evalplus reads the variable when it is imported.
    os.environ[_OVERRIDES[options["dataset"]]] = str(problems)
    if options["stage"] == "generate":
        _generate(options, paths["model"], problems=problems, output=output)
    else:
        _evaluate(options, paths["samples"], problems=problems, output=output)


def _cut_problems(source: str, limit: int | None) -> Path:
    """Write the problems that are used into a file of their own, and return it."""
    try:
        content = Path(source).read_bytes()
    except OSError as error:
        sys.exit(f"oellm: {source}: {error.strerror}; run oe-fetch")
    if content.startswith(_GZIP):
        content = gzip.decompress(content)
    lines = [line for line in content.splitlines() if line.strip()]
    path = Path.cwd() / "problems.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines[:limit]))
    return path


def _generate(options: dict[str, Any], source: str, *, problems: Path, output: Path) -> None:
    from evalplus.codegen import run_codegen

    values, model = options["values"], source
    if values["backend"] != "openai":
        # The name of the answers' file is made from the path, which may be too long for one.
        model = "model"
        os.symlink(source, model)
    found = run_codegen(model=model, dataset=options["dataset"], root="root", **values)
    shutil.move(found, output / "samples.jsonl")
    shutil.move(found.replace(".jsonl", ".raw.jsonl"), output / "samples.raw.jsonl")
    content = problems.read_bytes()
    facts = {
        "hash": hashlib.md5(content).hexdigest(),  # noqa: S324 as evalplus names its problems
        "problems": [json.loads(line)["task_id"] for line in content.splitlines()],
    }
    (output / "problems.json").write_text(json.dumps(facts), encoding="utf-8")


def _evaluate(options: dict[str, Any], source: str, *, problems: Path, output: Path) -> None:
    from evalplus import evaluate

    _require_passing_trial(options["dataset"], problems)
    # The results come beside the answers, whose directory may be read-only.
    shutil.copyfile(source, "samples.jsonl")
    evaluate.evaluate(dataset=options["dataset"], samples="samples.jsonl", **options["values"])
    shutil.move("samples_eval_results.json", output / "eval_results.json")


def _require_passing_trial(dataset: str, problems: Path) -> None:
    """Exit unless the evaluator finds that the solution of the first problem passes here.

    It would not with too small a limit of the stack or of memory, without saying so. Answers to
    find_zero fail everywhere, because evalplus 0.3.1 does not count the tests that they pass.
    """
    from evalplus import evaluate
    from evalplus.data import get_human_eval_plus, get_mbpp_plus

    loaded = get_human_eval_plus() if dataset == "humaneval" else get_mbpp_plus()
    fair = (problem for problem in loaded.values() if problem["entry_point"] != "find_zero")
    if (first := next(fair, None)) is None:
        return
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
