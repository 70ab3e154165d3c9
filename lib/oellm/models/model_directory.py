"""Whether the model in a directory can be loaded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping

from oellm.core.regular_files import read_regular
from oellm.models import weights

# A file with one of these in its name counts as a tokenizer's; each family has its own names.
_TOKENIZER_MARKS = (
    *("tokeniz", "vocab", ".model", "tiktoken", "tekken", "bpe", ".spm", "merges"),
    *("byte_maps.json", "dict.txt"),
)
# An empty one of these is half-written.
_NEVER_EMPTY = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
_TOKENIZER_CONFIG = "tokenizer_config.json"
# Classes of transformers that read a vocabulary. Others may come with the model or with a plugin.
_WITH_VOCABULARY = re.compile(
    r"TokenizersBackend|(?:PreTrained|Llama|GPT2|GPTNeoX|CodeGen|Qwen2|Gemma|Cohere|Bloom|T5|MT5"
    r"|Bert|Roberta|XLMRoberta|DebertaV2|Albert|Bart|MBart|MBart50|M2M100|Nllb|OPT|Phi|Mistral"
    r"|InternLM2|Baichuan|StableLm|Olmo)Tokenizer(?:Fast)?"
)
# Types of models whose tokenizers take bytes or characters.
_WITHOUT_VOCABULARY = ("byt5", "canine", "perceiver")


def find_directory_problem(
    directory: str, arguments: Mapping[str, str], names: Collection[str] | None = None
) -> str | None:
    """Return why the model in a directory cannot be loaded with these arguments, or None if it can.

    `names` are the names in the directory, or in its subfolder that the arguments name, if the
    caller knows them. Reads only the headers of weights.
    """
    subfolder = arguments.get("subfolder", "")
    inner = os.path.join(directory, subfolder)
    try:
        found = _find_problem(inner, arguments, os.listdir(inner) if names is None else names)
    except OSError as error:
        name = "" if error.filename == inner else f"{os.path.basename(str(error.filename))}: "
        found = f"{name}{error.strerror}"
    return f"{subfolder}: {found}" if subfolder and found else found


def is_tokenizer_file(name: str) -> bool:
    """Return whether a file in a model's directory counts as its tokenizer's."""
    return any(mark in name.lower() for mark in _TOKENIZER_MARKS)


def _find_problem(
    directory: str, arguments: Mapping[str, str], names: Collection[str]
) -> str | None:
    if arguments.get("gguf_file"):
        return weights.find_file_problem(directory, arguments["gguf_file"])
    if not any(weights.weight_files(names)):
        if "adapter_config.json" in names:
            return (
                "a PEFT adapter, not a model: name its base model, followed by `,peft=` and this "
                "directory"
            )
        if any(name.endswith(".gguf") for name in names):
            return "add `,gguf_file=NAME` to say which GGUF file"
    if "config.json" not in names:
        return "no config.json"
    try:
        config = json.loads(read_regular(os.path.join(directory, "config.json"), any_link=True))
    except (ValueError, RecursionError):
        return "config.json: it is not JSON"
    if not isinstance(config, dict):
        return "config.json: expected a JSON object"
    chosen = str(config.get("transformers_weights") or "")
    found = weights.find_weights_problem(directory, names, chosen)
    if found or "tokenizer" in arguments:
        return found
    return _tokenizer_problem(directory, names, str(config.get("model_type")))


def _tokenizer_problem(directory: str, names: Collection[str], model_type: str) -> str | None:
    if not any(map(is_tokenizer_file, names)):
        return "no tokenizer: add `,tokenizer=NAME`"
    for name in _NEVER_EMPTY:
        if name in names and not os.path.getsize(os.path.join(directory, name)):
            return f"{name}: the file is empty"
    if not [name for name in names if is_tokenizer_file(name) and name != _TOKENIZER_CONFIG]:
        return _vocabulary_problem(directory, model_type)
    return None


def _vocabulary_problem(directory: str, model_type: str) -> str | None:
    """Return why a tokenizer cannot be made from tokenizer_config.json alone, None if it may be."""
    try:
        config = json.loads(read_regular(os.path.join(directory, _TOKENIZER_CONFIG), any_link=True))
    except (ValueError, RecursionError):
        return f"{_TOKENIZER_CONFIG}: it is not JSON"
    if not isinstance(config, dict):
        return f"{_TOKENIZER_CONFIG}: expected a JSON object"
    # Code that comes with the model, or a file elsewhere, may have the vocabulary.
    if any(config.get(key) for key in ("auto_map", "tokenizer_file", "vocab_file")):
        return None
    name = str(config.get("tokenizer_class") or "")
    known = _WITH_VOCABULARY.fullmatch(name) if name else model_type not in _WITHOUT_VOCABULARY
    if not known:
        return None
    return (
        f"no tokenizer: {_TOKENIZER_CONFIG} needs tokenizer.json, tokenizer.model or a vocabulary, "
        "and there is none; add `,tokenizer=NAME`"
    )
