"""Manuals: what their options are, and how people see them."""

from __future__ import annotations

from oellm.manuals.usage import Manual, arrange

TEXT = """tool: do a thing.

Usage:
  tool [options] [--set=KEY]... [--] FILE

Options:
  --set=KEY    The same as
               --other, but longer.
  --wait[=FOR]  Wait.
  --dry-run    Do nothing.

Manual.

Example:
  tool --set a
"""


def test_a_line_of_a_description_is_no_option() -> None:
    parsed = Manual(TEXT).parse(["--set", "a", "--dry_run", "--wait", "f"])
    assert parsed == {
        "--set": ["a"],
        "--dry-run": True,
        "--wait": "",
        "--": False,
        "FILE": "f",
    }
    assert Manual(TEXT).repeats("--set")
    assert not Manual(TEXT).repeats("--wait")


def test_examples_are_shown_after_the_usage() -> None:
    shown = arrange(TEXT)
    assert shown.index("FILE\n\nExample:\n  tool --set a\n\nOptions:\n  --set") > 0
    assert shown.endswith("\n\nManual.")
    assert arrange(shown) == shown
