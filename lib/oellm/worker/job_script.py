"""The batch script that has started this worker.

Slurm may kill the script alone (proctrack/linuxproc). The worker then stops in order: a job that
has ended must not go on evaluating beside the next one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from oellm.core.processes import children
from oellm.runs import provenance

# The script tells its number in this variable.
_VARIABLE = "OELLM_SCRIPT_PID"
# The names of a process that is a batch script: what Slurm calls it, and the shell.
_NAMES = ("slurm_script", "bash")


class JobScript:
    """The script, if there is one that this process can see.

    Attributes:
        exists: Whether a script has started this worker.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        text = environ.get(_VARIABLE, "")
        self.exists = text.isascii() and text.isdecimal()
        self._pid = int(text) if self.exists else 0
        self._started: int | None = None
        # In a container that shows no other processes, the number may be somebody else's.
        if self.exists and provenance.process_name(self._pid) in _NAMES:
            self._started = provenance.start_ticks(self._pid)

    def follow(self) -> None:
        """Ask the kernel for SIGTERM at the end of the script, if that is this process's parent.

        In a container it is not; there, `has_ended` must be asked.
        """
        if self._started is not None and os.getppid() == self._pid:
            children.signal_at_parents_end(signal.SIGTERM)
        if self.has_ended():
            os.kill(os.getpid(), signal.SIGTERM)

    def has_ended(self) -> bool:
        """Return whether the script has ended."""
        return self._started is not None and provenance.start_ticks(self._pid) != self._started
