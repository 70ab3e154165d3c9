"""The command lines of container runtimes."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from oellm.core.redaction import is_secret
from oellm.errors import MachineError, UsageError
from oellm.sandbox.contained import OUTPUT, SCRATCH, Contained
from oellm.sandbox.guard import COUNTS, HIDDEN, LIMITS

# Where the container finds the guard, and the file in which the guard counts samples.
GUARD = "/oellm-guard"
STATE = "/oellm-state"
# Directories of SCRATCH by the variables that name them.
DIRECTORIES = {
    "TMPDIR": "tmp",
    "HOME": "home",
    "XDG_CACHE_HOME": "cache",
    "MPLCONFIGDIR": "matplotlib",
}
# Other writable directories of a container, and the directories of SCRATCH that replace them.
REPLACED = {"/tmp": "tmp", "/var/tmp": "var-tmp", "/dev/shm": "shm"}  # noqa: S108
# Where a program finds the directories of its box, by their paths.
PLACES = {GUARD: "guard", STATE: "state", OUTPUT: "out", SCRATCH: "scratch"}
# What would let a container see or change more than it is given.
_WIDENING = (
    *("-B", "-H", "-S", "-W", "-o", "-w"),
    *("--add-caps", "--allow-setuid", "--bind", "--cwd", "--env", "--env-file", "--fakeroot"),
    *("--fusemount", "--home", "--no-mount", "--vm"),
    *("--keep-privs", "--mount", "--no-init", "--overlay", "--pwd", "--scratch"),
    *("--security", "--sharens", "--workdir", "--writable", "--writable-tmpfs"),
)
# What gives a container devices, which evaluations do not need.
_DEVICES = ("--nv", "--nvccli", "--rocm")
# What decides about the network, of which the sandbox has none in any case.
_OF_NETWORK = ("--net", "--network", "--network-args")
# Characters with a meaning in the value of --bind.
_SPECIAL = re.compile(r'[:,"\\]')


class Binding(NamedTuple):
    """A path on this machine, and where the container finds it."""

    source: str
    target: str
    is_writable: bool


def container_command(
    runtime: str,
    contained: Contained,
    *,
    image: str,
    bindings: Iterable[Binding],
    own_namespaces: bool,
) -> list[str]:
    """Return the command that runs a program in its image.

    `own_namespaces`: whether the runtime must do with user namespaces, which permit the guard.
    """
    bound = [text for binding in bindings for text in _bind_option(binding)]
    return [
        *(runtime, "--quiet", "exec"),
        *(["--userns"] if own_namespaces else []),
        *("--containall", "--no-home", "--cleanenv", "--no-privs"),
        *("--net", "--network", "none"),
        *_kept_arguments(contained.container_args),
        *bound,
        *("--pwd", OUTPUT, image),
        *plain_command(contained),
    ]


def _bind_option(binding: Binding) -> list[str]:
    source, target, is_writable = binding
    if not _SPECIAL.search(source + target):
        return ["--bind", f"{source}:{target}" + ("" if is_writable else ":ro")]
    text = io.StringIO()
    fields = ["type=bind", f"src={source}", f"dst={target}", *([] if is_writable else ["ro"])]
    csv.writer(text, lineterminator="").writerow(fields)
    return ["--mount", text.getvalue()]


def plain_command(contained: Contained) -> list[str]:
    """Return the program with its environment, as the container or this machine starts it."""
    variables = {**contained.env, **private_directories()}
    if contained.guard:
        variables |= guard_variables(contained)
        path = [GUARD, contained.env.get("PYTHONPATH", "")]
        variables["PYTHONPATH"] = ":".join(filter(None, path))
    return ["env", *(f"{name}={value}" for name, value in variables.items()), *contained.argv]


def private_directories() -> dict[str, str]:
    """Return the variables that name directories below SCRATCH."""
    return {name: f"{SCRATCH}/{directory}" for name, directory in DIRECTORIES.items()}


def guard_variables(contained: Contained) -> dict[str, str]:
    """Return the variables that the guard reads."""
    limits = contained.limits.sample._asdict()
    hidden = (OUTPUT, SCRATCH, STATE, *REPLACED)
    return {
        LIMITS: ";".join(f"{name}={value}" for name, value in limits.items()),
        COUNTS: f"{STATE}/samples",
        HIDDEN: ":".join(hidden),
    }


def _kept_arguments(arguments: Iterable[str]) -> Iterator[str]:
    """Yield the cluster's arguments, but those about devices and the network."""
    is_value = False
    for argument in arguments:
        name, sign, _ = argument.partition("=")
        if not is_value and name not in (*_DEVICES, *_OF_NETWORK):
            yield argument
        # `--network none` are two arguments.
        is_value = name in _OF_NETWORK and name != "--net" and not sign


def check_contained(contained: Contained) -> None:
    """Raise UsageError or MachineError for what must not or cannot be given to a container."""
    for source, path in contained.inputs.items():
        if not os.path.exists(source):
            raise MachineError(f"{source}: no such file or directory on this machine")
        if path != os.path.abspath(path) or not path.isprintable():
            raise UsageError(f"{path!r}: expected an absolute path without control characters")
        if path in REPLACED or f"{path}/".startswith(tuple(f"{place}/" for place in PLACES)):
            raise UsageError(f"{path}: the sandbox has a directory of its own there")
    for argument in contained.container_args:
        name = argument.partition("=")[0]
        if name in _WIDENING or (name[:2] in _WIDENING and not name.startswith("--")):
            raise MachineError(
                f"container_args: {argument} would let code that a model writes see or change "
                "more than its input and output; take it out of container_args"
            )
    _check_environment(contained.env)


def _check_environment(env: Mapping[str, str]) -> None:
    for name, value in env.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in value:
            raise UsageError(f"{name!r}: expected the name of a variable")
        if is_secret(name, value):
            raise UsageError(f"{name}: code that a model writes must not see a secret")
