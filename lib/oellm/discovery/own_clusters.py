"""The user's clusters file: what it has, and how an entry gets into it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from oellm.clusters import settings
from oellm.clusters.cluster import (
    Layer,
    known_clusters,
    match_host,
    own_clusters_path,
    resolve_cluster,
)
from oellm.core import atomic, json_config
from oellm.core.json_config import Node
from oellm.core.regular_files import read_regular
from oellm.errors import InputError, UsageError

_CLUSTERS = "clusters"
_INDENT = 2


class OwnClusters(NamedTuple):
    """The user's clusters file as it is; empty if there is none yet.

    Attributes:
        path: Where it is, or will be.
        content: The objects in it.
        indent: How many blanks indent it.
    """

    path: Path
    content: dict[str, Any]
    indent: int

    def has(self, name: str) -> bool:
        """Return whether there is an entry of this name."""
        return name in self.content.get(_CLUSTERS, {})

    def keys(self, name: str) -> list[str]:
        """Return the settings that the entry of this name has."""
        return list(self.content.get(_CLUSTERS, {}).get(name, {}))

    def known(self, environ: Mapping[str, str]) -> dict[str, list[Layer]]:
        """Return the layers of the clusters that oellm knows with this file."""
        return known_clusters(environ, Node(self.content, str(self.path)))

    def has_same(self, other: OwnClusters, name: str) -> bool:
        """Return whether another state of the file has the same entry of this name, or none."""
        mine, theirs = (each.content.get(_CLUSTERS, {}).get(name) for each in (self, other))
        return bool(mine == theirs)

    def with_entry(self, name: str, entry: Mapping[str, Any]) -> OwnClusters:
        """Return the file with an entry, in the place of one of the same name, else at the end."""
        clusters = {**self.content.get(_CLUSTERS, {}), name: dict(entry)}
        return self._replace(content={**self.content, _CLUSTERS: clusters})


def read_own_clusters(environ: Mapping[str, str]) -> OwnClusters:
    """Read the user's clusters file.

    Raises InputError with its place for what is no JSON, such as a comment, or no clusters file.
    """
    path = own_clusters_path(environ)
    try:
        text = read_regular(path)
    except FileNotFoundError:
        return OwnClusters(path, {}, _INDENT)
    if not text.strip():
        return OwnClusters(path, {}, _INDENT)
    node = json_config.read_json(text, str(path))
    node.members(("defaults", _CLUSTERS)).get(_CLUSTERS, Node({}, "")).members()
    indented = re.search(rb"^( +)\S", text, re.MULTILINE)
    return OwnClusters(path, node.value, len(indented[1]) if indented else _INDENT)


def read_entry(content: bytes, source: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings of the one cluster in what `oe-detect --propose` printed.

    Raises InputError, with the place, if it is not one cluster or has a setting that cannot be.
    """
    node = json_config.read_json(content, source)
    clusters = node.members((_CLUSTERS,), required=(_CLUSTERS,))[_CLUSTERS].members()
    if len(clusters) != 1:
        raise InputError(f"expected one cluster, got {len(clusters)}", source, column=_CLUSTERS)
    ((name, entry),) = clusters.items()
    members = entry.members()
    for key, member in members.items():
        settings.check_setting(settings.setting_name(key), member.value, f"{source}: {entry.place}")
    return name, {key: member.value for key, member in members.items()}


def format_entry(name: str, entry: Mapping[str, Any], indent: int = _INDENT) -> str:
    """Return a clusters file that has one entry, as text."""
    return _format({_CLUSTERS: {name: dict(entry)}}, indent)


def check_name(name: str) -> str:
    """Return what is wrong with the name of a cluster; empty if nothing is."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) and not name.endswith(".json"):
        return ""
    return f"expected letters, digits and ._- (no .json at the end), got {name!r}"


def packaged_name(clusters: OwnClusters, environ: Mapping[str, str]) -> str:
    """Return the cluster of the package that this machine is; empty if none, or one of the file."""
    found = match_host(clusters.known(environ))
    return "" if clusters.has(found) else found


def host_problem(clusters: OwnClusters, name: str, environ: Mapping[str, str]) -> str:
    """Return why this machine would not be the cluster of this name; empty if it would."""
    asked = environ.get("OELLM_CLUSTER")
    found = asked or match_host(clusters.known(environ))
    if found == name:
        return ""
    host = socket.gethostname()
    if asked:
        return f"OELLM_CLUSTER says that this is the cluster {asked}: unset it, or set it to {name}"
    if found:
        return f"a host name pattern of the cluster {found} also matches {host}, and comes first"
    return f"no host name pattern of {name} matches {host}: set hostnames, or OELLM_CLUSTER={name}"


@contextlib.contextmanager
def only_writer(environ: Mapping[str, str]) -> Iterator[None]:
    """Wait until no other oe-config writes the user's file, and keep others from it meanwhile."""
    directory = own_clusters_path(environ).resolve().parent
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some file systems have no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_own_clusters(clusters: OwnClusters, name: str, environ: Mapping[str, str]) -> None:
    """Write the file atomically, if oe-detect will accept the cluster of this name in it.

    Raises InputError or UsageError if not, and leaves the file as it was.
    """
    if problem := check_name(name):
        raise UsageError(f"name of the cluster: {problem}")
    own = Node(clusters.content, str(clusters.path))
    resolve_cluster(name, [], environ, users=own)
    # A link, such as into a repository of settings, stays a link.
    path = clusters.path.resolve()
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_file(path, _format(clusters.content, clusters.indent).encode())
    if mode is not None:
        path.chmod(mode)


def _format(content: Mapping[str, Any], indent: int) -> str:
    return json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
