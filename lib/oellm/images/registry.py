"""A registry of images that holds image files (SIF), as `oras://` addresses name them.

Each is one layer of a manifest, and the layer's digest is the SHA-256 of the file
(https://github.com/opencontainers/distribution-spec, https://oras.land).
"""

from __future__ import annotations

import hashlib
import http.client
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

from oellm.core import json_codec
from oellm.core.regular_files import open_regular
from oellm.errors import OellmError
from oellm.images.downloads import RemoteImage
from oellm.images.image_sources import RegistryImage
from oellm.images.registry_login import answer_challenge, find_login
from oellm.images.web_requests import (
    TransferError,
    is_loopback,
    join_address,
    read_answer,
    send,
)

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_ACCEPTED = f"{_MANIFEST}, application/vnd.oci.image.index.v1+json, */*;q=0.5"
_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
_CONFIG = "application/vnd.sylabs.sif.config.v1+json"
_BYTES = {"Content-Type": "application/octet-stream"}
_SHA256 = re.compile("sha256:([0-9a-f]{64})")
_EMPTY = b"{}"
# Where docker.io answers.
_DOCKER_API = "registry-1.docker.io"


class NotAnImageFileError(OellmError):
    """What a registry has under a name is no image file."""


class ImageLayer(NamedTuple):
    """The file that a manifest is about."""

    sha256: str
    size: int


class Registry:
    """One registry; `insecure` allows plain http, which this machine's own always uses.

    All methods raise TransferError.
    """

    def __init__(self, host: str, environ: Mapping[str, str], *, insecure: bool) -> None:
        self._insecure = insecure
        scheme = "http" if insecure or is_loopback(host) else "https"
        self._base = f"{scheme}://{_DOCKER_API if host == 'docker.io' else host}/v2/"
        self._login = find_login(host, environ)
        # The header that the registry has asked for last.
        self._authorization = ""

    def find_image(self, image: RegistryImage) -> ImageLayer:
        """Return the file that the registry has for an address.

        Raises NotAnImageFileError if it has something else.
        """
        label = str(image)
        headers = {"Accept": _ACCEPTED}
        path = f"{image.repository}/manifests/{image.reference}"
        with self._send(path, label=label, headers=headers) as answer:
            content = read_answer(answer, label)
        if image.is_pinned and image.reference != _digest(content):
            raise NotAnImageFileError(f"{label}: the registry sends another manifest")
        try:
            layers = json_codec.loads(content)["layers"]
            (layer,) = [layer for layer in layers if layer["mediaType"] == _LAYER]
            size = int(layer["size"])
            digest = _SHA256.fullmatch(layer["digest"])
            if not digest or size < 0:
                raise ValueError(layer)
            return ImageLayer(digest[1], size)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise NotAnImageFileError(
                f"{label}: it is no image file: layers of other tools come from docker:// addresses"
            ) from None

    def remote_image(self, image: RegistryImage) -> RemoteImage:
        """Return what to download for an address; raises as find_image does."""
        layer = self.find_image(image)
        path = f"{image.repository}/blobs/sha256:{layer.sha256}"

        def open_from(first: int) -> http.client.HTTPResponse:
            headers = {"Range": f"bytes={first}-"} if first else {}
            return self._send(path, label=str(image), headers=headers)

        return RemoteImage(str(image), layer.sha256, layer.size, open_from=open_from)

    def push(
        self,
        file: Path,
        layer: ImageLayer,
        target: RegistryImage,
        *,
        advance: Callable[[int], None],
    ) -> None:
        """Upload an image file, then its manifest; `advance` gets the bytes sent of this try."""
        label = str(target)
        with open_regular(file, any_link=True) as stream:
            self._push_blob(target, layer, _Counted(stream, advance))
        config = ImageLayer(hashlib.sha256(_EMPTY).hexdigest(), len(_EMPTY))
        self._push_blob(target, config, _EMPTY)
        title = {"org.opencontainers.image.title": file.name}
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _entry(_CONFIG, config),
            "layers": [_entry(_LAYER, layer) | {"annotations": title}],
        }
        self._send(
            f"{target.repository}/manifests/{target.reference}",
            label=label,
            method="PUT",
            headers={"Content-Type": _MANIFEST},
            body=json_codec.dumps(manifest),
        ).close()

    def _push_blob(
        self, target: RegistryImage, layer: ImageLayer, content: bytes | _Counted
    ) -> None:
        label = str(target)
        blobs = f"{target.repository}/blobs/"
        digest = f"sha256:{layer.sha256}"
        if self._has(blobs + digest, label):
            return
        with self._send(
            f"{blobs}uploads/", label=label, method="POST", headers=_BYTES, body=b""
        ) as answer:
            # Relative to the address that has answered.
            place = join_address(self._base, answer.headers.get("Location", ""), label)
        separator = "&" if urlsplit(place).query else "?"
        headers = {**_BYTES, "Content-Length": str(layer.size)}
        self._send(
            f"{place}{separator}{urlencode({'digest': digest})}",
            label=label,
            method="PUT",
            headers=headers,
            body=content,
        ).close()

    def _has(self, path: str, label: str) -> bool:
        try:
            self._send(path, label=label, method="HEAD").close()
        except TransferError as error:
            if error.code != 404:
                raise
            return False
        return True

    def _send(self, path: str, *, label: str, **request: Any) -> http.client.HTTPResponse:
        """Send a request; if the registry asks for a login, once more with it.

        Not if it has a file as its body, which is read by then: the requests before have the login.
        """
        url = urljoin(self._base, path)
        # Another host that the registry names gets no login of this one.
        is_own = urlsplit(url)[:2] == urlsplit(self._base)[:2]
        try:
            secrets = {"Authorization": self._authorization} if self._authorization else {}
            return send(
                url,
                label=label,
                secrets=secrets if is_own else {},
                insecure=self._insecure,
                **request,
            )
        except TransferError as error:
            is_repeatable = not isinstance(request.get("body"), _Counted)
            if error.code != 401 or not error.challenge or not is_own or not is_repeatable:
                raise
            authorization = answer_challenge(
                error.challenge, self._login, label=label, insecure=self._insecure
            )
            if authorization in ("", self._authorization):
                raise
            self._authorization = authorization
        return send(
            url,
            label=label,
            secrets={"Authorization": self._authorization},
            insecure=self._insecure,
            **request,
        )


class _Counted:
    """A file that tells how much of it was read."""

    def __init__(self, stream: BinaryIO, advance: Callable[[int], None]) -> None:
        self._stream = stream
        self._advance = advance

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        part = self._stream.read(size)
        self._advance(self._stream.tell())
        return part


def _entry(media_type: str, layer: ImageLayer) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{layer.sha256}", "size": layer.size}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
