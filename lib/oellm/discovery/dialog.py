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
_OTHER = "another value"


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
    for setting in propose(chosen).open_settings():
        show(propose(chosen))
        # What was just decided may have settled this one.
        if any(each.key == setting.key for each in propose(chosen).open_settings()):
            chosen[setting.key] = _ask_value(setting)
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
        chosen[key] = _ask_value(present.get(key) or ProposedSetting(key, None, ""))


def _choose_present(present: Mapping[str, ProposedSetting]) -> str:
    lines = {f"{key}: {show_value(each.value)}": key for key, each in present.items()}
    return lines[menus.choose("Which setting?", list(lines))]


def _choose_absent(present: Mapping[str, ProposedSetting]) -> str:
    lines = {
        f"{key}: {spec['meaning']}": key
        for key, spec in schema.table("cluster").items()
        if key not in present and key != "name"
    }
    return lines[menus.choose("Which setting?", list(lines))]


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
    meaning = schema.table("cluster")[key]["meaning"]
    before = _as_text(setting.value)
    answer = menus.ask(f"{key} ({meaning})", default=before, check=_checker(key))
    return settings.parse_setting(key, answer.strip(), key)


def _as_text(value: Any) -> str:
    """Return a value as people type it after `--set key=`."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _checker(key: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            settings.check_setting(key, settings.parse_setting(key, text.strip(), key), key)
        except OellmError as error:
            return str(error)
        return ""

    return check
