"""Names of checkpoints: the training step, the run and the order that they tell."""

from __future__ import annotations

import re
from collections.abc import Sequence

from oellm.manifest.model_spec import ModelSpec

# A number of steps, and what must follow it: k, K and M are units, and B if it says that these are
# steps; else B means parameters or tokens. Hugging Face, Megatron, DeepSpeed, OLMo, torchtitan,
# Levanter, Lightning and NeMo call it so, with _, -, = or nothing between; Composer writes
# ep0-ba1000. A name that begins with Step is that of a model.
_STEP = re.compile(
    r"(?:^|[_.=-])(?:(?P<steps>(?i:global_?step)|step|(?<=[_.=-])(?i:step))"
    r"|(?i:iter(?:ation)?|checkpoint|ep[0-9]+-ba)|ckpt|(?<=[_.=-])(?i:ckpt)|ba)"
    r"[_=-]?(?P<number>[0-9]+)(?P<unit>(?:[kKM]|(?(steps)B|(?!)))(?![0-9A-Za-z]))?(?P<rest>.*)"
)
# 1.5 is no whole number, 100kB, 5x and 20241201T1200 are no steps.
_NO_STEP = re.compile(r"[0-9A-Za-z]|\.[0-9]")
_DATE = re.compile(r"20[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?:[0-9]{4})?")
_NUMBER = re.compile(r"([0-9]+)")
_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
# Directories inside a checkpoint: formats, and the parts of a training state. Anything else below a
# step is another model, such as one that was tuned from it.
_PARTS = re.compile(
    r"(?:hf|huggingface|hugging_face|transformers|safetensors|converted|unsharded|consolidated|merged"
    r"|torch|pytorch|export(?:ed)?|output|model|weights|checkpoints?|ckpts?|default|items|params|state"
    r"|policy|actor|bf16|fp16|fp32|bfloat16|float16|float32)"
    r"(?:[_.-](?:hf|huggingface|converted|safetensors|merged|model|weights|checkpoints?|bf16|fp16|fp32"
    r"|bfloat16|float16|float32|ckpt|format))*",
    re.IGNORECASE,
)
# Directories whose numbered entries are checkpoints.
_OF_NUMBERS = re.compile(r"(?:checkpoints?|ckpts?|steps?|iters?|iterations?)", re.IGNORECASE)
# Longer numbers are dates with a time, or other marks.
_MOST_DIGITS = 12
# The models of this maker are called Step.
_NO_STEPS = "stepfun-ai"


def natural_key(path: str) -> list[tuple[list[str | int], str]]:
    """Return a sort key that orders numbers by value, directory by directory.

    iter_2000 comes before iter_10000, and iter_01 before iter_1: distinct paths have distinct keys.
    """
    # Texts and numbers alternate, so a text is never compared with a number.
    return [
        ([int(part) if at % 2 else part for at, part in enumerate(_NUMBER.split(name))], name)
        for name in path.split("/")
    ]


class StepNames:
    """Reads training steps from the names of checkpoints.

    `pattern` is a regular expression for names of another kind; its first group, or all of it, is
    the number, with or without a unit (120k). Raises ValueError if it is none.
    """

    def __init__(self, pattern: str = "") -> None:
        try:
            self._pattern = re.compile(pattern) if pattern else None
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"expected a regular expression: {error}") from None

    def step(self, path: str, revision: str = "") -> int | None:
        """Return the training step in a checkpoint's revision or path, None if there is none."""
        if self._pattern is None:
            return training_step(path, revision)
        for name in (revision, path):
            matches = list(self._pattern.finditer(name))
            # The last one is nearest to the checkpoint.
            if matches and (found := _number(matches[-1])) is not None:
                return found
        return None


def _number(match: re.Match[str]) -> int | None:
    text = (match[1] if match.re.groups else match[0]) or ""
    number = re.fullmatch(r"\D*?([0-9]+(?:\.[0-9]+)?)([kKMB]?)\D*", text, re.ASCII)
    if not number:
        return None
    value = float(number[1]) * _UNITS[number[2]] if "." in number[1] or number[2] else None
    if value is None:
        return int(number[1]) if len(number[1]) <= _MOST_DIGITS else None
    return int(value) if value == int(value) else None


