"""Keeping secrets (tokens, passwords, keys) out of files and logs."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping

MARK = "[redacted]"

# Names of environment variables whose values are secret, but for those that say where one is.
_SECRET = re.compile(
    r"(TOKEN|API_?KEY|ACCESS_?KEY|ACCESS_KEY_ID|PRIVATE_?KEY|PASSWD|PASSPHRASE|JWT|_PAT)$"
    r"|SECRET|PASSWORD",
    re.IGNORECASE,
)
_PLACE = re.compile(r"_(PATH|FILE|DIR|HOME|URL)$", re.IGNORECASE)
# Characters of a value below which it may be a word of any text.
_SHORTEST = 8
# Bytes of a token file: whatever is longer is none.
_LONGEST_FILE = 4096
_HUB_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")
_JSON_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
# A traceback quotes a text, and may itself be quoted in JSON.
_QUOTATIONS = 2


def redact(text: str) -> str:
    """Return a text with `[redacted]` in the place of this process's secrets."""
    return _own().redact(text)


def redact_json(data: bytes) -> bytes:
    """Return JSON with `[redacted]` in the place of this process's secrets in its strings."""
    return _own().redact_json(data)


class Redaction:
    """Secrets, and what takes them out of texts; whatever looks like a hub's token is one too."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings = {spelling for secret in secrets for spelling in _spellings(secret)}
        # The longest first: a secret may be a part of another one.
        self._spellings = sorted(spellings, key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Return a text without the secrets, as they are or quoted."""
        data = text.encode("utf-8", "surrogatepass")
        return self._replaced(data).decode("utf-8", "surrogatepass") if self._is_in(data) else text

    def redact_json(self, data: bytes) -> bytes:
        """Return JSON without the secrets; it stays JSON, whatever they are.

        Where there is nothing to take out, this costs a search for each secret, at some GB/s.
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

        # In the quoted form a replacement could begin inside an escape sequence.
        text = json.loads(match[0])
        clean = self.redact(text)
        return match[0] if clean == text else json.dumps(clean).encode()


def secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the secrets that an environment holds, and those in the token files it leads to."""
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
    """Yield what is in the files where the hub's library keeps the token of a login."""
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    homes = (environ.get("HF_HOME"), os.path.join(cache, "huggingface"), "~/.cache/huggingface")
    places = [os.path.join(home, "token") for home in homes if home]
    for place in dict.fromkeys([environ.get("HF_TOKEN_PATH") or "", *places]):
        path = os.path.expanduser(place)
        # Nothing that waits for a writer.
        if os.path.isfile(path):
            try:
                with open(path, encoding="utf-8") as stream:
                    yield stream.read(_LONGEST_FILE)
            except (OSError, UnicodeDecodeError):
                continue


def _spellings(secret: str) -> set[bytes]:
    """Return a secret as it may stand in a text: as it is, or as Python or JSON quote it."""
    import json

    texts = {secret}
    for _ in range(_QUOTATIONS):
        quoted = {spelled[1:-1] for text in texts for spelled in (json.dumps(text), repr(text))}
        texts |= quoted | {json.dumps(text, ensure_ascii=False)[1:-1] for text in texts}
    return {text.encode("utf-8", "surrogatepass") for text in texts}
