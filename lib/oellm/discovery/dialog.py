"""The conversation in which somebody changes a proposal on a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from oellm.clusters import settings
from oellm.core import menus, schema
from oellm.discovery.listing import show_value
from oellm.discovery.own_clusters import check_name
from oellm.discovery.proposal import Proposal
from oellm.discovery.proposed_setting import ProposedSetting
from oellm.errors import OellmError

_CHANGE, _ADD, _RENAME = "change a setting", "add a setting", "change the name of the cluster"
_STOP = "stop, and write nothing"
_OTHER, _ADD_MEMBER = "another value", "add a member"
_CHANGE_IT, _REMOVE = "change it", "remove it"
_BACK, _UNSET = "go back", "no value"


def discuss(
    propose: Callable[[Mapping[str, Any]], Proposal],
    decided: Mapping[str, Any],
    show: Callable[[Proposal], None],
    goal: str,
) -> Proposal | None:
    """Return the proposal as somebody wants it, None to write nothing.

    `propose` makes it from what has been decided, `show` shows it, and `goal` says what becomes of
    it. What must be filled in is asked for first.
    """
    chosen, name = dict(decided), ""
    proposal = propose(chosen)
    # What is decided may settle others.
    while settings_left := proposal.open_settings():
        show(proposal)
        chosen[settings_left[0].key] = _ask_value(settings_left[0])
        proposal = propose(chosen)
    while True:
        proposal = propose(chosen)
        proposal = proposal._replace(name=name or proposal.name)
        show(proposal)
        write = f"write it: {goal}"
        action = menus.choose("What next?", [write, _CHANGE, _ADD, _RENAME, _STOP], default=write)
        if action == write:
            return proposal
        if action == _STOP:
            return None
        if action == _RENAME:
            name = menus.ask("Name of the cluster:", default=proposal.name, check=check_name)
            continue
        present = {each.key: each for each in proposal.settings}
        key = _choose_present(present) if action == _CHANGE else _choose_absent(present)
        if key != _BACK:
            chosen |= _ask_setting(present.get(key) or ProposedSetting(key, None, ""), chosen)


def _choose_present(present: Mapping[str, ProposedSetting]) -> str:
    lines = {f"{key}: {show_value(each.value)}": key for key, each in present.items()}
    answer = menus.choose("Which setting?", [*lines, _BACK])
    return lines.get(answer, answer)


def _choose_absent(present: Mapping[str, ProposedSetting]) -> str:
    described = {
        key: spec["meaning"]
        for key, spec in schema.table("cluster").items()
        if key not in present and key != "name"
    }
    return menus.choose_described("Which setting?", described, [_BACK])


def _ask_setting(setting: ProposedSetting, decided: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what somebody decides about a setting: its key and value, or nothing."""
    if schema.table("cluster")[setting.key]["type"] != "map":
        return {setting.key: _ask_value(setting)}
    members = _ask_member(setting.key, setting.value or {})
    if not members:
        return {}
    return {setting.key: {**(decided.get(setting.key) or {}), **members}}


def _ask_member(key: str, before: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a member of a map with its new value, None to remove it; nothing to leave the map."""
    lines = {f"{name}={value}": name for name, value in before.items() if value is not None}
    answer = (
        menus.choose(f"Which of {key}?", [*lines, _ADD_MEMBER, _BACK]) if lines else _ADD_MEMBER
    )
    if answer == _BACK:
        return {}
    name = lines.get(answer, "")
    if name:
        action = menus.choose(f"{answer}:", [_CHANGE_IT, _REMOVE, _BACK])
        if action != _CHANGE_IT:
            return {name: None} if action == _REMOVE else {}
    else:
        name = menus.ask(
            f"Name of the member of {key}:",
            check=lambda text: (
                _find_fault(key, {text.strip(): "x"}) if text.strip() else "expected a name"
            ),
            meaning=schema.table("cluster")[key]["meaning"],
        ).strip()
    value = menus.ask(
        f"{key}.{name}:",
        default=str(before.get(name) or ""),
        check=lambda text: _find_fault(key, {name: text.strip()}),
    )
    return {name: value.strip()}


def _ask_value(setting: ProposedSetting) -> Any:
    """Return a value for a setting, None to leave it out."""
    key = setting.key
    if setting.others:
        kept = [show_value(setting.value)] if setting.value is not None else []
        others = {str(other): other.value for other in setting.others}
        answer = menus.choose(f"{key}:", [*kept, *others, _OTHER])
        if answer in others:
            return settings.parse_setting(key, others[answer], key)
        if answer in kept:
            return setting.value
    spec = schema.table("cluster")[key]
    before = _as_text(setting.value)
    possible = ["true", "false"] if spec["type"] == "boolean" else spec.get("choices")
    if possible:
        answer = menus.choose(f"{key}:", [*possible, _UNSET], default=before)
        return None if answer == _UNSET else settings.parse_setting(key, answer, key)
    answer = menus.ask(f"{key}:", default=before, check=_checker(key), meaning=spec["meaning"])
    return settings.parse_setting(key, answer.strip(), key)


def _as_text(value: Any) -> str:
    """Return a value as people type it after `--set key=`."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _checker(key: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            return _find_fault(key, settings.parse_setting(key, text.strip(), key))
        except OellmError as error:
            return _describe_fault(key, error)

    return check


def _find_fault(key: str, value: Any) -> str:
    """Return why a setting cannot have a value; empty if it can."""
    try:
        settings.check_setting(key, value, key)
    except OellmError as error:
        return _describe_fault(key, error)
    return ""


def _describe_fault(key: str, error: OellmError) -> str:
    """Return what is wrong without the setting's name, which the question has."""
    # The name stands for the source and for the column of an error.
    return str(error).removeprefix(f"{key}: ").removeprefix(f"{key}: ")
