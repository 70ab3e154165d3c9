"""Image files in a real registry: what is pulled is what was pushed, through cuts and logins."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import subprocess
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path

import pytest

from oellm.core.regular_files import append_regular
from oellm.core.retry import Backoff
from oellm.images import downloads
from oellm.images.downloads import FullDiskError, WrongDigestError, download_image
from oellm.images.image_sources import RegistryImage
from oellm.images.registry import ImageLayer, NotAnImageFileError, Registry
from oellm.images.web_requests import TransferError
from support import registry as real
from support.relays import Relay

SIZE = 3_000_000


class Place:
    """A file that is pushed, a target that it is pulled to, and what was said meanwhile."""

    def __init__(self, directory: Path) -> None:
        self.content = random.Random(1).randbytes(SIZE)
        self.file = directory / "pushed" / "suite.sif"
        self.file.parent.mkdir()
        self.file.write_bytes(self.content)
        self.layer = ImageLayer(hashlib.sha256(self.content).hexdigest(), SIZE)
        self.images = directory / "images"
        self.images.mkdir()
        self.messages: list[str] = []

    def push(self, host: str, environ: Mapping[str, str] | None = None) -> RegistryImage:
        image = RegistryImage(host, "oellm/suite", "1")
        server = Registry(host, environ or {"HOME": "/nowhere"}, insecure=False)
        server.push(self.file, self.layer, image, advance=lambda _: None)
        return image

    def pull(self, host: str, environ: Mapping[str, str] | None = None) -> Path:
        server = Registry(host, environ or {"HOME": "/nowhere"}, insecure=False)
        remote = server.remote_image(RegistryImage(host, "oellm/suite", "1"))
        return download_image(
            remote, self.images / "suite.sif", log=self.messages.append, status=None
        )

    def names(self) -> list[str]:
        return sorted(path.name for path in self.images.iterdir())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    quick = Backoff(total_s=2.0, first_s=0.05, longest_s=0.1)
    monkeypatch.setattr(downloads, "_BACKOFF", quick)
    return Place(tmp_path)


@pytest.fixture
def relay(registry: real.Registry) -> Iterator[Relay]:
    with Relay(registry.host) as running:
        yield running


def test_the_layer_is_the_file(place: Place, registry: real.Registry) -> None:
    place.push(registry.host)
    (layer,) = registry.manifest("oellm/suite", "1")["layers"]
    assert layer["digest"] == f"sha256:{place.layer.sha256}"
    assert place.pull(registry.host).read_bytes() == place.content
    place.push(registry.host)
    uploads = registry.served(rf"PUT .*blobs/uploads/.*{place.layer.sha256}.*")
    assert len(uploads) == 1, "what the registry has is not sent again"


def test_a_cut_download_continues(
    place: Place,
    registry: real.Registry,
    relay: Relay,
) -> None:
    place.push(registry.host)
    relay.cuts.extend([1_000_000, 700_000, 100_000])
    assert place.pull(relay.host).read_bytes() == place.content
    cuts = [
        message for message in place.messages if "the connection was cut; continuing" in message
    ]
    assert len(cuts) == 3
    assert relay.sent < SIZE + 200_000, "nothing is sent twice"


def test_many_cuts_do_not_end_a_download_that_advances(
    place: Place,
    registry: real.Registry,
    relay: Relay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place.push(registry.host)
    impatient = Backoff(total_s=0.15, first_s=0.05, longest_s=0.05)
    monkeypatch.setattr(downloads, "_BACKOFF", impatient)
    relay.cuts.extend([200_000] * 12)
    assert place.pull(relay.host).read_bytes() == place.content


def test_what_has_arrived_serves_the_next_try(
    place: Place,
    registry: real.Registry,
    relay: Relay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place.push(registry.host)
    relay.cuts.append(2_000_000)
    with monkeypatch.context() as context:
        context.setattr(downloads, "_BACKOFF", Backoff(0.0, 0.05, 0.05))
        relay.cuts.append(1)
        with pytest.raises(TransferError):
            place.pull(relay.host)
    (partial,) = place.images.iterdir()
    assert 1_900_000 < partial.stat().st_size < SIZE
    sent = relay.sent
    relay.cuts.clear()
    assert place.pull(relay.host).read_bytes() == place.content
    assert relay.sent - sent < SIZE - partial.stat().st_size + 1_200_000
    assert "continuing after 2 MB" in "".join(place.messages)


@pytest.mark.parametrize("damage", ["flipped", "longer"])
def test_a_wrong_digest_keeps_nothing(
    place: Place,
    registry: real.Registry,
    damage: str,
) -> None:
    place.push(registry.host)
    kept = registry.blob_file(place.layer.sha256)
    content = bytearray(place.content)
    content[SIZE // 2] ^= 1
    kept.write_bytes(bytes(content) + b"more" * (damage == "longer"))
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(
        WrongDigestError, match=f"expected sha256 {place.layer.sha256}, found {found}"
    ):
        place.pull(registry.host)
    assert place.names() == []


def test_a_damaged_partial_file_is_not_kept(
    place: Place,
    registry: real.Registry,
) -> None:
    place.push(registry.host)
    partial = place.images / f".suite.sif.{place.layer.sha256[:16]}.partial"
    partial.write_bytes(bytes(1_000_000))
    with pytest.raises(WrongDigestError):
        place.pull(registry.host)
    assert place.names() == []
    assert place.pull(registry.host).read_bytes() == place.content


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of others")
def test_nobody_else_can_change_what_was_checked(place: Place, registry: real.Registry) -> None:
    place.push(registry.host)
    partial = place.images / f".suite.sif.{place.layer.sha256[:16]}.partial"
    partial.write_bytes(place.content[:1000])
    os.chown(partial, 12345, 12345)
    pulled = place.pull(registry.host)
    assert pulled.read_bytes() == place.content
    assert pulled.stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of others")
def test_a_file_that_another_user_puts_there_meanwhile_is_not_written(
    place: Place, registry: real.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.push(registry.host)
    partial = place.images / f".suite.sif.{place.layer.sha256[:16]}.partial"

    def plant(path: Path) -> FileIO:
        path.write_bytes(place.content[:1000])
        os.chown(path, 12345, 12345)
        return append_regular(path)

    monkeypatch.setattr(downloads, "append_regular", plant)
    pulled = place.pull(registry.host)
    assert pulled == partial
    assert pulled.read_bytes() == place.content
    assert pulled.stat().st_uid == 0


def test_room_is_looked_for_first(
    place: Place,
    registry: real.Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place.push(registry.host)
    monkeypatch.setattr(downloads, "free_space", lambda _: SIZE - 1)
    with pytest.raises(FullDiskError, match=r"needs 3 MB more in .*, but only 3 MB are free"):
        place.pull(registry.host)
    assert place.names() == []
    assert not registry.served(f"GET .*blobs/sha256:{place.layer.sha256}")


def config_file(home: Path, name: str, host: str) -> dict[str, str]:
    """Write what a login has kept; return the environment of its user."""
    auth = base64.b64encode(f"{real.USER}:{real.PASSWORD}".encode()).decode()
    path = home / name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return {"HOME": str(home)}


@pytest.mark.parametrize("variables", [(), ("APPTAINER_CONFIGDIR",)], ids=str)
def test_the_login_of_apptainer_counts(
    place: Place, registry_with_login: real.Registry, tmp_path: Path, variables: tuple[str, ...]
) -> None:
    real.require_programs("apptainer")
    host = registry_with_login.host
    environ = {**os.environ, "HOME": str(tmp_path)}
    environ |= dict.fromkeys(variables, str(tmp_path / "config"))
    command = ["apptainer", "registry", "login", "--username", real.USER, "--password-stdin"]
    subprocess.run(
        [*command, f"docker://{host}"], input=real.PASSWORD.encode(), env=environ, check=True
    )
    place.push(host, environ)
    assert place.pull(host, environ).read_bytes() == place.content


@pytest.mark.parametrize("name", [".docker/config.json", ".apptainer/docker-config.json"])
def test_logins_of_other_tools_count(
    place: Place,
    registry_with_login: real.Registry,
    tmp_path: Path,
    name: str,
) -> None:
    host = registry_with_login.host
    environ = config_file(tmp_path / "home", name, host)
    place.push(host, environ)
    assert place.pull(host, environ).read_bytes() == place.content
    with pytest.raises(TransferError, match=r"401 .*: no access without a login"):
        place.pull(host)


def test_another_tools_image_is_none(place: Place, registry: real.Registry, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("x")
    registry.add_tree(tree, "oellm/suite", "1")
    with pytest.raises(NotAnImageFileError, match="docker://"):
        place.pull(registry.host)
    with pytest.raises(
        TransferError, match=r"oras://127\S+/oellm/suite:none: .* 404 .*no such image"
    ):
        Registry(registry.host, os.environ, insecure=False).remote_image(
            RegistryImage(registry.host, "oellm/suite", "none")
        )
