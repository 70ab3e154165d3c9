"""The environment variables of the Hugging Face libraries, and whether a hub answers."""

from __future__ import annotations

import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import MutableMapping
from http.client import HTTPException
from pathlib import Path

from oellm.errors import UsageError

_OFFLINE = (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_EVALUATE_OFFLINE",
)


# Each moves one cache away from HF_HOME, which is all that a job is told.
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


# Seconds within which a hub must answer at all.
_PATIENCE = 15.0


def configure(environ: MutableMapping[str, str], hf_home: str) -> list[str]:
    """Make `hf_home` the one cache, and downloads allowed; return the variables ignored for it.

    To be called before a Hugging Face library is imported: they read these variables only then.
    Raises OSError where the directory cannot be made, UsageError for a name that cannot be used.
    """
    if "$" in hf_home:
        # The libraries take it for a variable, which may be another one in a job.
        raise UsageError(f"hf_home: expected a path without '$', got {hf_home!r}")
    ignored = [name for name in (*_OFFLINE, *_CACHES) if environ.pop(name, "")]
    if hf_home:
        before = environ.get("HF_HOME") or os.path.join(
            environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
        )
        token = os.path.expanduser(os.path.join(before, "token"))
        # The user's own login counts, although HF_HOME may be a directory of the whole group.
        if os.path.exists(token):
            environ.setdefault("HF_TOKEN_PATH", token)
        home = Path(hf_home).expanduser().absolute()
        home.mkdir(parents=True, exist_ok=True)
        environ["HF_HOME"] = str(home)
    for name in _PROGRESS_BARS:
        environ.setdefault(name, "1")
    return ignored


def forbid(environ: MutableMapping[str, str]) -> None:
    """Keep the Hugging Face libraries from trying a hub that gives no answer, 25 s each time."""
    for name in _OFFLINE:
        environ[name] = "1"


def endpoint(environ: MutableMapping[str, str]) -> str:
    """Return the address of the hub."""
    return environ.get("HF_ENDPOINT") or "https://huggingface.co"


def silence(address: str) -> str:
    """Return why the hub gives no answer at all, or nothing where it gives any.

    Raises UsageError where the address is no URL.
    """
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"HF_ENDPOINT: expected http://… or https://…, got {address!r}")
    answers: list[str] = []
    # A thread, because looking up a name and trying all its addresses have no common time-out.
    thread = threading.Thread(target=lambda: answers.append(_asked(address)), daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return answers[0] if answers else f"no answer within {_PATIENCE:.0f} s"


def _asked(address: str) -> str:
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE):  # noqa: S310
            return ""
    except urllib.error.HTTPError:
        return ""
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        # The hub's own library may know the certificate that Python does not.
        return "" if isinstance(reason, ssl.SSLError) else str(reason)
