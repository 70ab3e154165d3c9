"""Calls of the program git that ask nobody anything and run nothing of a repository.

The user's own configuration counts: credential helpers, proxies, other addresses (insteadOf).
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from oellm.core.display import format_size
from oellm.core.redaction import redact
from oellm.task_sources.errors import SourceError

# Variables that lead git into another repository, or let ssh open a dialog.
_OF_REPOSITORY = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_NAMESPACE", "GIT_COMMON_DIR"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_TEMPLATE_DIR"),
    *("SSH_ASKPASS", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE", "GIT_QUARANTINE_PATH"),
)
_SETTINGS = (
    *("core.hooksPath=/dev/null", "core.fsmonitor=false", "fetch.recurseSubmodules=false"),
    *("submodule.recurse=false", "gc.auto=0", "maintenance.auto=false"),
    # In bytes per second, and seconds: a connection that is slower for so long is given up.
    *("http.lowSpeedLimit=1000", "http.lowSpeedTime=60"),
)
# A remote that is a directory may lead to no network, and the other way round.
_PROTOCOLS = {"file": "file", "https": "https:ssh", "ssh": "https:ssh"}
# In bytes.
LONGEST_FILE = 2**31
_SIGXFSZ = -signal.SIGXFSZ
# What git says if nothing answers.
_SILENCE = (
    *("Could not resolve host", "Failed to connect", "Couldn't connect", "Connection refused"),
    *("Connection timed out", "Network is unreachable", "No route to host", "Operation timed out"),
    *("Temporary failure in name resolution", "Connection reset", "Operation too slow"),
    *("Could not resolve proxy", "Name or service not known"),
)


class GitError(SourceError):
    """git has failed; the text is what it said.

    Attributes:
        said: All that it said.
    """

    def __init__(self, message: str, said: str = "", *, is_unreachable: bool = False) -> None:
        super().__init__(message, is_unreachable=is_unreachable)
        self.said = said


def run_git(*arguments: str, url: str, limit_s: float, repository: Path | None = None) -> bytes:
    """Return what git prints; it may talk to `url` alone.

    Raises GitError, which names the URL, if git is missing, fails, or takes longer than `limit_s`.
    """
    process = start_git(*arguments, url=url, repository=repository, stdin=subprocess.DEVNULL)
    try:
        output, errors = process.communicate(timeout=limit_s)
    except BaseException as error:
        # Its children, such as ssh, too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        text = f"{url}: git {arguments[0]} has not ended within {limit_s:.0f} s"
        raise GitError(text, is_unreachable=True) from None
    if process.returncode == 0:
        return output
    raise _explain(url, process.returncode, said=redact(errors.decode("utf-8", "replace")))


def start_git(
    *arguments: str, url: str, repository: Path | None, stdin: int
) -> subprocess.Popen[bytes]:
    """Start git in a process group of its own; raises GitError if there is none."""
    place = () if repository is None else (f"--git-dir={repository}",)
    settings = [text for setting in _SETTINGS for text in ("-c", setting)]
    try:
        return subprocess.Popen(
            ["git", *place, *settings, *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if stdin == subprocess.DEVNULL else subprocess.DEVNULL,
            env=_environment(os.environ, url),
            cwd="/",
            # Without a terminal, neither git nor ssh can ask for a password.
            start_new_session=True,
            preexec_fn=_limit_files,  # noqa: PLW1509
        )
    except FileNotFoundError:
        raise GitError(f"{url}: git, which fetches it, is not on PATH of this machine") from None


def _environment(environ: Mapping[str, str], url: str) -> dict[str, str]:
    kept = {name: text for name, text in environ.items() if name not in _OF_REPOSITORY}
    protocols = _PROTOCOLS[url.partition("://")[0]]
    asks_nobody = {"GIT_TERMINAL_PROMPT": "0", "SSH_ASKPASS_REQUIRE": "never", "LC_ALL": "C"}
    return {"GIT_ASKPASS": "true", **kept, **asks_nobody, "GIT_ALLOW_PROTOCOL": protocols}


def _limit_files() -> None:
    """Limit the size of what comes in as one file; nobody knows it before."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    soft = LONGEST_FILE if hard == resource.RLIM_INFINITY else min(LONGEST_FILE, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _explain(url: str, status: int, said: str) -> GitError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if status == _SIGXFSZ or "File too large" in said or "signal 25" in said:
        return GitError(f"{url}: it is larger than {format_size(LONGEST_FILE)}", said)
    if any(words in said for words in _SILENCE):
        reason = next(line for line in lines if any(words in line for words in _SILENCE))
        return GitError(f"{url} cannot be reached: {reason}", said, is_unreachable=True)
    # What ssh or a credential helper says comes before what git makes of it.
    told = [line for line in lines if not line.lower().startswith(("warning:", "hint:"))]
    reason = told[0] if told else f"it ended with status {status}"
    return GitError(f"{url}: git says: {reason}", said)
