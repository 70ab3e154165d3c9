"""What to download for an address: its digest, its size if known, and how to get at it."""

from __future__ import annotations

import http.client
from collections.abc import Mapping

from oellm.core.log import Log
from oellm.hub.environment import hub_address
from oellm.hub.repository_files import locate_file
from oellm.images.downloads import RemoteImage
from oellm.images.image_sources import HubImage, RegistryImage, WebImage
from oellm.images.registry import Registry
from oellm.images.web_requests import retry_transfer, send


def find_remote_image(
    source: RegistryImage | HubImage | WebImage,
    environ: Mapping[str, str],
    log: Log,
    *,
    insecure: bool,
) -> RemoteImage:
    """Return what to download; asks a registry and the hub for it.

    Raises TransferError, NotAnImageFileError, HubFileError or SilentHubError.
    """
    if isinstance(source, RegistryImage):
        registry = Registry(source.host, environ, insecure=insecure)
        return retry_transfer(lambda: registry.remote_image(source), log)
    if isinstance(source, HubImage):
        return _hub_image(source, environ, log, insecure=insecure)
    return _web_image(source, insecure)


def _hub_image(
    source: HubImage, environ: Mapping[str, str], log: Log, *, insecure: bool
) -> RemoteImage:
    found = locate_file(
        source.repository, source.revision, source.path, endpoint=hub_address(environ), log=log
    )
    label = str(source._replace(revision=found.commit))
    secrets = {"Authorization": f"Bearer {found.token}"} if found.token else {}

    def open_from(first: int) -> http.client.HTTPResponse:
        return send(
            found.url, label=label, headers=_part(first), secrets=secrets, insecure=insecure
        )

    return RemoteImage(label, found.file.digest, found.file.size, open_from=open_from)


def _web_image(source: WebImage, insecure: bool) -> RemoteImage:
    def open_from(first: int) -> http.client.HTTPResponse:
        return send(source.url, label=source.label, headers=_part(first), insecure=insecure)

    return RemoteImage(source.label, source.sha256, None, open_from=open_from)


def _part(first: int) -> dict[str, str]:
    return {"Range": f"bytes={first}-"} if first else {}
