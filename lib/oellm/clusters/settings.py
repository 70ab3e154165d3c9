"""Settings of a cluster: the value that a text stands for, its type, references among them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from oellm.core import schema
from oellm.errors import InputError, UsageError, nearest

_DURATION = re.compile(r"(?:\d+-)?\d+(?::\d{1,2}){0,2}|UNLIMITED|INFINITE", re.IGNORECASE)
_TYPES = {"list": list, "map": dict, "integer": int, "switch": bool}
_SWITCHES = {"true": True, "false": False}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Shell and file name patterns, where braces have a meaning of their own.
_LITERAL = ("setup", "hostnames", "stage_dir")


def parse(key: str, text: str, origin: str) -> Any:
    """Return the value that a text from the command line or the environment stands for.

    Raises UsageError where the text is no value of the setting's type.
    """
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
    if kind == "switch":
        if text.lower() not in _SWITCHES:
            raise UsageError(f"{origin}: {key}: expected true or false, got {text!r}")
        return _SWITCHES[text.lower()]
    return text


def check(key: str, value: Any, origin: str) -> None:
    """Raise InputError unless `key` is a setting and `value` is of its type, or None."""
    table = schema.table("cluster")
    if key not in table:
        raise InputError(f"no setting is called {key!r}{nearest(key, table)}", origin)
    spec = table[key]
    if value is None:
        return
    expected: type = _TYPES.get(spec["type"], str)
    # To Python a bool is an int, too.
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        wanted = "true or false" if expected is bool else spec["type"]
        raise InputError(f"expected {wanted}, got {value!r}", origin, column=key)
    if expected is bool:
        return
    least = spec.get("minimum", 1)
    if isinstance(value, int) and value < least:
        wanted = "a positive integer" if least == 1 else f"at least {least}"
        raise InputError(f"expected {wanted}, got {value}", origin, column=key)
    if "choices" in spec and value not in spec["choices"]:
        raise InputError(
            f"expected one of {', '.join(spec['choices'])}, got {value!r}", origin, column=key
        )
    if spec["type"] == "duration" and not _DURATION.fullmatch(str(value)):
        raise InputError(f"expected {spec['unit']}, got {value!r}", origin, column=key)
    if isinstance(value, dict):
        _check_names(key, value, origin)
    _check_members(key, value, origin)


def _check_members(key: str, value: Any, origin: str) -> None:
    """Raise InputError unless all that a value consists of can be written into a script."""
    for item in _members(value):
        if item is None or isinstance(item, (dict, list, bool)):
            raise InputError(f"expected texts or numbers, got {item!r}", origin, column=key)
        _check_text(key, str(item), origin)


def _check_names(key: str, names: Iterable[str], origin: str) -> None:
    """Raise InputError where a map has a member that it must not have."""
    if key == "sbatch":
        for reason in filter(None, map(reason_against, names)):
            raise InputError(reason, origin, column=key)
    if key == "env":
        _check_variables(names, origin)


def _check_variables(names: Iterable[str], origin: str) -> None:
    """Raise InputError where a variable for jobs is none, or is named like a secret."""
    from oellm.core.redaction import is_secret

    for name in names:
        if not _VARIABLE.fullmatch(name):
            raise InputError(f"expected names of variables, got {name!r}", origin, column="env")
        if is_secret(name):
            raise InputError(
                f"expected no secret, got {name}, which run.json and the batch script would show: "
                "jobs need none",
                origin,
                column="env",
            )


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


def resolve(settings: Mapping[str, Any], fixed: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that are set, with `{reference}`s replaced and paths made absolute.

    A reference names another setting, or one of `fixed`. Raises UsageError where it names neither,
    or leads back to itself.
    """

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

    given = {key: value for key, value in settings.items() if value is not None}
    return {
        key: value if key in _LITERAL else _absolute(key, _mapped(value, key, text))
        for key, value in given.items()
    }


def _mapped(value: Any, key: str, text: Callable[[str, tuple[str, ...]], str]) -> Any:
    """Apply `text` to all texts in a value."""
    if isinstance(value, str):
        return text(value, (key,))
    if isinstance(value, list):
        return [_mapped(item, key, text) for item in value]
    if isinstance(value, dict):
        return {name: _mapped(part, key, text) for name, part in value.items() if part is not None}
    return value


def _absolute(key: str, value: Any) -> Any:
    """Make a path absolute: a job runs elsewhere than the command that reads the setting."""
    if value and schema.table("cluster")[key]["type"] == "path":
        return os.path.abspath(os.path.expanduser(value))
    return value


_NAME = re.compile(r"[a-z][a-z0-9-]*")


_ENVIRONMENT = "nothing of the submitting shell reaches a job; the setting env gives it variables"


_LOGS = "logs are looked for in slurm_logs/ of the run"


_SHAPE = "a job is one task on one node; whole_node and gpus_per_node say what it has there"


_REQUEUE = "a job that runs out of time requeues itself"


_ANSWER = "oe-submit reads what sbatch answers"


# Options that the run itself depends on, with what depends on it.
_REFUSED = {
    "array": "oe-submit chooses the elements of each job array",
    "error": _LOGS,
    "export": _ENVIRONMENT,
    "export-file": _ENVIRONMENT,
    "job-name": "people find the jobs of a run by it",
    "no-requeue": _REQUEUE,
    "nodes": _SHAPE,
    "ntasks": _SHAPE,
    "ntasks-per-node": _SHAPE,
    "output": _LOGS,
    "parsable": _ANSWER,
    "requeue": _REQUEUE,
    "signal": "the setting stop_before says when a job is told to stop",
    "test-only": _ANSWER,
    "time": "the plan chooses it; the setting time_limit is the most that it may be",
    "wait": _ANSWER,
    "wrap": "the batch script is the job",
}


def reason_against(name: str) -> str:
    """Return why an option cannot be given in the setting sbatch, nothing where it can."""
    if not _NAME.fullmatch(name):
        return f"expected the long name of an sbatch option without its dashes, got {name!r}"
    # sbatch also takes the beginning of a name for it.
    for refused, reason in _REFUSED.items():
        if refused.startswith(name):
            return f"--{refused} is not to be changed: {reason}"
    return ""
