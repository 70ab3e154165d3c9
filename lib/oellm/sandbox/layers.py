"""What protects a machine from code that a model has written, as far as the machine can."""

from __future__ import annotations

import functools
import os
import pwd
import socket
import tempfile
from pathlib import Path
from typing import NamedTuple

from oellm.clusters.cluster import Cluster
from oellm.clusters.runtime import runtime_names, which_runtime
from oellm.errors import MachineError, UsageError
from oellm.sandbox import running
from oellm.sandbox.contained import Contained, Layers, Limits

# Seconds for a program that does nothing; a busy node with a slow file system may need many.
_TRIAL_S = 120.0
# Ends with this status if a process of the sandbox cannot have namespaces of its own.
_NO_NAMESPACES = 77
_TRIAL = (
    "command -v unshare >/dev/null || exit 0; "
    f"unshare -Upnimf --mount-proc true || exit {_NO_NAMESPACES}"
)
_NOBODY = "nobody"


class _Possible(NamedTuple):
    """The layers of a machine, whatever its settings permit."""

    layers: Layers
    # Why there is no container, if there is none.
    no_container: str


def find_layers(cluster: Cluster, image: Path | None, *, unsafe_execution: bool = False) -> Layers:
    """Return the layers that this machine has for programs of an image; tries them, once.

    `unsafe_execution` permits to do without a container. Raises MachineError if the machine has
    fewer layers than its settings permit, with what is missing and what to do.
    """
    user = _find_user(cluster.text("sandbox_user") or _NOBODY)
    runtime = cluster.text("container_runtime") or "auto"
    arguments = tuple(cluster.items("container_args"))
    possible = _try_layers(image, runtime, (user, arguments))
    layers, host = possible.layers, socket.gethostname()
    if not layers.container:
        if unsafe_execution and layers.user and not layers.namespaces:
            raise MachineError(
                f"{host}: root must not run what a model has written, and this machine cannot "
                f"hide what belongs to root from another user: {layers.missing}; do not run the "
                "worker as root"
            )
        if unsafe_execution:
            return layers
        raise MachineError(
            f"{host}: code that a model writes runs only in a container, and there is none: "
            f"{possible.no_container}; mend that, or permit it with --unsafe_execution, which runs "
            "such code on this machine's own files"
        )
    if layers.missing and cluster.text("sandbox") != "weak":
        raise MachineError(
            f"{host}: code that a model writes needs all layers of the sandbox, and this machine "
            f"has only `{layers}`: {layers.missing}; ask for that, or accept less with the setting "
            "sandbox=weak"
        )
    return layers


def _find_user(name: str) -> tuple[int, int] | None:
    """Return the numbers of the user that root becomes; None if this process is not root."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
        user, group = entry.pw_uid, entry.pw_gid
    except KeyError:
        if not name.isdigit():
            raise UsageError(f"sandbox_user: this machine has no user {name}") from None
        # A number that nobody has protects best: nothing else runs as this user.
        user = group = int(name)
    if user == 0:
        raise UsageError("sandbox_user: expected a user other than root")
    return user, group


@functools.cache
def _try_layers(
    image: Path | None, runtime: str, others: tuple[tuple[int, int] | None, tuple[str, ...]]
) -> _Possible:
    user, arguments = others
    path, no_container = _find_runtime(image, runtime)
    attempts = []
    if not no_container:
        attempts = [
            Layers(container=True, namespaces=own, guard=own, user=user, runtime=path)
            for own in (True, False)
        ]
    reasons: list[str] = []
    for layers in attempts:
        found, reason = _try(layers, image, arguments)
        if found:
            return _Possible(_explain(found, reasons, reason), "")
        reasons.append(reason)
    if reasons:
        no_container = reasons[-1]
    bare = Layers(container=False, namespaces=True, guard=True, user=user)
    found, reason = _try(bare, None, ())
    if not found:
        found = bare._replace(namespaces=False, guard=False)
    return _Possible(_explain(found, [no_container], reason), no_container)


def _explain(layers: Layers, before: list[str], reason: str) -> Layers:
    return layers._replace(missing="; ".join(filter(None, [*before, reason])))


def _find_runtime(image: Path | None, runtime: str) -> tuple[str, str]:
    """Return the path of the container runtime, and why there is no container."""
    if image is None or runtime == "none":
        return "", "the cluster has no image for it (setting images)"
    if not os.path.exists(image):
        return "", f"{image}: no such image"
    names = runtime_names(runtime)
    if path := which_runtime(names):
        return path, ""
    return "", f"no {' or '.join(names)} on PATH (setting setup: module load …)"


def _try(
    layers: Layers, image: Path | None, arguments: tuple[str, ...]
) -> tuple[Layers | None, str]:
    """Run a program that does nothing; return the layers it had and what they lack."""
    with tempfile.TemporaryDirectory(prefix="oellm-") as name:
        directory = Path(name)
        log = directory / "log"
        contained = Contained(
            argv=("sh", "-c", _TRIAL) if layers.namespaces else ("true",),
            image=image,
            inputs={},
            output=directory,
            env={},
            limits=Limits(seconds=_TRIAL_S, output_bytes=1 << 20, output_files=100),
            guard=False,
            container_args=arguments,
        )
        ended = running.run_contained(contained, layers, log)
        said = log.read_text(errors="replace").strip().splitlines()[-3:]
    if ended.status == 0:
        if layers.namespaces:
            return layers, ""
        return layers, "no user namespaces of its own"
    if ended.status == _NO_NAMESPACES:
        return layers._replace(guard=False), f"no namespaces within the container: {said}"
    return None, "; ".join([ended.reason, *said])
