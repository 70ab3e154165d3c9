"""Registries that answer as they should not, and secrets that stay with them."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest

from oellm.core.retry import Backoff
from oellm.images import web_requests
from oellm.images.image_sources import RegistryImage
from oellm.images.registry import ImageLayer, NotAnImageFileError, Registry
from oellm.images.remote_images import find_remote_image
from oellm.images.web_requests import TransferError
from support.image_servers import CONTENT, DIGEST, Site, pull


def test_a_token_goes_to_its_registry_alone(
    sites: tuple[Site, Site], tmp_path: Path, said: list[str]
) -> None:
    site, store = sites
    layer = {"mediaType": "application/vnd.sylabs.sif.layer.v1.sif", "size": len(CONTENT)}
    manifest = json.dumps({"layers": [layer | {"digest": f"sha256:{DIGEST}"}]}).encode()
    site.answers["/token"] = (200, {}, b'{"token": "t0ken"}')
    site.answers["/v2/a/suite/manifests/1"] = (200, {}, manifest)
    blob = f"/v2/a/suite/blobs/sha256:{DIGEST}"
    site.answers[blob] = (307, {"Location": f"http://{store.host}/signed?key=k3y"}, b"")
    site.closed = dict.fromkeys(("/v2/a/suite/manifests/1", blob), "Bearer t0ken")
    store.answers["/signed"] = (200, {}, CONTENT)
    login = "Basic " + base64.b64encode(b"ada:open-sesame").decode()
    environ = {
        "HOME": str(tmp_path),
        "APPTAINER_DOCKER_USERNAME": "ada",
        "APPTAINER_DOCKER_PASSWORD": "open-sesame",
    }
    source = RegistryImage(site.host, "a/suite", "1")
    remote = find_remote_image(source, environ, said.append, insecure=False)
    assert pull(remote, tmp_path, said) == CONTENT
    assert ("/token?service=s&scope=pull", login) in site.asked
    assert store.asked == [("/signed?key=k3y", "")]
    store.answers["/signed"] = (403, {}, b"")
    (tmp_path / f".suite.sif.{DIGEST[:16]}.partial").unlink()
    with pytest.raises(TransferError) as caught:
        pull(remote, tmp_path, said)
    assert not re.search("k3y|t0ken|sesame", str(caught.value) + "".join(said))


@pytest.mark.parametrize("cut", ["/token", "/v2/a/suite/manifests/1"])
def test_a_cut_answer_is_asked_for_again(
    sites: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch, said: list[str], cut: str
) -> None:
    site, _ = sites
    quick = Backoff(total_s=2.0, first_s=0.01, longest_s=0.01)
    monkeypatch.setattr(web_requests, "_BACKOFF", quick)
    layer = {"mediaType": "application/vnd.sylabs.sif.layer.v1.sif", "size": len(CONTENT)}
    manifest = json.dumps({"layers": [layer | {"digest": f"sha256:{DIGEST}"}]}).encode()
    site.answers["/token"] = (200, {}, b'{"token": "t0ken"}')
    site.answers["/v2/a/suite/manifests/1"] = (200, {}, manifest)
    site.closed = {"/v2/a/suite/manifests/1": "Bearer t0ken"}
    site.cuts = {cut: 2}
    source = RegistryImage(site.host, "a/suite", "1")
    remote = find_remote_image(source, {}, said.append, insecure=False)
    assert remote.sha256 == DIGEST
    assert len(said) == 2
    assert all("the connection was cut; next try in" in message for message in said)


@pytest.mark.parametrize(
    "change",
    [{"digest": "sha256:../../../x"}, {"digest": f"sha256:{DIGEST.upper()}"}, {"size": -1}],
)
def test_a_registry_that_describes_no_file_is_refused(
    sites: tuple[Site, Site], change: dict[str, object]
) -> None:
    layer = {
        "mediaType": "application/vnd.sylabs.sif.layer.v1.sif",
        "digest": f"sha256:{DIGEST}",
        "size": len(CONTENT),
    }
    site, _ = sites
    manifest = json.dumps({"layers": [layer | change]}).encode()
    site.answers["/v2/a/manifests/1"] = (200, {}, manifest)
    with pytest.raises(NotAnImageFileError, match=f"oras://{site.host}/a:1: it is no image file"):
        find_remote_image(RegistryImage(site.host, "a", "1"), {}, lambda _: None, insecure=False)


def test_a_registry_without_a_place_to_upload_to_is_named(
    sites: tuple[Site, Site], tmp_path: Path
) -> None:
    site, _ = sites
    file = tmp_path / "suite.sif"
    file.write_bytes(CONTENT)
    target = RegistryImage(site.host, "a", "1")
    for place in ("", "http://[bad", "file:///etc/passwd"):
        site.answers["/v2/a/blobs/uploads/"] = (202, {"Location": place}, b"")
        with pytest.raises(TransferError, match=f"oras://{site.host}/a:1: the server names an"):
            Registry(site.host, {}, insecure=False).push(
                file, ImageLayer(DIGEST, len(CONTENT)), target, advance=lambda _: None
            )
