"""The environment variables of the Hugging Face libraries, and whether a hub answers."""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, MutableMapping
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from oellm.core.paths import hub_token_files, make_shared_directory
from oellm.core.regular_files import STATE, read_regular
from oellm.errors import UsageError

_OFFLINE = (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_EVALUATE_OFFLINE",
)
# Each moves one cache away from HF_HOME, which is the only variable that a job gets.
_CACHES = (
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_EVALUATE_CACHE",
    "HF_METRICS_CACHE",
    "HF_MODULES_CACHE",
    "TRANSFORMERS_CACHE",
)
_PROGRESS_BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
# Seconds within which a hub must give any answer.
_ANSWER_S = 15.0


def configure_libraries(environ: MutableMapping[str, str], hf_home: str) -> list[str]:
    """Make `hf_home` the only cache and allow downloads; return the variables ignored for that.

    Call it before a Hugging Face library is imported, because they read these variables only then.
    Raises OSError if the directory cannot be made, UsageError for a name that cannot be used.
    """
    if "$" in hf_home:
        # The libraries would expand it as a variable, which may differ in a job.
        raise UsageError(f"hf_home: expected a path without '$', got {hf_home!r}")
    ignored = [name for name in (*_OFFLINE, *_CACHES) if environ.pop(name, "")]
    if hf_home:
        token = hub_token_files(environ)[-1]
        # The user's own login counts, although HF_HOME may be a directory of the whole group.
        if os.path.exists(token):
            environ.setdefault("HF_TOKEN_PATH", token)
        home = Path(hf_home).expanduser().absolute()
        make_shared_directory(home)
        environ["HF_HOME"] = str(home)
    for name in _PROGRESS_BARS:
        environ.setdefault(name, "1")
    return ignored


def point_to_cache(environ: MutableMapping[str, str], hf_home: str) -> None:
    """Let this process look for what is cached where the jobs of a cluster look."""
    if hf_home:
        environ["HF_HOME"] = os.path.abspath(os.path.expanduser(hf_home))


def forbid_network(environ: MutableMapping[str, str]) -> None:
    """Keep the Hugging Face libraries from trying a silent hub, which takes 25 s each time."""
    for name in _OFFLINE:
        environ[name] = "1"


def find_token(environ: Mapping[str, str], hf_home: str) -> str:
    """Return the token that the hub's library would use with `hf_home`; empty if there is none."""
    if token := environ.get("HF_TOKEN", "").strip():
        return token
    for path in [*hub_token_files(environ), *([os.path.join(hf_home, "token")] if hf_home else [])]:
        with contextlib.suppress(OSError, ValueError):
            return read_regular(path, STATE).decode().strip()
    return ""


def hub_address(environ: Mapping[str, str]) -> str:
    """Return the address of the hub."""
    return environ.get("HF_ENDPOINT") or "https://huggingface.co"


def find_silence(address: str) -> str | None:
    """Return why the hub gives no answer at all, or None if it gives any answer.

    Raises UsageError if the address is no URL.
    """
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise UsageError(f"HF_ENDPOINT: expected http://… or https://…, got {address!r}")
    answers: list[str | None] = []
    # A thread, because looking up a name and trying all its addresses have no common time-out.
    thread = threading.Thread(target=lambda: answers.append(_ask(address)), daemon=True)
    thread.start()
    thread.join(_ANSWER_S)
    return answers[0] if answers else f"no answer within {_ANSWER_S:.0f} s"


def _ask(address: str) -> str | None:
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S):  # noqa: S310
            return None
    except urllib.error.HTTPError:
        return None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        # The hub's own library may know the certificate that Python does not.
        return None if isinstance(reason, ssl.SSLError) else str(reason)
