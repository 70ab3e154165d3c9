"""Enumerations whose members are texts: states, phases, verdicts."""

from __future__ import annotations

from enum import Enum


class TextEnum(str, Enum):
    """An enumeration of texts; a member prints as its value.

    Python has this as enum.StrEnum from 3.11 on.
    """

    def __str__(self) -> str:
        return str(self.value)
