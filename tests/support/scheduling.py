"""Which tests share a process when pytest-xdist runs them in several."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

REAL_SLURM = "tests/real_slurm"


class FileScheduling(LoadFileScheduling):  # type: ignore[misc]
    """Keeps the tests of a file in one process, and likewise all tests on real Slurm.

    Not `--dist loadgroup`: pytest 9.2 ignores how pytest-xdist 3.8 writes groups into node ids.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def group(nodeid: str) -> str:
    """Return the name of the tests that share a process with this one."""
    file = nodeid.partition("::")[0]
    return REAL_SLURM if file.startswith(f"{REAL_SLURM}/") else file
