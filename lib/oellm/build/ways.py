"""The ways to build an image, as far as this user has the rights for them on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from oellm.core.paths import user_name
from oellm.core.regular_files import STATE, read_regular
from oellm.errors import MachineError
from oellm.images.image_files import version_of_runtime

_PATIENCE_S = 60.0


class BuildWay(NamedTuple):
    """A way to build.

    Attributes:
        name: Its name.
        before: Words before the runtime.
        options: Options of `build`.
    """

    name: str
    before: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


WAYS = {
    "root": BuildWay("root"),
    "userns": BuildWay("userns", before=("unshare", "-r")),
    "fakeroot": BuildWay("fakeroot", options=("--fakeroot",)),
    "proot": BuildWay("proot"),
    "remote": BuildWay("remote", options=("--remote",)),
}


class _ImpossibleError(Exception):
    """Why a way does not work here."""


class Host(NamedTuple):
    """What the choice of a way depends on."""

    version: str
    user: int
    environ: Mapping[str, str]

    @property
    def is_ce(self) -> bool:
        """Whether the runtime is SingularityCE."""
        return "singularity-ce" in self.version


def find_way(runtime: str, environ: Mapping[str, str]) -> BuildWay:
    """Return the first way that works here.

    Raises MachineError, with the reason for each way, if there is none.
    """
    host = Host(version_of_runtime(runtime), os.geteuid(), environ)
    reasons = []
    for name in _REQUIRE:
        reason = _why_impossible(name, host)
        if not reason:
            return WAYS[name]
        reasons.append(f"{name}: {reason}")
    raise MachineError(f"images cannot be built here: {'; '.join(reasons)}")


def _why_impossible(name: str, host: Host) -> str:
    """Return why a way does not work, empty if it does."""
    try:
        _REQUIRE[name](host)
    except _ImpossibleError as error:
        return str(error)
    return ""


def _require_root(host: Host) -> None:
    if host.user != 0:
        raise _ImpossibleError("you are not root")
    missing = _missing_capabilities()
    if missing:
        raise _ImpossibleError(f"root lacks {missing} of its capabilities here")


def _require_userns(host: Host) -> None:
    if host.user != 0:
        raise _ImpossibleError("it is for a root without capabilities")
    _require_namespaces()


def _require_fakeroot(host: Host) -> None:
    if host.user == 0:
        raise _ImpossibleError("you are root")
    _require_namespaces()
    if "apptainer" not in host.version:
        # Apptainer does without, except for files of several users.
        _require_subordinate_ids()


def _require_proot(host: Host) -> None:
    if shutil.which("proot", path=host.environ.get("PATH")) is None:
        raise _ImpossibleError("proot is not on PATH")
    if not host.is_ce:
        raise _ImpossibleError(f"{host.version} does not use it (SingularityCE 3.11 and newer do)")


def _require_remote(host: Host) -> None:
    if not host.is_ce:
        raise _ImpossibleError(f"{host.version} has no remote builds")
    configuration = Path(os.path.expanduser("~/.singularity/remote.yaml"))
    with contextlib.suppress(OSError):
        content = read_regular(configuration, STATE).decode(errors="replace")
        if re.search(r"^\s*Token:\s*\S{8,}", content, re.MULTILINE | re.IGNORECASE):
            return
    raise _ImpossibleError("no remote builder is configured (singularity remote login)")


_REQUIRE: dict[str, Callable[[Host], None]] = {
    "root": _require_root,
    "userns": _require_userns,
    "fakeroot": _require_fakeroot,
    "proot": _require_proot,
    "remote": _require_remote,
}


def _missing_capabilities() -> int:
    """Return how many capabilities this process lacks."""
    status = read_regular("/proc/self/status", STATE).decode()
    (mask,) = re.findall(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    last = int(read_regular("/proc/sys/kernel/cap_last_cap", STATE))
    return (last + 1) - int(mask, 16).bit_count()


def _require_namespaces() -> None:
    if shutil.which("unshare") is None:
        raise _ImpossibleError("unshare (util-linux) is not on PATH")
    done = subprocess.run(
        ["unshare", "-r", "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _ImpossibleError(f"no user namespaces: {said[-1] if said else 'unshare -r fails'}")


def _require_subordinate_ids() -> None:
    """Raise _ImpossibleError unless this user has subordinate ids, in files or elsewhere."""
    if shutil.which("newuidmap") is None:
        raise _ImpossibleError("newuidmap (package uidmap) is not on PATH")
    user = user_name()
    for name, option in (("subuid", ()), ("subgid", ("-g",))):
        with contextlib.suppress(OSError):
            lines = read_regular(f"/etc/{name}").decode(errors="replace").splitlines()
            if any(line.split(":")[0] in (user, str(os.getuid())) for line in lines):
                continue
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["getsubids", *option, user]
            subprocess.run(command, capture_output=True, timeout=_PATIENCE_S, check=True)
            continue
        raise _ImpossibleError(
            f"/etc/{name} has no entry for {user}; ask the administrators for one"
        )
