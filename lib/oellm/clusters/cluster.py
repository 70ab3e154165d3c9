"""The cluster: every setting that says where and how evaluations run, and its origin.

Settings come from clusters.json (its defaults, then the cluster), the user's file, the environment
and the command line, in this order. A later one replaces an earlier one. Maps are merged key by
key, but an empty map drops the members before it.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from oellm.clusters import settings
from oellm.core import json_config, schema
from oellm.core.json_config import Node
from oellm.core.paths import configuration_directory, data_file, user_name
from oellm.errors import MachineError, UsageError, nearest

_FILE = "clusters.json"
# Variables that have the prefix of settings but are none.
_OTHER_VARIABLES = {"OELLM_CACHE_DIR", "OELLM_CLUSTER", "OELLM_CONFIG", "OELLM_DEBUG"}


@dataclass(frozen=True)
class Cluster:
    """The resolved settings of one cluster (schema.json, table `cluster`).

    Attributes:
        settings: The values of the settings that are set, by key.
        origins: Where each value comes from: a file, a variable, or an option.
    """

    settings: Mapping[str, Any]
    origins: Mapping[str, str]

    def text(self, key: str) -> str:
        """Return a text setting, empty if it is not set."""
        return str(self.settings.get(key) or "")

    def number(self, key: str) -> int | None:
        """Return an integer setting, None if it is not set."""
        value = self.settings.get(key)
        return None if value is None else int(value)

    def switch(self, key: str) -> bool:
        """Return a switch, False if it is not set."""
        return bool(self.settings.get(key))

    def items(self, key: str) -> list[str]:
        """Return a list setting, empty if it is not set."""
        return [str(item) for item in self.settings.get(key) or []]

    def mapping(self, key: str) -> dict[str, str]:
        """Return a map setting, empty if it is not set."""
        return {name: str(value) for name, value in (self.settings.get(key) or {}).items()}


class Layer(NamedTuple):
    """Settings that replace those of lower layers, and their origin."""

    origin: str
    values: Mapping[str, Any]


def resolve_cluster(
    name: str | None,
    overrides: Iterable[str],
    environ: Mapping[str, str],
    hostname: str | None = None,
    own: Iterable[Layer] = (),
    *,
    users: Node | None = None,
) -> Cluster:
    """Return the settings of a cluster.

    `name` is a cluster's name, the path of a JSON file that oe-detect wrote (anything with a
    slash or ending in .json), or None to choose by OELLM_CLUSTER and the host name; `overrides`
    are `key=value` texts; `own` come after all files and before the environment; `users` takes the
    place of the user's file. Raises UsageError or InputError if one of them is wrong, MachineError
    if no cluster matches this machine.
    """
    if name and ("/" in name or name.endswith(".json")):
        # oe-detect resolved that file, environment included; only options still change it.
        layers = [Layer(name, _values(json_config.read_json_file(Path(name))))]
    else:
        known = known_clusters(environ, users)
        asked = environ.get("OELLM_CLUSTER")
        chosen = name or asked or _own_cluster(known, hostname)
        if chosen not in known:
            raise UsageError(
                f"unknown cluster {chosen!r}{nearest(chosen, known)}; oe-detect --list shows them"
            )
        origin = "--cluster" if name else "OELLM_CLUSTER" if chosen == asked else "host name"
        default = Layer(origin, {"name": chosen})
        layers = [default, *known[chosen], *own, *_environment_layers(environ)]
    layers += [read_override(text) for text in overrides]
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, values in layers:
        for name_given, value in values.items():
            key = settings.setting_name(name_given)
            settings.check_setting(key, value, origin)
            merged[key] = settings.join_values(merged.get(key), value)
            origins[key] = origin
    ordered = {key: merged[key] for key in schema.table("cluster") if key in merged}
    fixed = {"user": user_name(), "home": os.path.expanduser("~")}
    return Cluster(settings.resolve_references(ordered, fixed), origins)


def known_clusters(environ: Mapping[str, str], users: Node | None = None) -> dict[str, list[Layer]]:
    """Return the layers of settings of each known cluster, lowest first.

    `users` takes the place of the user's file.
    """
    layers: dict[str, list[Layer]] = {}
    shared: list[Layer] = []
    if users is None and (path := _user_file(environ)):
        users = json_config.read_json_file(path)
    packaged = json_config.read_json_file(data_file(_FILE))
    for node, origin in ((packaged, _FILE), *([(users, users.source)] if users else [])):
        parts = node.members(("defaults", "clusters"))
        if "defaults" in parts:
            defaults = Layer(f"{origin}, defaults", _values(parts["defaults"]))
            for others in layers.values():
                others.append(defaults)
            shared.append(defaults)
        clusters = parts["clusters"].members() if "clusters" in parts else {}
        for name, entry in clusters.items():
            layers.setdefault(name, list(shared)).append(Layer(origin, _values(entry)))
    return layers


def _user_file(environ: Mapping[str, str]) -> Path | None:
    """Return the user's file, if there is one; one that OELLM_CONFIG names must exist."""
    path = own_clusters_path(environ)
    return path if environ.get("OELLM_CONFIG") or path.is_file() else None


