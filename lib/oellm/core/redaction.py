"""Keeping secrets (tokens, passwords, keys) out of files and logs."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping

from oellm.core.regular_files import open_regular

MARK = "[redacted]"

# Names of environment variables whose values are secret, except those that give its place.
_SECRET = re.compile(
    r"(TOKEN|API_?KEY|ACCESS_?KEY|ACCESS_KEY_ID|PRIVATE_?KEY|PASSWD|PASSPHRASE|JWT|_PAT)$"
    r"|SECRET|PASSWORD",
    re.IGNORECASE,
)
_PLACE = re.compile(r"_(PATH|FILE|DIR|HOME|URL)$", re.IGNORECASE)
# A shorter value may be a word of any text. In characters.
_SHORTEST = 8
# A longer file holds no token. In bytes.
_LONGEST_FILE = 4096
_HUB_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")
_JSON_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
# Levels of quotation: a traceback quotes a text, and JSON may quote the traceback.
_QUOTATIONS = 2


def redact(text: str) -> str:
    """Return a text with this process's secrets replaced by `[redacted]`."""
    return _own().redact(text)


def redact_json(data: bytes) -> bytes:
    """Return JSON with this process's secrets in its strings replaced by `[redacted]`."""
    return _own().redact_json(data)


class Redaction:
    """Removes secrets from texts, and everything that looks like a token of the hub."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings = {spelling for secret in secrets for spelling in _spellings(secret)}
        # The longest first, because a secret may be part of another.
        self._spellings = sorted(spellings, key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Return a text without the secrets, plain or quoted."""
        data = text.encode("utf-8", "surrogatepass")
        return self._replaced(data).decode("utf-8", "surrogatepass") if self._is_in(data) else text

    def redact_json(self, data: bytes) -> bytes:
        """Return JSON without the secrets; it stays JSON, whatever they are.

        If there are none in it, this costs one search for each secret, at several GB/s.
        """
        return _JSON_STRING.sub(self._redacted_string, data) if self._is_in(data) else data

    def _is_in(self, data: bytes) -> bool:
        found = any(spelling in data for spelling in self._spellings)
        return found or _HUB_TOKEN.search(data) is not None

    def _replaced(self, data: bytes) -> bytes:
        for spelling in self._spellings:
            data = data.replace(spelling, MARK.encode())
        return _HUB_TOKEN.sub(MARK.encode(), data)

    def _redacted_string(self, match: re.Match[bytes]) -> bytes:
        import json

        # Decoded first: in the quoted form, a replacement could begin inside an escape sequence.
        text = json.loads(match[0])
        clean = self.redact(text)
        return match[0] if clean == text else json.dumps(clean).encode()


def secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the secrets in an environment, and those in the token files that it names."""
    values = [value for name, value in environ.items() if is_secret(name)]
    for value in (*values, *_file_contents(environ)):
        if len(value.strip()) >= _SHORTEST:
            yield value.strip()


@functools.cache
def _own() -> Redaction:
    return Redaction(secrets(os.environ))


def is_secret(name: str) -> bool:
    """Return whether a variable of this name holds a secret."""
    return bool(_SECRET.search(name)) and not _PLACE.search(name)


def _file_contents(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the content of the files in which the hub's library keeps the token of a login."""
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    homes = (environ.get("HF_HOME"), os.path.join(cache, "huggingface"), "~/.cache/huggingface")
    places = [os.path.join(home, "token") for home in homes if home]
    for place in dict.fromkeys([environ.get("HF_TOKEN_PATH") or "", *places]):
        path = os.path.expanduser(place)
        # A FIFO would wait for a writer.
        with contextlib.suppress(OSError), open_regular(path, any_link=True) as stream:
            yield stream.read(_LONGEST_FILE).decode("utf-8", "ignore")


def _spellings(secret: str) -> set[bytes]:
    """Return the forms of a secret in a text: plain, and quoted by Python or JSON."""
    import json

    texts = {secret}
    for _ in range(_QUOTATIONS):
        quoted = {spelled[1:-1] for text in texts for spelled in (json.dumps(text), repr(text))}
        texts |= quoted | {json.dumps(text, ensure_ascii=False)[1:-1] for text in texts}
    return {text.encode("utf-8", "surrogatepass") for text in texts}
