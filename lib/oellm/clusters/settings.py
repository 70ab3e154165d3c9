"""Settings of a cluster: how texts are parsed, values checked, and references resolved."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from oellm.core import schema
from oellm.core.schema import KINDS
from oellm.errors import InputError, UsageError, nearest

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Shell and file name patterns, in which braces have a meaning of their own.
_LITERAL = ("setup", "hostnames", "stage_dir")

# A larger integer is no number for all readers of JSON.
_LARGEST = 2**63 - 1

_SBATCH_OPTION = re.compile(r"[a-z][a-z0-9-]*")
_ENVIRONMENT = "nothing from the submitting shell reaches a job; use the setting env for variables"
_LOGS = "oe-status looks for logs in slurm_logs/ of the run"
_SHAPE = "a job is one task on one node; use whole_node and gpus_per_node"
_REQUEUE = "a job that runs out of time requeues itself"
_ANSWER = "oe-submit reads sbatch's answer"
# The sbatch options that a run depends on, and why.
_REFUSED = {
    "array": "oe-submit chooses the elements of each job array",
    "error": _LOGS,
    "export": _ENVIRONMENT,
    "export-file": _ENVIRONMENT,
    "job-name": "jobs have the name of their run; oe-render --name gives it one",
    "no-requeue": _REQUEUE,
    "nodes": _SHAPE,
    "ntasks": _SHAPE,
    "ntasks-per-node": _SHAPE,
    "output": _LOGS,
    "parsable": _ANSWER,
    "requeue": _REQUEUE,
    "signal": "use the setting stop_before",
    "test-only": _ANSWER,
    "time": "the plan chooses it; the setting time_limit is its upper limit",
    "wait": _ANSWER,
    "wrap": "the batch script is the job",
}


def setting_name(name: str) -> str:
    """Return a setting's own name, given that or its other name."""
    return _other_names().get(name, name)


def variables() -> dict[str, str]:
    """Return the setting of each environment variable that sets one."""
    found = {f"OELLM_{name.upper()}": key for name, key in _other_names().items()}
    for key, spec in schema.table("cluster").items():
        found |= {name: key for name in (spec.get("variable"), f"OELLM_{key.upper()}") if name}
    return found


@functools.cache
def _other_names() -> dict[str, str]:
    """Return the settings that have another name, by that name."""
    table = schema.table("cluster").items()
    return {spec["other_name"]: key for key, spec in table if "other_name" in spec}


def parse_setting(key: str, text: str, origin: str) -> Any:
    """Return the value of a text from the command line or the environment; None if it is empty.

    Raises UsageError if the text is no value of the setting's type.
    """
    spec = schema.table("cluster").get(key)
    if not text:
        return None
    if spec is None:
        # check_setting names the setting that may have been meant.
        return text
    try:
        return KINDS[spec["type"]].parse(text)
    except ValueError as error:
        raise UsageError(f"{origin}: {key}: {error}") from None


def join_values(before: Any, value: Any) -> Any:
    """Return the value of a setting that had another before.

    The members of a map are added to those before, but an empty map drops them.
    """
    is_added = bool(value) and isinstance(before, dict) and isinstance(value, dict)
    return before | value if is_added else value


def check_setting(key: str, value: Any, origin: str) -> None:
    """Raise InputError unless `key` is a setting and `value` is of its type, or None."""
    table = schema.table("cluster")
    if key not in table:
        hint = nearest(key, [*table, *_other_names()])
        raise InputError(f"unknown setting {key!r}{hint}", origin)
    spec = table[key]
    if value is None:
        return
    try:
        # A number may be given as text.
        value = KINDS[spec["type"]].check(value)
    except ValueError as error:
        raise InputError(str(error), origin, column=key) from None
    if spec["type"] == "boolean":
        return
    least = spec.get("minimum", 1)
    if isinstance(value, int) and value < least:
        wanted = "a positive integer" if least == 1 else f"at least {least}"
        raise InputError(f"expected {wanted}, got {value}", origin, column=key)
    if "choices" in spec and value not in spec["choices"]:
        choices = ", ".join(spec["choices"])
        raise InputError(f"expected one of {choices}, got {value!r}", origin, column=key)
    if key == "time_limit" and re.fullmatch(r"[0:-]+", value):
        text = f"expected a time above 0, got {value!r}: for Slurm that is no limit (UNLIMITED)"
        raise InputError(text, origin, column=key)
    if key == "sbatch":
        _check_sbatch_options(value, origin)
    if key == "env":
        _check_variables(value, origin)
    _check_parts(key, value, origin)


