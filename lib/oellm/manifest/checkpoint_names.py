"""Names of checkpoints: the training step, the run and the order that they tell."""

from __future__ import annotations

import re

# A letter after the digits is a unit if it ends the name; step1000-tokens4B is step 1000.
_STEP = re.compile(
    r"(?:^|[_.-])(?:iter|(?:global_?)?step|checkpoint)[_-]?([0-9]+)(?:([kKMB])\Z|(?![0-9]))"
)
_NUMBER = re.compile(r"([0-9]+)")
_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}


def natural_key(path: str) -> list[tuple[list[str | int], str]]:
    """Return a sort key that orders numbers by value, directory by directory.

    iter_2000 comes before iter_10000, and iter_01 before iter_1: distinct paths have distinct keys.
    """
    # Texts and numbers alternate, so a text is never compared with a number.
    return [
        ([int(part) if at % 2 else part for at, part in enumerate(_NUMBER.split(name))], name)
        for name in path.split("/")
    ]


def training_step(path: str, revision: str = "") -> int | None:
    """Return the training step in a checkpoint's revision or path, None if there is none.

    Reads `iter_0001000`, `step100000`, `global_step500`, `checkpoint-500`, `step-100k`. The
    revision comes before the path, and the last directory of the path before the others.
    """
    for name in [revision, *reversed(path.split("/"))]:
        match = _STEP.search(name)
        if match:
            return int(match.group(1)) * _UNITS[match.group(2) or ""]
    return None


def training_run(model: str) -> str:
    """Return a model cell without its training step; all checkpoints of a run have the same.

    `runs/a/iter_0001000` becomes `runs/a`, and `org/a,revision=step1000` becomes `org/a`.
    """
    path, *arguments = model.split(",")
    for place, argument in enumerate(arguments):
        name, _, revision = argument.partition("=")
        if name.strip() == "revision" and training_step("", revision.strip()) is not None:
            return ",".join([path, *arguments[:place], *arguments[place + 1 :]])
    names = path.split("/")
    for place in reversed(range(len(names))):
        if match := _STEP.search(names[place]):
            # The rest of the name changes with the step, as in `step1000-tokens4B`.
            kept = names[place][: match.start()]
            names[place : place + 1] = [kept] if kept else []
            break
    return ",".join(["/".join(names).rstrip("/") or path, *arguments])