def training_step(path: str, revision: str = "") -> int | None:
    """Return the training step in a checkpoint's revision or path, None if there is none.

    Reads the names that trainers write: `iter_0001000`, `step100000`, `global_step500`,
    `checkpoint-500`, `step-100k`, `epoch=3-step=12000.ckpt`, `ep0-ba1000`, and `checkpoints/500`.
    The revision comes before the path. Of the path only the last directory counts, and above it
    those whose checkpoint it is a part of, such as `iter_500/hf`. A name with two different steps
    has none.
    """
    if (step := _step_of_name(revision)) is not None:
        return step
    found = _find_step(path.rstrip("/").split("/"))
    return found[1] if found else None


def _find_step(names: Sequence[str]) -> tuple[int, int] | None:
    """Return the place of the name that tells the step, and the step."""
    if any(_NO_STEPS in name.lower() for name in names):
        return None
    for place in reversed(range(len(names))):
        if (step := _step_of_name(names[place])) is not None:
            return place, step
        above = names[place - 1] if place else ""
        if is_step_number(names[place]) and _OF_NUMBERS.fullmatch(above):
            return place, int(names[place])
        if _STEP.search(names[place]) or not _PARTS.fullmatch(names[place]):
            return None
    return None


def _step_of_name(name: str) -> int | None:
    """Return the step in the name of a directory or of a revision."""
    found = set()
    rest = name
    while match := _STEP.search(rest):
        rest = match["rest"]
        number = match["number"]
        if _NO_STEP.match(rest) or len(number) > _MOST_DIGITS or _DATE.fullmatch(number):
            return None
        found.add(int(match["number"]) * _UNITS[match["unit"] or ""])
    return found.pop() if len(found) == 1 else None


def is_step_number(name: str) -> bool:
    """Return whether the name of a directory is a number that can be a training step."""
    is_number = name.isascii() and name.isdigit() and len(name) <= _MOST_DIGITS
    return is_number and not _DATE.fullmatch(name)


def training_run(model: str, step: int | None = None) -> str:
    """Return a model cell without its training step; all checkpoints of a run have the same.

    `runs/a/iter_0001000` becomes `runs/a`, and `org/a,revision=step1000` becomes `org/a`. A `step`
    that the name does not tell by itself is looked for as a number: with step 120000,
    `runs/anneal_120k` becomes `runs/anneal`. A text that is no cell, as other tools may name a
    model, stays as it is.
    """
    try:
        spec = ModelSpec.parse(model)
    except ValueError:
        return model
    arguments = dict(spec.arguments)
    if _step_of_name(arguments.get("revision", "")) is not None:
        del arguments["revision"]
        return str(ModelSpec(spec.path, tuple(arguments.items())))
    names = spec.path.rstrip("/").split("/")
    found = _find_step(names)
    place = found[0] if found else _find_number(names, step)
    if place is None:
        return str(spec)
    kept = _before_step(names[place], found[1] if found else step)
    names[place : place + 1] = [kept] if kept else []
    return str(spec.at("/".join(names).rstrip("/") or spec.path))


def _find_number(names: Sequence[str], step: int | None) -> int | None:
    places = reversed(range(len(names)))
    return next((place for place in places if _number_in(names[place], step)), None)


def _number_in(name: str, step: int | None) -> re.Match[str] | None:
    """Return where a name has the number of a step, with or without a unit."""
    for match in re.finditer(r"(?<![0-9])([0-9]+)([kKMB]?)(?![0-9])", name):
        if step in (int(match[1]), int(match[1]) * _UNITS[match[2]]):
            return match
    return None


def _before_step(name: str, step: int | None) -> str:
    """Return what stands before the step in a name.

    The rest of the name changes with the step, as in `step1000-tokens4B`; so does `epoch=3-`.
    """
    match = _STEP.search(name) if _step_of_name(name) is not None else _number_in(name, step)
    start = match.start() if match else 0
    return re.sub(r"(^|[_.-])epoch[_=-]?[0-9]+[_.-]?$", "", name[:start]).rstrip("_.-=")
