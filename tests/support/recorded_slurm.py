"""A login node of a cluster whose Slurm says what tests/discovery/slurm has."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.processes import ROOT, clean_environment
from support.submitting import FakeSlurm

RECORDED = ROOT / "tests" / "discovery" / "slurm"
SITES = sorted(path.name for path in RECORDED.iterdir() if path.is_dir())
# Variables by which this machine would name its own file systems.
_PLACES = ("WORK", "PROJECT", "SCRATCH", "FLASH", "FAST", "MODULEPATH")


class LoginNode(FakeSlurm):
    """A login node that oellm does not know; `base` is a directory that its nodes see, too."""

    def __init__(self, directory: Path, site: str) -> None:
        super().__init__(directory)
        shutil.copytree(RECORDED / site, self._recorded)
        self.base = directory / "shared"
        self.base.mkdir()
        self.file = directory / "own" / "clusters.json"
        self.env |= dict.fromkeys(_PLACES, "")
        self.env |= {"WORK": str(self.base), "OELLM_CONFIG": str(self.file)}

    @property
    def _recorded(self) -> Path:
        return self.directory / "recorded"

    def environment(self, home: Path) -> dict[str, str]:
        """Return the whole environment, for commands that a test starts itself."""
        return clean_environment(home, self.env)

    def lose(self, *names: str) -> None:
        """Let commands fail from now on, by the names of their recorded answers."""
        for name in names:
            (self._recorded / name).unlink()

    def fail(self, text: str) -> None:
        """Let scontrol fail from now on, with a text."""
        (self._recorded / "fails").write_text(text)

    def hang(self) -> None:
        """Let scontrol give no answer from now on."""
        (self._recorded / "hangs").touch()
