"""Explains errors of the hub's libraries to the user, and tells which may pass by themselves.

An error is recognised by its class. A library that is not imported has raised nothing, so that
explaining an error imports nothing.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from oellm.core.log import Log
from oellm.core.retry import Backoff, Result, retry

_GATED = "gated: accept the licence on its page, then set HF_TOKEN"
_NO_REVISION = "there is no such revision: check the branches and tags"
_NOT_FOUND = "not found on the hub: check the name; if it is private, set HF_TOKEN"
_NO_HUB = "the server that answers is not a hub: check HF_ENDPOINT and HTTPS_PROXY"
_UNTRUSTED = (
    "the hub's certificate is not trusted here: set SSL_CERT_FILE to a file with your site's"
)
ROOM = "free some space, or set hf_home to a file system with more room"

# The HTTP libraries of the supported releases of huggingface_hub (requests, then httpx, then
# httpx2), and of datasets (requests).
_PROXY_ERRORS = (
    "requests.exceptions.ProxyError",
    "urllib3.exceptions.ProxyError",
    "httpx.ProxyError",
    "httpx2.ProxyError",
)
_CONNECTION_ERRORS = (
    "builtins.ConnectionError",
    "builtins.TimeoutError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
    "urllib3.exceptions.TimeoutError",
    "httpx.TransportError",
    "httpx2.TransportError",
)
_UNTRUSTED_ERRORS = ("ssl.SSLCertVerificationError",)
# Errors of the library for Xet storage.
_XET_ERRORS = (
    "huggingface_hub.errors.XetDownloadError",
    "hf_xet.XetAuthenticationError",
    "hf_xet.XetObjectNotFoundError",
)
_NO_DATA_SET = ("datasets.exceptions.DatasetNotFoundError",)


class _Meaning(NamedTuple):
    """The meaning of errors of these classes whose text has these words."""

    classes: Sequence[str]
    words: str
    text: str


# The first that fits counts. `datasets` wraps the hub's errors without keeping them.
_MEANINGS = (
    _Meaning(("huggingface_hub.errors.GatedRepoError",), "", _GATED),
    _Meaning(_NO_DATA_SET, "gated", _GATED),
    _Meaning(("huggingface_hub.errors.RevisionNotFoundError",), "", _NO_REVISION),
    _Meaning(_NO_DATA_SET, "Revision", _NO_REVISION),
    _Meaning(("huggingface_hub.errors.RepositoryNotFoundError",), "", _NOT_FOUND),
    _Meaning(_NO_DATA_SET, "", _NOT_FOUND),
    _Meaning(
        ("huggingface_hub.errors.DisabledRepoError",), "", "disabled by the hub: its page says why"
    ),
    _Meaning(("huggingface_hub.errors.FileMetadataError",), "", _NO_HUB),
    _Meaning(_PROXY_ERRORS, "", "the proxy refuses: check HTTPS_PROXY"),
    _Meaning(_UNTRUSTED_ERRORS, "", _UNTRUSTED),
    _Meaning(
        ("builtins.OSError",),
        "Consistency check failed",
        "the download is shorter or longer than the hub said: try again later",
    ),
    # In the words of the library for Xet storage.
    _Meaning(
        ("builtins.Exception",), "No space left on device", f"the file system is full: {ROOM}"
    ),
    _Meaning(("builtins.Exception",), "Disk quota exceeded", f"the disk quota is used up: {ROOM}"),
)
_STATUSES = {
    401: "the token is wrong or has expired: set HF_TOKEN, or log in again (hf auth login)",
    403: "no access: the token's account or its permissions do not allow it (hf auth whoami)",
    404: "the hub does not have a file that it lists: tell the owner",
    429: "the hub limits requests: set HF_TOKEN, which raises the limit, or try again later",
}
_NO_ACCESS = "no permission to write there: ask for it (chmod g+rwX), or set hf_home elsewhere"
_ERRNOS = {
    errno.EACCES: _NO_ACCESS,
    errno.EPERM: _NO_ACCESS,
    errno.EROFS: "the file system is read-only: set hf_home to a directory that you can write",
}
# HTTP statuses for which a retry may succeed.
_TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)
# huggingface_hub first retries by itself: five times within some 30 s, or for as long as a
# Retry-After header says.
_BACKOFF = Backoff(total_s=300.0, first_s=2.0, longest_s=60.0)


@dataclass(frozen=True)
class Problem:
    """Why something could not be fetched, and what to do about it.

    Attributes:
        text: The message for the user.
        unreachable: Whether the hub gave no answer.
    """

    text: str
    unreachable: bool = False


def explain_error(error: BaseException, address: str, page: str = "") -> Problem:
    """Return what an error of the hub's libraries means for the user.

    `page` is the address of the repository's page, if it is known.
    """
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, OSError) and link.errno in _ERRNOS:
            place = f"{link.filename}: " if link.filename else ""
            return Problem(place + _ERRNOS[link.errno])
    for meaning in _MEANINGS:
        if any(_is_any(link, meaning.classes) and meaning.words in str(link) for link in chain):
            text = meaning.text
            return Problem(f"{text} ({page})" if page and text == _GATED else text)
    if status := _http_status(chain):
        return Problem(_STATUSES.get(status, f"{summarize_error(error)}: try again later"))
    if any(_is_silence(link) for link in chain):
        return unreachable_hub(address)
    return Problem(f"{type(error).__name__}: {first_line(error)}")


def unreachable_hub(address: str) -> Problem:
    """Return the problem of a hub that cannot be reached."""
    text = (
        f"{address} cannot be reached: run it on a machine with internet access, or set HTTPS_PROXY"
    )
    return Problem(text, unreachable=True)


def may_pass(error: BaseException) -> bool:
    """Return whether an error may be gone at the next try."""
    chain = list(_chain(error))
    if any(_is_any(link, (*_PROXY_ERRORS, *_UNTRUSTED_ERRORS)) for link in chain):
        return False
    if status := _http_status(chain):
        return status in _TRANSIENT_STATUSES
    is_cut_short = any("Consistency check failed" in str(link) for link in chain)
    return is_cut_short or any(_is_silence(link) or _is_any(link, _XET_ERRORS) for link in chain)


def retry_request(name: str, log: Log, request: Callable[[], Result]) -> Result:
    """Return what a request to the hub returns; call it again while the hub is out of order.

    Waits for as long as the hub asks, and logs each retry under `name`. Raises the last error after
    five minutes, and at once any error that will not pass.
    """
    return retry(
        request,
        _BACKOFF,
        may_pass=may_pass,
        before_retry=lambda error, wait: log(
            f"{name}: {summarize_error(error)}; next try in {wait:.0f} s"
        ),
        requested_pause=requested_pause,
    )


def summarize_error(error: BaseException) -> str:
    """Return in a few words why a request failed that may be retried."""
    status = _http_status(_chain(error))
    if status == 429:
        return "the hub limits requests"
    return f"the hub answers {status}" if status else first_line(error) or type(error).__name__


def requested_pause(error: BaseException) -> float | None:
    """Return the seconds that the hub asks to wait, if it does."""
    for link in _chain(error):
        headers = getattr(getattr(link, "response", None), "headers", {})
        text = headers.get("Retry-After", "")
        if text.isascii() and text.isdecimal():
            return float(text)
        # The header of a draft standard: `"api";r=0;t=55`.
        rate_limit = headers.get("RateLimit", "").replace(" ", "")
        if match := re.search(r"r=0;t=([0-9]+)", rate_limit):
            return float(match[1])
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not a frame of asterisks."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line.strip("*")), "")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _http_status(chain: Iterable[BaseException]) -> int:
    """Return the HTTP status of the answer that an error is about, 0 if there was no answer."""
    for link in chain:
        status = getattr(getattr(link, "response", None), "status_code", 0)
        if isinstance(status, int) and status >= 400:
            return status
    return 0


def _is_any(error: BaseException, classes: Iterable[str]) -> bool:
    """Return whether an error is an instance of a class, each given as `module.Class`."""
    for name in classes:
        module, _, class_name = name.rpartition(".")
        found = getattr(sys.modules.get(module), class_name, None)
        if found is not None and isinstance(error, found):
            return True
    return False


def _is_silence(error: BaseException) -> bool:
    """Return whether an error says that no answer came."""
    # `datasets` says so offline if another part of the data set is in the cache.
    is_partly_cached = str(error).startswith("Couldn't find cache for")
    return is_partly_cached or _is_any(error, _CONNECTION_ERRORS)
