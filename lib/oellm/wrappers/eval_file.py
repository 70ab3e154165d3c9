"""Evaluations described in TOML: the options of the commands that schedule-eval runs, as keys."""

from __future__ import annotations

import datetime
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from oellm.core import schema
from oellm.errors import InputError, UsageError, nearest
from oellm.manuals.loading import check_options, load_manual
from oellm.wrappers.schedule import CHAIN, option_forms, option_name

NAME = "eval.toml"
# Options that describe no evaluation, but one call of a command.
_OF_A_CALL = ("--help", "--version", "--dry_run", "--explain", "--set", "--cluster")
_CLUSTER = "cluster"


def decode(content: bytes, source: str) -> str:
    """Return the text of such a file; raises InputError if it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"expected UTF-8 text, got byte 0x{byte:02x}", source) from None


def read_options(text: str, source: str) -> list[str]:
    """Return the options that a file stands for, as words: `--limit=5`.

    Its keys are options without their hyphens; the table `cluster` has settings of the cluster, and
    its `name`. Raises InputError with the line for bad TOML, an unknown key, or a value that an
    option cannot have.
    """
    return list(_EvalFile(text, source).words())


def dump_options(words: Iterable[str]) -> str:
    """Return options as such a file."""
    values: dict[str, list[str]] = {}
    # A later setting overrides an earlier one.
    cluster: dict[str, str] = {}
    for word in words:
        name, _, value = word[2:].partition("=")
        if name in ("set", "cluster"):
            key, _, setting = value.partition("=") if name == "set" else ("name", "", value)
            cluster[key] = setting
        else:
            values.setdefault(name, []).append(value)
    forms = option_forms()
    lines = [f"{name} = {_toml(found, forms[f'--{name}'])}\n" for name, found in values.items()]
    if cluster:
        lines.append(f"\n[{_CLUSTER}]\n")
    settings = (f"{_toml_text(key)} = {_toml_text(text)}\n" for key, text in cluster.items())
    return "".join([*lines, *settings])


def _toml(values: list[str], form: str) -> str:
    # A switch, or an option whose value was left out.
    if not form or (form == "[=" and values == [""]):
        return "true"
    return _toml_text(values if len(values) > 1 else values[0])


def _toml_text(value: str | list[str]) -> str:
    # A string of JSON is one of TOML, too, but for pairs of surrogates and for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


class _EvalFile:
    def __init__(self, text: str, source: str) -> None:
        self._text, self._source = text, source
        self._forms = option_forms()
        self._columns = schema.table("manifest")
        self._keys = [
            *(name[2:] for name in self._forms if name not in _OF_A_CALL),
            _CLUSTER,
        ]

    def words(self) -> Iterator[str]:
        seen: dict[str, str] = {}
        for key, value in self._read().items():
            if key == _CLUSTER:
                yield from self._settings(value)
                continue
            name = key.replace("-", "_")
            if name not in self._keys:
                hint = nearest(key, self._keys)
                raise self._error(key, f"unknown key {key!r}{hint}")
            if name in seen:
                raise self._error(key, f"{seen[name]!r} is the same option; leave out one of them")
            seen[name] = key
            words = list(self._option(key, value))
            for word in words:
                self._require_value(key, word)
            yield from words

    def _read(self) -> dict[str, Any]:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        try:
            return tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"expected TOML: {error}", self._source) from None

    def _option(self, key: str, value: Any) -> Iterator[str]:
        name = "--" + key.replace("-", "_")
        form = self._forms[name]
        if isinstance(value, bool) and form != "=":
            # A switch, or an option whose value may be left out.
            yield from [name + form.strip("[")] if value else []
            return
        if not form:
            raise self._error(key, "expected true or false")
        values = value if isinstance(value, list) else [value]
        if isinstance(value, list) and not _may_repeat(name):
            raise self._error(key, "expected one value, got a list")
        for item in values:
            # Only the arguments of a model or of its generation are objects.
            kind = self._columns.get(name[2:], {}).get("type")
            if isinstance(item, list) or (isinstance(item, dict) and kind != "arguments"):
                raise self._error(key, f"expected a text or a number, got {item}")
            yield f"{name}={self._text_of(key, item)}"

    def _require_value(self, key: str, word: str) -> None:
        """Raise InputError for a value that one of the commands would refuse."""
        from oellm.manifest.cells import find_fault

        name, _, text = word[2:].partition("=")
        if self._columns.get(name, {}).get("flag"):
            fault = find_fault(name, text) if text else ""
            if fault:
                raise self._error(key, fault)
            return
        for command in CHAIN[1:]:
            if f"--{name}" not in load_manual(command).forms:
                continue
            try:
                check_options(command, [word])
            except UsageError as error:
                label, _, fault = str(error).partition(": ")
                # An option may also be wrong because it is alone.
                if label == f"--{name}":
                    raise self._error(key, fault) from None

    def _text_of(self, key: str, value: Any, table: str = "") -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, datetime.time):
            return value.isoformat()
        try:
            return json.dumps(value)
        except TypeError:
            # TOML has dates, which JSON has not.
            problem = f"expected a text, a number or a time of day, got {value}"
            raise self._error(key, problem, table) from None

    def _settings(self, table: Any) -> Iterator[str]:
        if not isinstance(table, Mapping):
            raise self._error(_CLUSTER, "expected a table: [cluster]")
        from oellm.clusters.settings import setting_name

        settings = schema.table("cluster")
        known = ["name"]
        for setting, spec in settings.items():
            known += [setting, *([spec["other_name"]] if "other_name" in spec else [])]
        for key, value in table.items():
            if key.partition(".")[0] not in known:
                raise self._error(key, f"unknown setting {key!r}{nearest(key, known)}", _CLUSTER)
            if key == "name":
                yield f"--cluster={value}"
                continue
            if isinstance(value, dict) and settings[setting_name(key)]["type"] != "map":
                raise self._error(key, "expected no table", _CLUSTER)
            # A member of a map leaves the cluster's other members.
            members = value.items() if isinstance(value, dict) and value else [("", value)]
            for member, item in members:
                text = self._text_of(key, item, _CLUSTER)
                setting = f"{key}{'.' * bool(member)}{member}={text}"
                self._require_setting(key, setting)
                yield f"--set={setting}"

    def _require_setting(self, key: str, text: str) -> None:
        from oellm.clusters import settings
        from oellm.clusters.cluster import read_override

        try:
            for name, value in read_override(text).values.items():
                settings.check_setting(name, value, "")
        except InputError as error:
            raise self._error(key, error.message, _CLUSTER) from None
        except UsageError as error:
            raise self._error(key, str(error).removeprefix("--set: "), _CLUSTER) from None

    def _error(self, key: str, message: str, table: str = "") -> InputError:
        return InputError(message, self._source, self._line(key, table))

    def _line(self, key: str, table: str) -> int | None:
        """Return the line of a key: the first in its table, or of the table itself."""
        within = ""
        for number, line in enumerate(self._text.splitlines(), 1):
            head = re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line)
            if head:
                within = head[1]
            if (head and not table and within == key) or (
                within == table and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*[.=]""", line)
            ):
                return number
        return None


def _may_repeat(name: str) -> bool:
    return any(load_manual(command).repeats(name) for command in CHAIN)


def merge_options(of_file: Iterable[str], given: Iterable[str]) -> list[str]:
    """Return the options of a file, with those of the command line in the place of theirs.

    Settings of the cluster (--set) are added, since a later one overrides an earlier one.
    """
    given = list(given)
    names = {option_name(word) for word in given} - {"--set"}
    return [*(word for word in of_file if option_name(word) not in names), *given]
