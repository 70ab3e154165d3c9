"""The private directory of an attempt, on the node's own disk: home, temporary files, the model.

Its path is short, because the names of sockets in it may have a hundred bytes.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from oellm.runs import provenance

# oellm-HOST-PID-TICKS-RANDOM
_NAME = re.compile(r"oellm-(.+)-(\d+)-(\d+)-[^-]+")
# The variables that lead to its parts.
_VARIABLES = {
    "HOME": "home",
    "TMPDIR": "tmp",
    "XDG_CACHE_HOME": "cache",
    "MPLCONFIGDIR": "matplotlib",
}
_FILES = "files"


class PrivateDirectory:
    """A directory for one start of a program, which is removed afterwards.

    Attributes:
        path: Its path.
        files: The directory of the files that the worker writes for the program.
    """

    def __init__(self) -> None:
        remove_leftovers()
        ticks = provenance.start_ticks() or 0
        prefix = f"oellm-{socket.gethostname()}-{os.getpid()}-{ticks}-"
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self.files = self.path / _FILES
        for name in _VARIABLES.values():
            (self.path / name).mkdir(mode=0o700)
        # In a sandbox another user may read them.
        self.files.mkdir(mode=0o755)

    def variables(self) -> dict[str, str]:
        """Return the environment variables that lead a program to the parts of the directory."""
        return {name: str(self.path / part) for name, part in _VARIABLES.items()}

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Write the files of a command; raises OSError."""
        for name, content in files.items():
            path = self.files / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def link_model(self, directory: str) -> str:
        """Make a directory of links to the files of a model, and return it.

        Frameworks write caches into the model's directory; these end here.
        """
        target = self.path / "model" / (os.path.basename(os.path.abspath(directory)) or "model")
        target.mkdir(parents=True)
        for name in os.listdir(directory):
            (target / name).symlink_to(os.path.join(os.path.abspath(directory), name))
        return str(target)

    def remove(self) -> None:
        """Remove it, as far as possible."""
        shutil.rmtree(self.path, ignore_errors=True)


def remove_leftovers() -> None:
    """Remove the directories of workers of this user on this machine that were killed."""
    root = tempfile.gettempdir()
    for name in os.listdir(root):
        match = _NAME.fullmatch(name)
        if match is None or match[1] != socket.gethostname():
            continue
        path = os.path.join(root, name)
        is_running = provenance.start_ticks(int(match[2])) == int(match[3])
        try:
            is_ours = os.lstat(path).st_uid == os.geteuid()
        except OSError:
            continue
        if is_ours and not is_running:
            shutil.rmtree(path, ignore_errors=True)
