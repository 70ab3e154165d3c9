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

# oellm-RANDOM; the link in it says whose it is: HOST-PID-TICKS.
_PREFIX = "oellm-"
_OWNER = "owner"
_OWNED = re.compile(r"(.+)-(\d+)-(\d+)")
# A socket's name may have 107 bytes; below TMPDIR, Python adds up to 33 of them, and this up to 18.
_LONGEST_ROOT = 107 - 33 - 18
_SHORT_ROOT = "/tmp"  # noqa: S108
# The variables that lead to its parts.
_VARIABLES = {
    "HOME": "home",
    "TMPDIR": "tmp",
    "XDG_CACHE_HOME": "cache",
    "MPLCONFIGDIR": "matplotlib",
}


class PrivateDirectory:
    """A directory for one start of a program, which is removed afterwards.

    Attributes:
        path: Its path.
        files: The directory of the files that the worker writes for the program.
    """

    def __init__(self) -> None:
        root = _root()
        remove_leftovers(root)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        owner = f"{socket.gethostname()}-{os.getpid()}-{provenance.start_ticks() or 0}"
        (self.path / _OWNER).symlink_to(owner)
        self.files = self.path / "files"
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


def remove_leftovers(root: str) -> None:
    """Remove the directories of workers of this user on this machine that were killed."""
    for name in os.listdir(root):
        path = os.path.join(root, name)
        if name.startswith(_PREFIX) and _is_left(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_left(path: str) -> bool:
    """Return whether a directory is that of a worker of this user that has ended here."""
    try:
        match = _OWNED.fullmatch(os.readlink(os.path.join(path, _OWNER)))
        is_ours = os.lstat(path).st_uid == os.geteuid()
    except OSError:
        return False
    if match is None or not is_ours or match[1] != socket.gethostname():
        return False
    return provenance.start_ticks(int(match[2])) != int(match[3])


def _root() -> str:
    """Return the directory of temporary files, or a short one if no socket's name fits there."""
    root = tempfile.gettempdir()
    is_long = len(os.fsencode(root)) > _LONGEST_ROOT
    return _SHORT_ROOT if is_long and os.access(_SHORT_ROOT, os.W_OK) else root
