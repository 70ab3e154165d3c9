"""The settings of a row that a program knows: their values, and what is wrong with them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from oellm.core.display import shorten_end
from oellm.errors import nearest
from oellm.frameworks.program import RowSetting
from oellm.frameworks.stages import EVALUATE
from oellm.manifest.rows import Row

# Kinds of values, as RowSetting.kind names them.
POSITIVE = "a positive integer"
COUNT = "an integer of 0 or more"
NUMBER = "a number of 0 or more"
SHARE = "a number above 0, at most 1"
SWITCH = "true or false"
TEXT = "a text"

# Columns that several frameworks read, as they name them.
_COLUMNS = {
    "apply_chat_template": RowSetting(SWITCH),
    "limit": RowSetting("a number of problems or a share"),
    "batch_size": RowSetting("sequences of one problem per forward pass", "1"),
    "trust_remote_code": RowSetting(SWITCH, "false"),
    "include_path": RowSetting("a directory with a file of problems"),
    "log_samples": RowSetting(SWITCH, "false", stage=EVALUATE),
}
_SHOWN = 60
_SWITCHES = {"true": True, "false": False, "1": True, "0": False}


def shared_columns(*names: str) -> dict[str, RowSetting]:
    """Return the settings of columns that several frameworks read alike."""
    return {name: _COLUMNS[name] for name in names}


def read_settings(row: Row, settings: Mapping[str, RowSetting]) -> dict[str, Any]:
    """Return the value of each setting in gen_kwargs: the row's own, else the default.

    A value has the Python type of its kind; settings without a default that the row does not set
    are left out. Raises InputError for a key that is no setting and for a value of another kind.
    """
    given = row.typed.gen_kwargs
    return _read(row, given, settings, columns=dict.fromkeys(given, "gen_kwargs"))


def read_model_arguments(row: Row, settings: Mapping[str, RowSetting]) -> dict[str, Any]:
    """Return the value of each argument of the model, as `read_settings` does.

    The column dtype is the argument of this name, unless the row has it already.
    """
    columns = dict.fromkeys(row.typed.model_args, "model_args")
    columns |= {name: "model_path" for name, _ in row.model.arguments}
    given = row.model_arguments
    if row["dtype"] and "dtype" not in given:
        given = {**given, "dtype": row["dtype"]}
        columns["dtype"] = "dtype"
    return _read(row, given, settings, columns=columns)


def _read(
    row: Row,
    given: Mapping[str, Any],
    settings: Mapping[str, RowSetting],
    *,
    columns: Mapping[str, str],
) -> dict[str, Any]:
    """Return the values of settings; `columns` says where each given one stands."""
    suite = row.typed.eval_suite
    for name in given:
        if name not in settings:
            hint = nearest(name, settings) or f"; known are {', '.join(settings)}"
            raise row.error(columns[name], f"{suite} has no setting {name!r}{hint}")
    values = {}
    for name, setting in settings.items():
        if (text := given.get(name, setting.default or None)) is None:
            continue
        try:
            values[name] = _parse(setting, text)
        except ValueError as error:
            raise row.error(columns[name], f"{name}: {error}") from None
    return values


def refuse(row: Row, reasons: Mapping[str, str]) -> None:
    """Raise InputError for the first of some columns that has a value other than its default.

    `reasons` says by column why the framework cannot use it.
    """
    for column, reason in reasons.items():
        if row.value(column) not in (None, "", False, {}):
            raise row.error(column, f"{row.typed.eval_suite} {reason}; leave the cell empty")


def read_seed(row: Row) -> int | None:
    """Return the one seed of a row; None if its cell is empty.

    Raises InputError if it has several.
    """
    seeds = set(row.typed.seed or ())
    if not seeds:
        return None
    seed = seeds.pop()
    if seeds or seed is None:
        raise row.error("seed", f"expected one seed, got {row['seed']!r}")
    return seed


def _parse(setting: RowSetting, value: Any) -> Any:
    text = value if isinstance(value, str) else str(value)
    parsed = _PARSERS.get(setting.kind, str)(text.strip())
    is_choice = not setting.choices or text.strip() in setting.choices
    if parsed is None or not is_choice or isinstance(value, (dict, list)):
        expected = f"one of {', '.join(setting.choices)}" if setting.choices else setting.kind
        raise ValueError(f"expected {expected}, got {shorten_end(text, _SHOWN)!r}")
    return parsed


def _integer(text: str, least: int) -> int | None:
    number = int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
    return number if number is not None and number >= least else None


def _number(text: str, most: float = math.inf) -> float | None:
    match = re.fullmatch(r"[0-9]*\.?[0-9]+(e[+-]?[0-9]{1,3})?|[0-9]+\.", text, re.IGNORECASE)
    number = float(text) if match else math.inf
    return number if math.isfinite(number) and number <= most else None


_PARSERS: dict[str, Callable[[str], Any]] = {
    POSITIVE: lambda text: _integer(text, 1),
    COUNT: lambda text: _integer(text, 0),
    NUMBER: _number,
    SHARE: lambda text: _number(text, 1.0) or None,
    SWITCH: lambda text: _SWITCHES.get(text.lower()),
    TEXT: lambda text: text,
}
