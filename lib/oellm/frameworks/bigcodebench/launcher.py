"""Starts bigcodebench inside its own environment; nothing else of oellm is there.

usage: launcher.py OPTIONS.json [NAME PATH]…

Calls bigcodebench's functions with the values in OPTIONS.json, because its command line would take
the text of a path or of a name for a number if it looks like one. It starts in the directory of
the stage's output. The options:

    stage      generate or evaluate
    data_set   the data set with the problems, which must be in the cache
    version    the split of the data set that has them
    limit      how many of its problems to use, from the first; null for all
    values     arguments of bigcodebench's function
    dtype      for generate: the type of the model's weights
    engine     for generate: arguments of vLLM that bigcodebench does not pass on
    template   for generate: whether a chat template must be there
    server     for generate: the address of a server of OpenAI's kind; may be empty

and the paths:

    problems   a file of problems, one a line, instead of the data set
    model      for generate: a directory, or the name that the server knows
    samples    for evaluate: the file with the programs
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

# Seconds in which a server must answer at first.
_PROBE_S = 30.0


def main() -> None:
    """Do what the options say."""
    options = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    paths = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    output, work = Path.cwd(), Path(tempfile.mkdtemp())
    version = importlib.metadata.version("bigcodebench")
    (output / "version.txt").write_text(version, encoding="ascii")
    os.chdir(work)
    problems = _write_problems(options, paths.get("problems", ""))
    # bigcodebench reads the variable when it is imported.
    os.environ["BIGCODEBENCH_OVERRIDE_PATH"] = str(work / "problems.jsonl")
    content = "".join(f"{json.dumps(problem)}\n" for problem in problems).encode()
    (work / "problems.jsonl").write_bytes(content)
    names = [problem["task_id"] for problem in problems]
    digest = hashlib.sha256(content).hexdigest()
    facts = json.dumps({"hash": digest, "problems": names})
    (output / "problems.json").write_text(facts, encoding="utf-8")
    if options["stage"] == "generate":
        _generate(options, paths["model"], output)
    else:
        _evaluate(options, paths["samples"], names=set(names), output=output)


def _write_problems(options: dict[str, Any], source: str) -> list[dict[str, Any]]:
    """Return the problems that are used."""
    if source:
        with open(source, encoding="utf-8") as lines:
            found = [json.loads(line) for line in lines if line.strip()]
    else:
        import datasets

        name = options["data_set"]
        try:
            loaded = datasets.load_dataset(name, split=options["version"])
        except Exception as error:
            sys.exit(f"oellm: data set {name} is not in the cache: {error}; run oe-fetch")
        found = [dict(row) for row in loaded]
    return found[: options["limit"]]


def _generate(options: dict[str, Any], source: str, output: Path) -> None:
    from bigcodebench.generate import run_codegen

    model = source
    if options["server"]:
        _prepare_server(options["server"])
    else:
        # The name of the file is made from the path, which may be too long for one.
        model = "model"
        os.symlink(source, model)
        _prepare_vllm(options)
    # With a batch size, bigcodebench would look for functions by the names of other problems'.
    found = run_codegen(model=model, root="root", bs=None, **options["values"])
    shutil.move(found, output / "samples.jsonl")


def _prepare_vllm(options: dict[str, Any]) -> None:
    """Let bigcodebench work with today's vLLM, and with any type of weights."""
    import vllm
    from bigcodebench.provider import vllm as provider
    from transformers import AutoTokenizer

    if not hasattr(vllm.LLM, "set_tokenizer"):
        # vLLM loads the same tokenizer by itself.
        vllm.LLM.set_tokenizer = lambda *_, **__: None
    provider.LLM = functools.partial(vllm.LLM, **options["engine"])
    provider.VllmDecoder = functools.partial(provider.VllmDecoder, dtype=options["dtype"])
    if options["template"]:
        trusts = options["values"]["trust_remote_code"]
        tokenizer = AutoTokenizer.from_pretrained("model", trust_remote_code=trusts)
        if tokenizer.chat_template is None:
            sys.exit("oellm: the row asks for a chat template, but the tokenizer has none")


def _prepare_server(address: str) -> None:
    """Exit if a server does not answer: bigcodebench would ask it for ever."""
    from bigcodebench.gen.util.openai_request import make_request
    from bigcodebench.provider import openai as provider

    try:
        # The adapter has refused all addresses but those of HTTP.
        urllib.request.urlopen(f"{address.rstrip('/')}/models", timeout=_PROBE_S)  # noqa: S310
    except urllib.error.HTTPError:
        pass  # it answers
    except OSError as error:
        sys.exit(f"oellm: base_url {address} does not answer on this node: {error}")
    # The client itself asks again if the server is busy, but not for ever.
    provider.make_auto_request = make_request


def _evaluate(options: dict[str, Any], source: str, *, names: set[str], output: Path) -> None:
    from bigcodebench.evaluate import evaluate

    with open(source, encoding="utf-8") as lines, open("samples.jsonl", "w") as kept:
        kept.writelines(line for line in lines if json.loads(line)["task_id"] in names)
    evaluate(samples="samples.jsonl", execution="local", **options["values"])
    for name in ("eval_results.json", "pass_at_k.json"):
        shutil.move(f"samples_{name}", output / name)


if __name__ == "__main__":
    main()
