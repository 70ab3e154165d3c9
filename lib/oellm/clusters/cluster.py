"""The cluster: every setting that says where and how evaluations run, and where it came from.

Settings come from clusters.json (its defaults, then the cluster), the user's file, the
environment and the command line; the later wins. Maps are merged key by key.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oellm.clusters import settings
from oellm.core import schema
from oellm.core.paths import data_file, user_name
from oellm.errors import InputError, MachineError, UsageError, nearest

# Variables with the settings' prefix that are no settings.
_OTHER_VARIABLES = {"OELLM_CACHE_DIR", "OELLM_CLUSTER", "OELLM_CONFIG", "OELLM_DEBUG"}


@dataclass(frozen=True)
class Cluster:
    """The resolved settings of one cluster and the origin of each."""

    settings: Mapping[str, Any]
    origins: Mapping[str, str]

    def text(self, key: str) -> str:
        """Return a text setting, empty where it is not set."""
        return str(self.settings.get(key) or "")

    def number(self, key: str) -> int | None:
        """Return an integer setting, None where it is not set."""
        value = self.settings.get(key)
        return None if value is None else int(value)

    def switch(self, key: str) -> bool:
        """Return a switch, False where it is not set."""
        return bool(self.settings.get(key))

    def items(self, key: str) -> list[str]:
        """Return a list setting, empty where it is not set."""
        return [str(item) for item in self.settings.get(key) or []]

    def mapping(self, key: str) -> dict[str, str]:
        """Return a map setting, empty where it is not set."""
        return {name: str(value) for name, value in (self.settings.get(key) or {}).items()}


def resolve(
    name: str | None,
    overrides: Iterable[str],
    environ: Mapping[str, str],
    hostname: str | None = None,
) -> Cluster:
    """Return the settings of a cluster.

    `name` is a cluster's name, the path of a JSON file that oe-detect wrote (anything with a
    slash or ending in .json), or None to choose by OELLM_CLUSTER and the host name; `overrides`
    are `key=value` texts. Raises UsageError or InputError for what is wrong in them, MachineError
    where no cluster matches this machine.
    """
    layers: list[tuple[str, Mapping[str, Any]]]
    if name and ("/" in name or name.endswith(".json")):
        # That file was resolved once, environment included; only the flags come after it.
        layers = [(name, _read(Path(name)))]
    else:
        known = known_clusters(environ)
        chosen = name or environ.get("OELLM_CLUSTER") or _matching(known, hostname)
        if chosen not in known:
            raise UsageError(
                f"unknown cluster {chosen!r}{nearest(chosen, known)}; oe-detect --list shows them"
            )
        layers = [("default", {"name": chosen}), *known[chosen], *_environment(environ)]
    layers += [_override(text) for text in overrides]
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        for key, value in layer.items():
            settings.check(key, value, origin)
            before = merged.get(key)
            is_added = isinstance(value, dict) and isinstance(before, dict)
            merged[key] = (before or {}) | value if is_added else value
            origins[key] = origin
    ordered = {key: merged[key] for key in schema.table("cluster") if key in merged}
    fixed = {"user": user_name(), "home": os.path.expanduser("~")}
    return Cluster(settings.resolve(ordered, fixed), origins)


def known_clusters(environ: Mapping[str, str]) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """Return each known cluster's layers of settings with their origin, lowest first."""
    layers: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    shared: list[tuple[str, Mapping[str, Any]]] = []
    user_file = _user_file(environ)
    for path, origin in (
        (data_file("clusters.json"), "clusters.json"),
        (user_file, str(user_file)),
    ):
        if path is None:
            continue
        content = _read(path)
        if unknown := sorted(set(content) - {"defaults", "clusters"}):
            raise InputError(
                f"expected the keys defaults and clusters, got {unknown[0]!r}", str(path)
            )
        defaults = _object(content, "defaults", path)
        for others in layers.values():
            others.append((f"{origin}, defaults", defaults))
        shared.append((f"{origin}, defaults", defaults))
        clusters = _object(content, "clusters", path)
        for name in clusters:
            own = _object(clusters, name, path)
            layers.setdefault(name, list(shared)).append((origin, own))
    return layers


def _user_file(environ: Mapping[str, str]) -> Path | None:
    """Return the user's file; one that OELLM_CONFIG names must exist."""
    if explicit := environ.get("OELLM_CONFIG"):
        return Path(explicit)
    home = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    path = Path(home) / "oellm" / "clusters.json"
    return path if path.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"expected JSON: {error.msg}", f"{path}:{error.lineno}:{error.colno}"
        ) from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"expected UTF-8 text, got byte 0x{byte:02x}", str(path)) from None
    if not isinstance(content, dict):
        raise InputError("expected a JSON object", str(path))
    return content


def _object(content: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    """Return the object under a key of a file, empty where there is none."""
    value = content.get(key, {})
    if not isinstance(value, dict):
        raise InputError(f"expected an object, got {value!r}", str(path), column=key)
    return value


def _matching(known: Mapping[str, list[tuple[str, Mapping[str, Any]]]], host: str | None) -> str:
    names = {host} if host else {socket.gethostname(), socket.getfqdn()}
    patterns = []
    for cluster, layers in known.items():
        lists = [(origin, layer["hostnames"]) for origin, layer in layers if "hostnames" in layer]
        for origin, hostnames in lists[-1:]:
            settings.check("hostnames", hostnames, origin)
            is_packaged = origin == "clusters.json"
            patterns += [(is_packaged, cluster, str(pattern)) for pattern in hostnames or []]
    # What the user's file says goes before what the package says, as everywhere.
    for _, cluster, pattern in sorted(patterns, key=lambda entry: entry[0]):
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            return cluster
    if shutil.which("sbatch") is None:
        return "local"
    shown = " or ".join(sorted(names))
    raise MachineError(
        f"no known cluster has a login node called {shown}, and this machine has sbatch: "
        "choose with --cluster or OELLM_CLUSTER (`slurm` is the generic one), "
        "or describe the cluster in your clusters.json"
    )


def _environment(environ: Mapping[str, str]) -> list[tuple[str, Mapping[str, Any]]]:
    variables = {
        variable: key
        for key, spec in schema.table("cluster").items()
        for variable in (spec.get("variable"), f"OELLM_{key.upper()}")
        if variable
    }
    for variable in environ:
        if variable.startswith("OELLM_") and variable not in {*variables, *_OTHER_VARIABLES}:
            hint = nearest(variable, variables)
            raise UsageError(f"{variable}: no setting has this variable{hint}")
    return [
        (variable, {key: settings.parse(key, environ[variable], variable)})
        for variable, key in variables.items()
        if environ.get(variable)
    ]


def _override(text: str) -> tuple[str, Mapping[str, Any]]:
    path, equals, value = text.partition("=")
    key, _, member = path.strip().partition(".")
    if not equals:
        raise UsageError(f"--set: expected key=value, got {text!r}")
    origin = f"--set {path}"
    if member:
        if schema.table("cluster").get(key, {}).get("type") != "map":
            raise UsageError(f"--set: {key!r} is not a map, so it has no member {member!r}")
        return origin, {key: {member: value}}
    return origin, {key: settings.parse(key, value, "--set")}