def own_clusters_path(environ: Mapping[str, str]) -> Path:
    """Return where the user's clusters file is, or would be."""
    if explicit := environ.get("OELLM_CONFIG"):
        return Path(explicit)
    return configuration_directory(environ) / _FILE


def _values(node: Node) -> dict[str, Any]:
    return {key: member.value for key, member in node.members().items()}


def match_host(known: Mapping[str, list[Layer]], host: str | None = None) -> str:
    """Return the cluster whose host name patterns match a host, or this machine; empty if none."""
    names = {host} if host else {socket.gethostname(), socket.getfqdn()}
    patterns = []
    for cluster, layers in known.items():
        with_hosts = [layer for layer in layers if "hostnames" in layer.values]
        for origin, values in with_hosts[-1:]:
            settings.check_setting("hostnames", values["hostnames"], origin)
            is_packaged = origin == _FILE
            patterns += [(is_packaged, cluster, str(one)) for one in values["hostnames"] or []]
    # The user's file comes before the package, as for every setting.
    for _, cluster, pattern in sorted(patterns, key=lambda entry: entry[0]):
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            return cluster
    return ""


def _own_cluster(known: Mapping[str, list[Layer]], host: str | None) -> str:
    """Return the cluster that this machine is; raises MachineError if none is known."""
    if found := match_host(known, host):
        return found
    if shutil.which("sbatch") is None:
        return "local"
    shown = host or " or ".join(sorted({socket.gethostname(), socket.getfqdn()}))
    raise MachineError(
        f"no known cluster has a login node called {shown}, and this machine has sbatch: "
        "`oellm config` describes it in your clusters.json; or choose one with --cluster or "
        "OELLM_CLUSTER (`slurm` is the generic one)"
    )


def _environment_layers(environ: Mapping[str, str]) -> list[Layer]:
    variables = settings.variables()
    for variable in environ:
        if variable.startswith("OELLM_") and variable not in {*variables, *_OTHER_VARIABLES}:
            hint = nearest(variable, variables)
            raise UsageError(f"{variable}: no setting has this variable{hint}")
    return [
        Layer(variable, {key: settings.parse_setting(key, environ[variable], variable)})
        for variable, key in variables.items()
        if environ.get(variable)
    ]


def read_override(text: str) -> Layer:
    """Return what a text `key=value` of the command line sets; raises UsageError if it is wrong."""
    path, equals, value = text.partition("=")
    name, _, member = path.strip().partition(".")
    key = settings.setting_name(name)
    if not equals:
        raise UsageError(f"--set: expected key=value, got {text!r}")
    origin = f"--set {path}"
    if member:
        if schema.table("cluster").get(key, {}).get("type") != "map":
            raise UsageError(f"--set: {key!r} is not a map, so it has no member {member!r}")
        return Layer(origin, {key: {member: value}})
    return Layer(origin, {key: settings.parse_setting(key, value, "--set")})