def _check_sbatch_options(names: Iterable[str], origin: str) -> None:
    """Raise InputError for a name that is no sbatch option, or one that a run depends on."""
    for name in names:
        if not _SBATCH_OPTION.fullmatch(name):
            text = f"expected the long name of an sbatch option without its dashes, got {name!r}"
            raise InputError(text, origin, column="sbatch")
        # sbatch also takes the beginning of a name for the whole.
        for refused, reason in _REFUSED.items():
            if refused.startswith(name):
                text = f"--{refused} must not be changed: {reason}"
                raise InputError(text, origin, column="sbatch")


def _check_variables(variables: Mapping[str, Any], origin: str) -> None:
    """Raise InputError for a name that no variable can have, and for a secret."""
    from oellm.core.redaction import is_secret

    for name, value in variables.items():
        if not _VARIABLE.fullmatch(name):
            raise InputError(f"expected names of variables, got {name!r}", origin, column="env")
        if is_secret(name, str(value)):
            raise InputError(
                f"expected no secret, got {name}: run.json and the batch script would show it, "
                "and jobs do not need it",
                origin,
                column="env",
            )


def _check_parts(key: str, value: Any, origin: str) -> None:
    """Raise InputError unless everything in a value can be written into a batch script."""
    from oellm.core.redaction import holds_secret

    for part in _parts(value):
        if part is None or isinstance(part, (dict, list, bool)):
            raise InputError(f"expected texts or numbers, got {part!r}", origin, column=key)
        if isinstance(part, int) and part > _LARGEST:
            raise InputError(f"expected at most {_LARGEST}, got {part}", origin, column=key)
        text = str(part)
        # Only setup lines, which are shell on purpose, may span lines of the script.
        if key != "setup" and re.search(r"[\x00-\x1f\x7f]", text):
            raise InputError("expected no line ends or control characters", origin, column=key)
        if holds_secret(text):
            raise InputError(
                "expected no token and no password: run.json and the batch script would show it, "
                "and jobs do not need it",
                origin,
                column=key,
            )
        if re.search(r"[\ud800-\udfff]", text):
            raise InputError(f"expected UTF-8 text, got {text!r}", origin, column=key)


def _parts(value: Any) -> Iterator[Any]:
    """Yield the texts and numbers in a value; null in a map unsets its member."""
    if isinstance(value, dict):
        yield from value
        yield from (item for item in value.values() if item is not None)
    else:
        yield from value if isinstance(value, list) else [value]


def resolve_references(settings: Mapping[str, Any], fixed: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that are set, with `{reference}`s replaced and paths made absolute.

    A reference names another setting, or one of `fixed`. Raises UsageError if it names neither, or
    leads back to itself.
    """

    def fill(value: str, seen: tuple[str, ...]) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: look_up(match.group(1), seen), value)

    def look_up(key: str, seen: tuple[str, ...]) -> str:
        if key in fixed:
            return fixed[key]
        if key in seen:
            raise UsageError(f"setting {seen[0]}: {{{key}}} refers to itself")
        if not isinstance(settings.get(key), str):
            raise UsageError(f"setting {seen[0]} needs {{{key}}}, {_remedy(key)}")
        return fill(settings[key], (*seen, key))

    given = {key: value for key, value in settings.items() if value is not None}
    return {
        key: value if key in _LITERAL else _with_absolute_path(key, _map_texts(value, key, fill))
        for key, value in given.items()
    }


def _remedy(key: str) -> str:
    if key in schema.table("cluster"):
        return f"which is not set: set it with --set {key}=… or OELLM_{key.upper()}"
    return f"but there is no setting {key!r}{nearest(key, schema.table('cluster'))}"


def _map_texts(value: Any, key: str, fill: Callable[[str, tuple[str, ...]], str]) -> Any:
    """Apply `fill` to all texts in a value."""
    if isinstance(value, str):
        return fill(value, (key,))
    if isinstance(value, list):
        return [_map_texts(item, key, fill) for item in value]
    if isinstance(value, dict):
        return {
            name: _map_texts(part, key, fill) for name, part in value.items() if part is not None
        }
    return value


def _with_absolute_path(key: str, value: Any) -> Any:
    """Make a path absolute: a job starts in another directory than the command."""
    if value and schema.table("cluster")[key]["type"] == "path":
        return os.path.abspath(os.path.expanduser(value))
    return value
