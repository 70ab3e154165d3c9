"""tqdm draws nothing once bars are silenced, whatever its caller says."""

from __future__ import annotations

import subprocess
import sys

_DRAW = """
from tqdm import tqdm, trange
from tqdm.auto import tqdm as auto
{silence}
for bar in (tqdm(range(3), disable=False), trange(3, disable=False), auto(range(3), disable=False)):
    assert list(bar) == [0, 1, 2]
"""
_SILENCE = "from oellm.core.processes.progress_bars import silence_bars; silence_bars()"


def bars(silence: str, environment: dict[str, str] | None = None) -> str:
    """Return what a process of its own draws on stderr."""
    command = [sys.executable, "-c", _DRAW.format(silence=silence)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stderr


def test_silenced_bars_draw_nothing() -> None:
    assert "3/3" in bars("")
    assert bars(_SILENCE) == ""


def test_the_variable_of_tqdm_does_not_help() -> None:
    # As soon as it does, the change to tqdm can go.
    assert "3/3" in bars("", {"TQDM_DISABLE": "1"})
