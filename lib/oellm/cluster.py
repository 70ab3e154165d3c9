"""The cluster: every setting that says where and how evaluations run, and where it came from.

Settings come from clusters.json (its defaults, then the cluster), the user's file, the
environment and the command line; the later wins. Maps are merged key by key.
"""

from __future__ import annotations

import fnmatch
import getpass
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oellm import schema
from oellm.data_files import data_file
from oellm.errors import InputError, MachineError, UsageError, nearest

# Variables with the settings' prefix that are no settings.
_OTHER_VARIABLES = {"OELLM_CLUSTER", "OELLM_CONFIG", "OELLM_DEBUG"}


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
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        for key, value in layer.items():
            _check(key, value, origin)
            before = settings.get(key)
            if isinstance(value, dict) and isinstance(before, dict):
                value = {**before, **value}
            settings[key], origins[key] = value, origin
    ordered = {key: settings[key] for key in schema.table("cluster") if key in settings}
    return Cluster(_substituted(ordered), origins)


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
            settings = _object(clusters, name, path)
            layers.setdefault(name, list(shared)).append((origin, settings))
    return layers


def user_name() -> str:
    """Return the name of the user, as directories of the user are named."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


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
        settings = [
            (origin, layer["hostnames"]) for origin, layer in layers if "hostnames" in layer
        ]
        for origin, hostnames in settings[-1:]:
            _check("hostnames", hostnames, origin)
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
    layers: list[tuple[str, Mapping[str, Any]]] = []
    table = schema.table("cluster")
    for key, spec in table.items():
        for variable in (spec.get("variable"), f"OELLM_{key.upper()}"):
            if variable and environ.get(variable):
                layers.append((variable, {key: _parsed(key, environ[variable], variable)}))
    settings = {f"OELLM_{key.upper()}" for key in table}
    for variable in environ:
        if variable.startswith("OELLM_") and variable not in settings | _OTHER_VARIABLES:
            raise UsageError(
                f"{variable}: no setting has this variable{nearest(variable, settings)}"
            )
    return layers


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
    return origin, {key: _parsed(key, value, "--set")}


def _parsed(key: str, text: str, origin: str) -> Any:
    """Return the value that a text from the command line or the environment stands for."""
    kind = schema.table("cluster").get(key, {}).get("type")
    if text == "":
        return None
    if kind == "list" and not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    if kind in ("list", "map"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"{origin}: {key}: expected JSON: {error.msg} in {text!r}") from None
    if kind == "integer":
        try:
            return int(text)
        except ValueError:
            raise UsageError(f"{origin}: {key}: expected an integer, got {text!r}") from None
    return text


_DURATION = re.compile(r"(?:\d+-)?\d+(?::\d{1,2}){0,2}|UNLIMITED|INFINITE", re.IGNORECASE)


def _check(key: str, value: Any, origin: str) -> None:
    """Raise InputError unless `key` is a setting and `value` is of its type."""
    table = schema.table("cluster")
    if key not in table:
        raise InputError(f"no setting is called {key!r}{nearest(key, table)}", origin)
    spec = table[key]
    expected = {"list": list, "map": dict, "integer": int}.get(spec["type"], str)
    if value is None:
        return
    if not isinstance(value, expected) or isinstance(value, bool):
        raise InputError(f"expected {spec['type']}, got {value!r}", origin, column=key)
    if expected is int and value < 1:
        raise InputError(f"expected a positive integer, got {value}", origin, column=key)
    if "choices" in spec and value not in spec["choices"]:
        raise InputError(
            f"expected one of {', '.join(spec['choices'])}, got {value!r}", origin, column=key
        )
    if spec["type"] == "duration" and not _DURATION.fullmatch(value):
        raise InputError(f"expected {spec['unit']}, got {value!r}", origin, column=key)
    for item in _members(value):
        if item is None or isinstance(item, (dict, list, bool)):
            raise InputError(f"expected texts or numbers, got {item!r}", origin, column=key)
        _check_text(key, str(item), origin)


def _check_text(key: str, text: str, origin: str) -> None:
    # Setup lines are shell on purpose; nothing else may reach over a line's end in the script.
    if key != "setup" and re.search(r"[\x00-\x1f\x7f]", text):
        raise InputError("expected no line ends or control characters", origin, column=key)
    if re.search(r"[\ud800-\udfff]", text):
        raise InputError(f"expected UTF-8 text, got {text!r}", origin, column=key)


def _members(value: Any) -> Iterator[Any]:
    """Yield the texts and numbers that a value consists of; null in a map unsets its member."""
    if isinstance(value, dict):
        yield from value
        yield from (item for item in value.values() if item is not None)
    else:
        yield from value if isinstance(value, list) else [value]


def _remedy(key: str) -> str:
    if key in schema.table("cluster"):
        return f"which is not set: set it with --set {key}=… or OELLM_{key.upper()}"
    return f"but no setting is called {key!r}{nearest(key, schema.table('cluster'))}"


def _substituted(settings: dict[str, Any]) -> dict[str, Any]:
    """Replace `{other_setting}`, `{user}` and `{home}` in all texts."""
    fixed = {"user": user_name(), "home": os.path.expanduser("~")}

    def text(value: str, seen: tuple[str, ...]) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: reference(match.group(1), seen), value)

    def reference(key: str, seen: tuple[str, ...]) -> str:
        if key in fixed:
            return fixed[key]
        if key in seen:
            raise UsageError(f"setting {seen[0]}: {{{key}}} refers to itself")
        if not isinstance(settings.get(key), str):
            raise UsageError(f"setting {seen[0]} needs {{{key}}}, {_remedy(key)}")
        return text(settings[key], (*seen, key))

    def value(item: Any, key: str) -> Any:
        if isinstance(item, str):
            return text(item, (key,))
        if isinstance(item, list):
            return [value(element, key) for element in item]
        if isinstance(item, dict):
            return {name: value(part, key) for name, part in item.items() if part is not None}
        return item

    # Setup lines are shell, where braces have a meaning of their own.
    resolved = {
        key: item if key in ("setup", "hostnames") else value(item, key)
        for key, item in settings.items()
        if item is not None
    }
    for key, item in resolved.items():
        # A job runs elsewhere than the command that reads the setting.
        if schema.table("cluster")[key]["type"] == "path" and item:
            resolved[key] = os.path.abspath(os.path.expanduser(item))
    return resolved
