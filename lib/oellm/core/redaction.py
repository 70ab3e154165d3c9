"""Keeping secrets (tokens, passwords, keys) out of files and logs."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping

from oellm.core.paths import hub_token_files
from oellm.core.regular_files import open_regular

MARK = "[redacted]"

# Names of environment variables whose values are secret, except those that give its place.
_SECRET = re.compile(
    r"(TOKEN|API_?KEY|ACCESS_?KEY|ACCESS_KEY_ID|PRIVATE_?KEY|PASSWD|PASSPHRASE|JWT|_PAT"
    r"|CONNECTION_?STRING)$|SECRET|PASSWORD",
    re.IGNORECASE,
)
# An address that is itself the secret.
_WEBHOOK = re.compile(r"WEBHOOK(_?URL)?$", re.IGNORECASE)
# Names of passwords, unless the value is a path: GOOGLE_APPLICATION_CREDENTIALS, OLD_PWD.
_UNLESS_PATH = re.compile(r"((^|_|DB)PASS|(_|DB)PWD|CREDENTIALS?)$", re.IGNORECASE)
_PATH_OR_FLAG = re.compile(r"[.~]?/.*|[0-9]|true|false|yes|no", re.DOTALL | re.IGNORECASE)
_PLACE = re.compile(r"_(PATH|FILE|DIR|HOME|URL|SOCK)$", re.IGNORECASE)
# The words of a name: OPENAI_KEY_2, openaiKey.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# The ends of words of a name that may mean a secret: MAX_TOKENS and SORT_KEY do not.
_DOUBTFUL = ("KEY", "TOKEN")
# Words that end like KEYS of something, and are none.
_NO_KEYS = frozenset(
    ("MONKEY", "DONKEY", "TURKEY", "HOCKEY", "JOCKEY", "HOTKEY", "LESSKEY", "WHISKEY", "SMOKEY")
)
# A value of a variable SORT_KEY or SSH_KEY that is a word or a path, and no key.
_ORDINARY = re.compile(r"[a-z]{1,11}|[A-Z]{1,11}|[0-9]+|[.~]?/.*|true|false", re.DOTALL)
# What is redacted if only a doubtful name says so, and what is not: laion-multilingual-2024.
_RANDOM = re.compile(r"(?=.*[A-Za-z])(?=.*[0-9]).{16,}", re.DOTALL)
_WORDS = re.compile(r"([A-Z]+|[A-Z]?[a-z]+|[0-9]+)([-_.:/ ]([A-Z]+|[A-Z]?[a-z]+|[0-9]+))*")
# The credentials in a URL: `user:password@host`, and the password.
_URL = re.compile(
    r"[a-z][a-z0-9+.-]*://([^\s/:@\"'\\]*:([^\s/@\"'\\]+)@[^\s/?#\"'\\]*)", re.IGNORECASE
)
# A shorter value may be a word of any text. In characters.
_SHORTEST = 8
# More of a file holds no token. In characters.
_LONGEST_FILE = 4096
_PASSWORD = re.compile(r"\bpassword\s+(\S+)")
# Tokens that are known by their form, each with the text that it begins with. Each pattern begins
# with plain text, which `re` finds a hundred times faster than a condition on what is before it.
_TOKENS = tuple(
    (prefix, re.compile(re.escape(prefix) + rest))
    for prefix, rest in (
        (b"hf_", rb"[A-Za-z0-9]{30,}"),
        (b"api_org_", rb"[A-Za-z0-9]{30,}"),
        # The lookaheads want a digit, which a hyphenated word such as sk-learn-something has not.
        (
            b"sk-",
            rb"(?:[A-Za-z0-9]{32,}|(?:[A-Za-z0-9]+[-_]){0,3}"
            rb"(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{16,}[A-Za-z0-9_-]*)",
        ),
        *((b"gh%c_" % kind, rb"[A-Za-z0-9]{30,}") for kind in b"opsur"),
        (b"github_pat_", rb"[A-Za-z0-9_]{50,}"),
        (b"glpat-", rb"[A-Za-z0-9_-]{20,}"),
        (b"wandb_v1_", rb"[A-Za-z0-9_]{20,}"),
        (b"local-", rb"[0-9a-f]{40}(?![0-9a-f])"),
        (b"xox", rb"[abprs]-[0-9]{8,}-[A-Za-z0-9-]{10,}"),
        (b"AKIA", rb"[A-Z0-9]{16}(?![A-Za-z0-9])"),
        (b"AIza", rb"[A-Za-z0-9_-]{35}"),
        (b"eyJ", rb"[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    )
)
# Tokens that may follow upon a letter; others are then the end of a word: risk-…, whisk-….
_ANYWHERE = (b"hf_", b"api_org_", b"wandb_v1_")
# The password of a database. Not that of a web page: examples of such addresses are ordinary text.
_CREDENTIALS = re.compile(rb"(://[^\s/:@\"'\\]*:)[^\s/@\"'\\]+(?=@)")
_DATABASE = re.compile(
    rb"(?:^|[^a-z])(?:postgres|postgresql|mysql|mariadb|mongodb|rediss?|amqps?|clickhouse|mssql)"
    rb"(?:\+[a-z0-9]+)?$"
)
# A longer name no database has. In characters.
_LONGEST_SCHEME = 32
_JSON_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
# Levels of quotation: a traceback quotes a text, and JSON may quote the traceback.
_QUOTATIONS = 2


def redact(text: str) -> str:
    """Return a text with this process's secrets replaced by `[redacted]`."""
    return _own().redact(text)


