"""Where an image can be pulled from: the addresses that `oe-build --pull` and `--push` accept."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from oellm.errors import UsageError
from oellm.hub.data_sets import parse_address
from oellm.images.web_requests import require_secure

KINDS = (
    "oras://HOST/REPOSITORY:TAG, docker://…, library://…, hf://datasets/ORG/REPOSITORY/FILE or "
    "https://…#sha256=DIGEST"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ORAS = re.compile(
    r"oras://(?P<host>[A-Za-z0-9.-]+(?::[0-9]+)?|\[[0-9a-f:]+\](?::[0-9]+)?)/"
    r"(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127})|@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)


class RegistryImage(NamedTuple):
    """An image file in a registry; `reference` is a tag, or a digest of a manifest."""

    host: str
    repository: str
    reference: str

    @property
    def is_pinned(self) -> bool:
        """Whether it always means the same image."""
        return self.reference.startswith("sha256:")

    def __str__(self) -> str:
        separator = "@" if self.is_pinned else ":"
        return f"oras://{self.host}/{self.repository}{separator}{self.reference}"

    @property
    def name(self) -> str:
        """The name that the image gets here."""
        return self.repository.rpartition("/")[2]


class HubImage(NamedTuple):
    """A file of a data-set repository of the hub; an empty revision is the default branch."""

    repository: str
    revision: str
    path: str

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://datasets/{self.repository}{revision}/{self.path}"

    @property
    def name(self) -> str:
        """The name that the image gets here."""
        return _stem(self.path)


class WebImage(NamedTuple):
    """A file at a plain address, whose content has this SHA-256."""

    url: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.label}#sha256={self.sha256}"

    @property
    def label(self) -> str:
        """The address as messages show it."""
        return _without_query(self.url)

    @property
    def name(self) -> str:
        """The name that the image gets here."""
        return _stem(unquote(urlsplit(self.url).path))


class ConvertedImage(NamedTuple):
    """An address that apptainer itself pulls, and perhaps makes an image file of."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The name that the image gets here."""
        return re.split(r"[:@]", self.url.rpartition("/")[2])[0]


ImageSource = RegistryImage | HubImage | WebImage | ConvertedImage


def parse_source(text: str, *, insecure: bool = False) -> ImageSource:
    """Return what an address to pull from means; raises UsageError if nothing is pulled from it."""
    scheme = text.partition("://")[0]
    if "@" in _parts(text, has_port=scheme in ("https", "http", "oras")).netloc:
        raise UsageError(
            f"{scheme}://…@…: a password in an address gets into logs: "
            "use `apptainer registry login` or docker's login instead"
        )
    if scheme == "oras":
        return parse_registry_image(text)
    if scheme in ("docker", "library"):
        return ConvertedImage(text)
    if scheme == "hf":
        return _parse_hub_image(text)
    if scheme in ("https", "http"):
        require_secure(text, insecure=insecure)
        return _parse_web_image(text)
    raise UsageError(f"cannot pull from {_without_query(text)!r}: expected {KINDS}")


def parse_registry_image(text: str) -> RegistryImage:
    """Return what an oras:// address means; the tag is `latest` if it has none.

    Raises UsageError if the address is none.
    """
    match = _ORAS.fullmatch(text)
    if match is None:
        shown = _without_query(text)
        raise UsageError(f"expected oras://HOST[:PORT]/REPOSITORY:TAG, got {shown!r}")
    reference = match["digest"] or match["tag"] or "latest"
    return RegistryImage(match["host"], match["repository"], reference)


def _parse_hub_image(text: str) -> HubImage:
    parsed = parse_address(text)
    if parsed is None:
        raise UsageError(
            f"expected hf://datasets/ORG/REPOSITORY[@REVISION]/FILE of a data set, got {text!r}"
        )
    return HubImage(*parsed)


def _parse_web_image(text: str) -> WebImage:
    url, _, fragment = text.partition("#")
    shown = _without_query(url)
    digest = fragment.removeprefix("sha256=").lower()
    if not _SHA256.fullmatch(digest) or not fragment.startswith("sha256="):
        raise UsageError(
            f"{shown}: nothing says what its content must be: append #sha256= and its SHA-256, "
            "64 hexadecimal digits, which whoever offers the image can tell"
        )
    if not _stem(urlsplit(url).path):
        raise UsageError(f"{shown}: it names no file")
    return WebImage(url, digest)


def _parts(text: str, *, has_port: bool) -> SplitResult:
    """Return the parts of an address; raises UsageError if it is none."""
    try:
        parts = urlsplit(text)
        # What follows the colon in docker://NAME:TAG is no port.
        if has_port and parts.port == 0:
            raise ValueError("port 0")
    except ValueError as error:
        raise UsageError(f"cannot pull from {_without_query(text)!r}: {error}") from None
    return parts


def _without_query(address: str) -> str:
    """Return an address without its query, which may be a secret."""
    return address.partition("?")[0]


def _stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".sif")
