"""Where each evaluation of a manifest stands first, for a million rows and more."""

from __future__ import annotations

from array import array


class FirstLines:
    """The line of each eval_id that was added, in 18 to 36 bytes for each (54 while it grows).

    A dict takes over 100. This is a hash table with open addressing; an eval_id, of evenly
    spread bits, is its own hash. A slot without a line is free.
    """

    def __init__(self) -> None:
        self._ids = array("Q", [0]) * 1024
        self._lines = array("I", [0]) * 1024
        self._count = 0

    def add(self, eval_id: str, line: int) -> int | None:
        """Remember the line (from 1) of an eval_id; return the one it has already, if it has."""
        number = int(eval_id, 16)
        slot = self._slot(number)
        first = self._lines[slot]
        if first:
            return first
        self._ids[slot] = number
        self._lines[slot] = line
        self._count += 1
        if self._count * 3 > len(self._ids) * 2:
            self._grow()
        return None

    def _slot(self, number: int) -> int:
        """Return the slot of an identity, or the free one for it."""
        ids, lines = self._ids, self._lines
        last = len(ids) - 1
        slot = number & last
        while lines[slot] and ids[slot] != number:
            slot = (slot + 1) & last
        return slot

    def _grow(self) -> None:
        ids, lines = self._ids, self._lines
        self._ids = array("Q", [0]) * (2 * len(ids))
        self._lines = array("I", [0]) * (2 * len(lines))
        for number, line in zip(ids, lines, strict=True):
            if line:
                slot = self._slot(number)
                self._ids[slot], self._lines[slot] = number, line
