"""The Hugging Face hub: its caches, its models, and what its errors mean."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from oellm.core.retry import Backoff, Result, retry

_GATED = "gated: accept the licence on its page, then set HF_TOKEN"
_NO_REVISION = "there is no such revision: check the branches and tags"
_NOT_FOUND = "not found on the hub: check the name; if it is private, set HF_TOKEN"
_NO_HUB = "the server that answers is not a hub: check HF_ENDPOINT and HTTPS_PROXY"
ROOM = "free some space, or set hf_home to a file system with more room"
# Class of an error, words in its text, meaning; the first that fits counts. `datasets` wraps the
# hub's errors without keeping them.
_MEANINGS = (
    ("GatedRepoError", "", _GATED),
    ("DatasetNotFoundError", "gated", _GATED),
    ("RevisionNotFoundError", "", _NO_REVISION),
    ("DatasetNotFoundError", "Revision", _NO_REVISION),
    ("RepositoryNotFoundError", "", _NOT_FOUND),
    ("DatasetNotFoundError", "", _NOT_FOUND),
    ("DisabledRepoError", "", "disabled by the hub: its page says why"),
    ("FileMetadataError", "", _NO_HUB),
    ("ProxyError", "", "the proxy refuses: check HTTPS_PROXY"),
    (
        "SSLCertVerificationError",
        "",
        "the hub's certificate is not trusted here: set SSL_CERT_FILE to a file with your site's",
    ),
    (
        "OSError",
        "Consistency check failed",
        "the download is shorter or longer than the hub said: try again later",
    ),
    # How the library for Xet storage words it.
    ("Exception", "No space left on device", f"the file system is full: {ROOM}"),
    ("Exception", "Disk quota exceeded", f"the disk quota is used up: {ROOM}"),
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
# The HTTP library differs between releases of huggingface_hub and datasets; the names do not.
_CONNECTION_ERRORS = {"ConnectionError", "Timeout", "TimeoutError", "TransportError"}
# Answers that another try may better.
_PASSING = (408, 429, 500, 502, 503, 504)
_LASTING = {"SSLCertVerificationError", "ProxyError"}
# huggingface_hub first retries by itself: five times within some 30 s, or for as long as a
# Retry-After says.
_BACKOFF = Backoff(total_s=300.0, first_s=2.0, longest_s=60.0)


@dataclass(frozen=True)
class Problem:
    """Why something could not be fetched, and what to do about it."""

    text: str
    # Whether no answer came from the hub.
    unreachable: bool = False


def problem(error: BaseException, address: str, page: str = "") -> Problem:
    """Return what an error of the hub's libraries means for the user.

    `page` is the address of the repository's page, where that is known.
    """
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, OSError) and link.errno in _ERRNOS:
            place = f"{link.filename}: " if link.filename else ""
            return Problem(place + _ERRNOS[link.errno])
    for name, words, meaning in _MEANINGS:
        if any(name in _classes(link) and words in str(link) for link in chain):
            return Problem(f"{meaning} ({page})" if page and meaning == _GATED else meaning)
    if status := _status(chain):
        return Problem(_STATUSES.get(status, f"{complaint(error)}: try again later"))
    if any(_is_silence(link) for link in chain):
        return no_answer(address)
    return Problem(f"{type(error).__name__}: {first_line(error)}")


def may_pass(error: BaseException) -> bool:
    """Return whether an error may be gone at another try."""
    chain = list(_chain(error))
    if any(_classes(link) & _LASTING for link in chain):
        return False
    if status := _status(chain):
        return status in _PASSING
    # What came was cut short; and whatever the library for Xet storage says.
    cut = any("Consistency check failed" in str(link) for link in chain)
    return cut or any(_is_silence(link) or "Xet" in type(link).__name__ for link in chain)


def retry_request(
    name: str, report: Callable[[str], None], request: Callable[[], Result]
) -> Result:
    """Return what a request to the hub returns, calling it again while the hub is out of order.

    Waits for as long as the hub asks; `report` is told of each retry, under `name`. Raises the last
    error after five minutes, and any error that will not pass at once.
    """
    return retry(
        request,
        _BACKOFF,
        may_pass=may_pass,
        before_retry=lambda error, wait: report(
            f"{name}: {complaint(error)}; next try in {wait:.0f} s"
        ),
        requested_pause=requested_pause,
    )


def complaint(error: BaseException) -> str:
    """Return in a few words what went wrong with a request that may be tried again."""
    chain = list(_chain(error))
    status = _status(chain)
    if status == 429:
        return "the hub limits requests"
    return f"the hub answers {status}" if status else first_line(error) or type(error).__name__


def requested_pause(error: BaseException) -> float | None:
    """Return the seconds that the hub asks to wait, if it does."""
    for link in _chain(error):
        headers = getattr(getattr(link, "response", None), "headers", {})
        if (text := headers.get("Retry-After", "")).isdecimal():
            return float(text)
        # As drafted for HTTP: `"api";r=0;t=55`.
        if match := re.search(r"r=0;t=(\d+)", headers.get("RateLimit", "").replace(" ", "")):
            return float(match[1])
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not a frame of asterisks."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line.strip("*")), "")


def no_answer(address: str) -> Problem:
    """Return the problem of a hub that cannot be reached."""
    text = (
        f"{address} cannot be reached: run it on a machine with internet access, or set HTTPS_PROXY"
    )
    return Problem(text, unreachable=True)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(chain: Iterable[BaseException]) -> int:
    """Return the HTTP status of the answer that an error is about, 0 where there was none."""
    for link in chain:
        status = getattr(getattr(link, "response", None), "status_code", 0)
        if isinstance(status, int) and status >= 400:
            return status
    return 0


def _classes(error: BaseException) -> set[str]:
    return {base.__name__ for base in type(error).__mro__}


def _is_silence(error: BaseException) -> bool:
    # In these words `datasets` says offline that a data set is there but not this part of it.
    partly = str(error).startswith("Couldn't find cache for")
    return partly or bool(_classes(error) & _CONNECTION_ERRORS)
