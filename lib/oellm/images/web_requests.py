"""Requests over HTTP, with errors that say what happened and whether it may pass by itself.

Credentials go only to the host that they are for, and no message shows an address that a server
redirected to: such addresses may carry a signature.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import ssl
import string
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO
from urllib.parse import quote, urljoin, urlsplit

from oellm.core.log import Log
from oellm.core.regular_files import STATE
from oellm.core.retry import Backoff, Result, retry
from oellm.errors import OellmError, UsageError

# Seconds without a byte after which a request has failed.
_SILENCE_S = 60.0
_BACKOFF = Backoff(total_s=300.0, first_s=1.0, longest_s=60.0)
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_BROKEN = (
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    http.client.IncompleteRead,
    http.client.BadStatusLine,
)
_SCHEMES = ("http", "https")
_NO_ADDRESS = ": the server names an address that http cannot ask for"
_MEANINGS = {
    401: "no access without a login: use `apptainer registry login`, docker's login or HF_TOKEN",
    403: "no access: the account does not allow it",
    404: "there is no such image",
    416: "the server has less than it said",
}


class TransferError(OellmError):
    """Something could not be transferred.

    Attributes:
        code: The HTTP status of the answer, 0 if there was none.
        may_pass: Whether a retry may succeed.
        pause_s: The seconds that the server asks to wait, None if it does not.
        challenge: How the server wants a login, empty if it does not.
    """

    def __init__(self, text: str, *, code: int = 0, may_pass: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.may_pass = may_pass
        self.pause_s: float | None = None
        self.challenge = ""


class SilentServerError(TransferError):
    """The server cannot be reached."""


def is_loopback(host: str) -> bool:
    """Return whether a host, perhaps with a port, is this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def join_address(base: str, place: str, label: str) -> str:
    """Return the address that a server names, which may be relative to its own.

    Raises TransferError, whose text begins with `label`, for what http cannot ask for.
    """
    try:
        parts = urlsplit(urljoin(base, place))
        is_address = parts.scheme in _SCHEMES and parts.hostname and parts.port != 0
    except ValueError:
        is_address = False
    if not place or not is_address:
        # It may carry a signature, so it is not shown.
        raise TransferError(label + _NO_ADDRESS)
    # As urllib does it for redirects: http has no other letters.
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    return parts._replace(path=path, query=query).geturl()


def require_secure(url: str, *, insecure: bool) -> None:
    """Raise UsageError if others could read or change what is sent to or from an address."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not insecure and not is_loopback(parts.netloc):
        raise UsageError(f"{parts.netloc} over plain http: only with --insecure")


def send(
    url: str,
    *,
    label: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
    body: bytes | BinaryIO | None = None,
    insecure: bool = False,
) -> http.client.HTTPResponse:
    """Send a request; return the answer, of which nothing is read yet.

    `secrets` are headers for this host alone. Raises TransferError, whose text begins with `label`.
    """
    url = join_address(url, url, label)
    require_secure(url, insecure=insecure)
    request = urllib.request.Request(url, data=body, headers=dict(headers or {}), method=method)  # noqa: S310
    for name, value in (secrets or {}).items():
        if not re.fullmatch(r"[\x20-\x7e\xa0-\xff]*", value):
            raise TransferError(
                f"{label}: the token or password has letters that no request can have: log in again"
            )
        request.add_unredirected_header(name, value)
    # A proxy cannot reach this machine.
    proxies: dict[str, str] | None = {} if is_loopback(urlsplit(url).netloc) else None
    opener = urllib.request.build_opener(
        _Redirects(label, insecure=insecure), urllib.request.ProxyHandler(proxies)
    )
    try:
        answer: http.client.HTTPResponse = opener.open(request, timeout=_SILENCE_S)
    except urllib.error.HTTPError as error:
        raise _refusal(error, label) from None
    except (OSError, http.client.HTTPException) as error:
        raise interruption(error, label) from None
    except ValueError:
        raise TransferError(label + _NO_ADDRESS) from None
    return answer


def interruption(error: Exception, label: str) -> TransferError:
    """Return the error of a connection that could not be made, or broke."""
    reason = getattr(error, "reason", None) or error
    text = f"{label}: {_describe(reason)}"
    # A broken connection is one that was there: only then is it worth waiting for another.
    # urllib wraps a time-out only if it passed before there was a connection.
    is_broken = isinstance(reason, _BROKEN) or (reason is error and isinstance(error, TimeoutError))
    return TransferError(text, may_pass=True) if is_broken else SilentServerError(text)


def read_answer(answer: http.client.HTTPResponse, label: str) -> bytes:
    """Return the content of an answer, at most 1 MiB; raises TransferError if it ends early."""
    try:
        content = answer.read(STATE)
    except (OSError, http.client.HTTPException) as error:
        raise interruption(error, label) from None
    if answer.length and len(content) < STATE:
        # Before Python 3.12, read(N) raises no error if the answer ends too early.
        raise interruption(http.client.IncompleteRead(content), label)
    return content


def retry_transfer(action: Callable[[], Result], log: Log) -> Result:
    """Return what `action` returns; call it again after errors that may pass by themselves."""
    return retry(
        action,
        _BACKOFF,
        may_pass=lambda error: isinstance(error, TransferError) and error.may_pass,
        before_retry=lambda error, wait: log(f"{error}; next try in {wait:.0f} s"),
        requested_pause=lambda error: getattr(error, "pause_s", None),
    )


def _describe(reason: Any) -> str:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted here ({reason.verify_message}): "
            "set SSL_CERT_FILE to a file with your site's"
        )
    if isinstance(reason, http.client.IncompleteRead | http.client.RemoteDisconnected):
        return "the connection was cut"
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__)


def _refusal(error: urllib.error.HTTPError, label: str) -> TransferError:
    meaning = _MEANINGS.get(error.code, "try again later" if error.code in _TRANSIENT else "")
    reason = " ".join(str(error.reason).split())
    text = f"{label}: the server answers {error.code} {reason}"
    refusal = TransferError(
        f"{text}: {meaning}" if meaning else text,
        code=error.code,
        may_pass=error.code in _TRANSIENT,
    )
    pause = error.headers.get("Retry-After", "")
    refusal.pause_s = float(pause) if pause.isascii() and pause.isdecimal() else None
    refusal.challenge = error.headers.get("WWW-Authenticate", "")
    error.close()
    return refusal


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects: with the secrets only to the same host, and never to plain http."""

    def __init__(self, label: str, *, insecure: bool) -> None:
        self._label = label
        self._insecure = insecure

    def redirect_request(
        self, req: urllib.request.Request, *answer: Any
    ) -> urllib.request.Request | None:
        """Return the request for the new address, which comes last."""
        newurl = join_address(req.full_url, str(answer[-1]), self._label)
        require_secure(newurl, insecure=self._insecure)
        new = super().redirect_request(req, *answer)
        if new is not None and req.get_method() == "HEAD":
            # Before Python 3.13, it becomes a GET, which a signature for HEAD does not allow.
            new.method = "HEAD"
        old = urlsplit(req.full_url)
        if new is not None and urlsplit(newurl)[:2] == old[:2]:
            new.unredirected_hdrs.update(req.unredirected_hdrs)
        return new
