"""Where files are: the project's data, the user's configuration, the user's cache."""

from __future__ import annotations

import contextlib
import errno
import getpass
import grp
import os
import stat
from collections.abc import Mapping
from pathlib import Path


def data_file(*parts: str) -> Path:
    """Return the path of a data file, for example `data_file("templates", "x.j2")`."""
    package = Path(__file__).parent.parent
    packaged = package / "data"
    root = packaged if packaged.is_dir() else package.parent.parent
    return root.joinpath(*parts)


def make_directory(path: Path, *, parents: bool = True) -> None:
    """Create a directory to which nobody else may write, whatever the umask, if it is missing.

    With `parents` the directories above it are made, too, as the umask says. Raises PermissionError
    if there is a link of another user in its place, and NotADirectoryError for anything else.
    """
    if parents and not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o755, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
    if path.is_symlink() and path.lstat().st_uid not in (os.geteuid(), 0):
        raise PermissionError(errno.EPERM, "it is a link of another user", str(path))


def make_shared_directory(path: Path) -> None:
    """Create a directory in which users make directories of their own, if it is missing.

    If a group may write to the directory above, it may write to this one, too, whatever the umask.
    Nobody can rename or remove what is not theirs (the sticky bit).
    """
    if path.is_dir():
        return
    make_shared_directory(path.parent)
    # Another process may have made it in the meantime.
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o1777)
        mode = stat.S_IMODE(path.parent.stat().st_mode)
        if mode & 0o022 == 0o020:
            path.chmod(mode | stat.S_ISVTX)


def user_name() -> str:
    """Return the name of the user, as directories of the user are named."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def group_names() -> list[str]:
    """Return the names of the user's groups; those without a name are left out."""
    names = []
    for number in sorted({os.getegid(), *os.getgroups()}):
        with contextlib.suppress(KeyError, OSError):
            names.append(grp.getgrgid(number).gr_name)
    return names


def user_file(name: str, environ: Mapping[str, str]) -> Path | None:
    """Return the file of this name in the user's configuration, None if there is none."""
    path = configuration_directory(environ) / name
    return path if path.is_file() else None


def configuration_directory(environ: Mapping[str, str]) -> Path:
    """Return the user's configuration: oellm/ below XDG_CONFIG_HOME, else below ~/.config."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(home) / "oellm"


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Return where cache files are: OELLM_CACHE_DIR, else oellm/ below the user's cache."""
    if given := environ.get("OELLM_CACHE_DIR"):
        return Path(given)
    home = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "oellm"


def hub_token_files(environ: Mapping[str, str]) -> list[str]:
    """Return the files that may have the token of the Hugging Face hub, the first one first.

    Its library looks into the variable HF_TOKEN before all of them.
    """
    home = environ.get("HF_HOME") or os.path.join(
        environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    places = [environ.get("HF_TOKEN_PATH") or "", os.path.join(home, "token")]
    return [os.path.expanduser(place) for place in places if place]