def redact_bytes(data: bytes) -> bytes:
    """Return bytes of a log with this process's secrets replaced by `[redacted]`."""
    return _own().redact_bytes(data)


def redact_json(data: bytes) -> bytes:
    """Return JSON with this process's secrets in its strings replaced by `[redacted]`."""
    return _own().redact_json(data)


def drop_secrets(environ: MutableMapping[str, str]) -> None:
    """Remove secrets from this process's environment; they are redacted as before."""
    _own()
    for name, value in list(environ.items()):
        if is_secret(name, value) or _URL.search(value):
            del environ[name]


class Redaction:
    """Removes secrets from texts, and everything that looks like a token of a known kind."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings = {spelling for secret in secrets for spelling in _spellings(secret)}
        # The longest first, because a secret may be part of another.
        self._spellings = sorted(spellings, key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Return a text without the secrets, plain or quoted."""
        data = text.encode("utf-8", "surrogatepass")
        return self._replaced(data).decode("utf-8", "surrogatepass") if self._is_in(data) else text

    def redact_bytes(self, data: bytes) -> bytes:
        """Return bytes without the secrets, plain or quoted."""
        return self._replaced(data) if self._is_in(data) else data

    def redact_json(self, data: bytes) -> bytes:
        """Return JSON without the secrets; it stays JSON, whatever they are.

        If there are none in it, this costs one search for each secret, at several GB/s.
        """
        return _JSON_STRING.sub(self._redacted_string, data) if self._is_in(data) else data

    def _is_in(self, data: bytes) -> bool:
        return any(spelling in data for spelling in self._spellings) or _hide_tokens(data) != data

    def _replaced(self, data: bytes) -> bytes:
        for spelling in self._spellings:
            data = data.replace(spelling, MARK.encode())
        return _hide_tokens(data)

    def _redacted_string(self, match: re.Match[bytes]) -> bytes:
        import json

        # Decoded first: in the quoted form, a replacement could begin inside an escape sequence.
        text = json.loads(match[0])
        clean = self.redact(text)
        return match[0] if clean == text else json.dumps(clean).encode()


def secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the secrets in an environment, and those in the token files that it names."""
    values = [value for name, value in environ.items() if _is_redacted(name, value)]
    lines = (line for value in values for line in value.splitlines() if not line.startswith("--"))
    for value in (*values, *lines, *_file_contents(environ)):
        if len(value.strip()) >= _SHORTEST:
            yield value.strip()
    for value in environ.values():
        for credentials, password in _URL.findall(value):
            yield credentials
            if len(password) >= _SHORTEST:
                yield password


@functools.cache
def _own() -> Redaction:
    return Redaction(secrets(os.environ))


def is_secret(name: str, value: str) -> bool:
    """Return whether a variable holds a secret, by its name and, if the name may lie, its value."""
    return _is_named(name, value) or _is_doubtful(name, value)


def _is_redacted(name: str, value: str) -> bool:
    """Return whether a variable's value is redacted.

    A value such as the name of a project may be a part of any path, so a doubtful name alone is
    not enough.
    """
    if _is_named(name, value):
        return True
    is_random = _RANDOM.fullmatch(value.strip()) and not _WORDS.fullmatch(value.strip())
    return bool(is_random) and _is_doubtful(name, value)


def _is_named(name: str, value: str) -> bool:
    """Return whether the name of a variable says that its value is secret."""
    if _WEBHOOK.search(name):
        return True
    if _PLACE.search(name):
        return False
    if _UNLESS_PATH.search(name):
        return not _PATH_OR_FLAG.fullmatch(value.strip())
    return bool(_SECRET.search(name))


def _is_doubtful(name: str, value: str) -> bool:
    """Return whether a variable may be a secret, by a word of its name and its value."""
    if _PLACE.search(name):
        return False
    words = (word.upper().removesuffix("S") for word in _WORD.findall(name))
    has_key = any(word.endswith(_DOUBTFUL) and word not in _NO_KEYS for word in words)
    return has_key and not _ORDINARY.fullmatch(value.strip())


def holds_secret(text: str) -> bool:
    """Return whether a text holds a token of a known kind, or a URL with a password."""
    data = text.encode("utf-8", "surrogatepass")
    # A shell variable in the place of the password is none.
    passwords = (password for _, password in _URL.findall(text) if not password.startswith("$"))
    return _UNKNOWN.redact_bytes(data) != data or any(passwords)


def _file_contents(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the tokens in the files of logins: the hub's, and those of ~/.netrc (wandb's too)."""
    # The user's own login counts, too, although HF_HOME may be a directory of the whole group.
    own = {name: value for name, value in environ.items() if name != "HF_HOME"}
    for place in dict.fromkeys(
        [*hub_token_files(environ), *hub_token_files(own), *hub_token_files({})]
    ):
        yield _read(place)
    for place in dict.fromkeys([environ.get("NETRC") or "", "~/.netrc"]):
        yield from _PASSWORD.findall(_read(place))


def _read(place: str) -> str:
    """Return the text of a short file; empty if there is none."""
    path = os.path.expanduser(place)
    # A FIFO would wait for a writer.
    with contextlib.suppress(OSError), open_regular(path, any_link=True) as stream:
        return stream.read(_LONGEST_FILE).decode("utf-8", "ignore")
    return ""


def _hide_tokens(data: bytes) -> bytes:
    """Return data without tokens of known forms; the same object if there are none."""
    for prefix, pattern in _TOKENS:
        if prefix in data:
            data = pattern.sub(_hide_token, data)
    return _CREDENTIALS.sub(_hide_password, data) if b"://" in data else data


def _hide_token(match: re.Match[bytes]) -> bytes:
    is_inside_word = match.string[max(0, match.start() - 1) : match.start()].isalnum()
    if is_inside_word and not match[0].startswith(_ANYWHERE):
        return match[0]
    return MARK.encode()


def _hide_password(match: re.Match[bytes]) -> bytes:
    before = match.string[max(0, match.start() - _LONGEST_SCHEME) : match.start()]
    return match[1] + MARK.encode() if _DATABASE.search(before) else match[0]


def _spellings(secret: str) -> set[bytes]:
    """Return the forms of a secret in a text: plain, and quoted by Python or JSON."""
    import json

    texts = {secret}
    for _ in range(_QUOTATIONS):
        quoted = {spelled[1:-1] for text in texts for spelled in (json.dumps(text), repr(text))}
        texts |= quoted | {json.dumps(text, ensure_ascii=False)[1:-1] for text in texts}
    return {text.encode("utf-8", "surrogatepass") for text in texts}


# Knows tokens by their form alone.
_UNKNOWN = Redaction(())
