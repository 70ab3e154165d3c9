"""Image files of web servers and of the hub: resumed, checked, and secrets stay with their host."""

from __future__ import annotations

import http.client
import http.server
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from oellm.core.retry import Backoff
from oellm.hub.repository_files import HubFileError
from oellm.images import downloads, web_requests
from oellm.images.downloads import WrongDigestError
from oellm.images.image_sources import HubImage, WebImage
from oellm.images.remote_images import find_remote_image
from oellm.images.web_requests import SilentServerError, TransferError, send
from support.hub import Fault, Hub
from support.image_servers import CONTENT, DIGEST, Site, pull, web
from support.relays import Relay


def test_a_server_that_sends_all_again_is_understood(
    sites: tuple[Site, Site], tmp_path: Path, said: list[str]
) -> None:
    site, _ = sites
    site.answers["/suite.sif"] = (200, {}, CONTENT)
    with Relay(site.host) as relay:
        relay.cuts.append(400_000)
        assert pull(web(relay.host), tmp_path, said) == CONTENT
    assert len(site.asked) == 2


def test_the_file_is_checked_and_not_what_arrived(
    sites: tuple[Site, Site], tmp_path: Path, said: list[str]
) -> None:
    site, _ = sites
    site.answers["/suite.sif"] = (206, {"Content-Range": "bytes 400000-"}, CONTENT[400_000:])
    partial = tmp_path / f".suite.sif.{DIGEST[:16]}.partial"

    def pull_while(write: Callable[[BinaryIO], object]) -> None:
        """Pull; another process that has the same partial file open writes to it meanwhile."""
        remote = web(site.host)

        def open_from(first: int) -> http.client.HTTPResponse:
            with partial.open("r+b") as other:
                write(other)
            return remote.open_from(first)

        partial.write_bytes(CONTENT[:400_000])
        pull(remote._replace(size=len(CONTENT), open_from=open_from), tmp_path, said)

    with pytest.raises(WrongDigestError):
        pull_while(lambda other: other.write(b"overwritten"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(TransferError, match="another process writes to "):
        pull_while(lambda other: other.seek(0, 2) and other.write(CONTENT[400_000:500_000]))
    assert partial.read_bytes() == CONTENT[:500_000]


def test_a_server_that_always_begins_again_ends_the_pull(
    sites: tuple[Site, Site], tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, _ = sites
    site.answers["/suite.sif"] = (200, {}, CONTENT)
    monkeypatch.setattr(downloads, "_BACKOFF", Backoff(0.0, 0.05, 0.05))
    with Relay(site.host) as relay:
        relay.cuts.extend([400_000, 300_000, 200_000, 350_000])
        with pytest.raises(TransferError, match="the connection was cut"):
            pull(web(relay.host), tmp_path, said)
    assert len(site.asked) == 2


def test_a_whole_partial_file_needs_only_a_check(
    sites: tuple[Site, Site], tmp_path: Path, said: list[str]
) -> None:
    site, _ = sites
    site.answers["/suite.sif"] = (416, {}, b"")
    partial = tmp_path / f".suite.sif.{DIGEST[:16]}.partial"
    partial.write_bytes(CONTENT)
    assert pull(web(site.host), tmp_path, said) == CONTENT
    partial.write_bytes(CONTENT + b"more")
    with pytest.raises(WrongDigestError):
        pull(web(site.host), tmp_path, said)
    assert not list(tmp_path.iterdir())


def test_a_busy_server_is_asked_again(
    sites: tuple[Site, Site], tmp_path: Path, said: list[str]
) -> None:
    site, _ = sites
    site.answers["/suite.sif"] = (503, {"Retry-After": "1"}, b"")
    with pytest.raises(TransferError, match="503"):
        pull(web(site.host), tmp_path, said)
    assert len(site.asked) == 1, "it asked for more time than there is"
    site.answers["/suite.sif"] = (503, {}, b"")
    with pytest.raises(TransferError, match="503"):
        pull(web(site.host), tmp_path, said)
    assert len(site.asked) > 3
    site.answers.clear()
    with pytest.raises(TransferError, match="404 Not Found: there is no such image"):
        pull(web(site.host), tmp_path, said)
    assert not list(tmp_path.iterdir())


def test_a_silent_server_is_not_waited_for(tmp_path: Path, said: list[str]) -> None:
    with pytest.raises(SilentServerError, match="refused"):
        pull(web("127.0.0.1:9"), tmp_path, said)
    assert said == []


def test_a_server_that_falls_silent_is_asked_again(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(web_requests, "_SILENCE_S", 0.3)
    files = tmp_path / "files"
    files.mkdir()
    (files / "suite.sif").write_bytes(CONTENT)
    hub.add_dataset("acme/images", files)
    hub.fault("GET */suite.sif", Fault(hang=300_000), times=1)
    url = f"{hub.url}/datasets/acme/images/resolve/main/suite.sif"
    remote = find_remote_image(WebImage(url, DIGEST), {}, said.append, insecure=False)
    assert pull(remote, tmp_path, said) == CONTENT
    assert "timed out; continuing after 300 kB" in "".join(said)


def test_a_query_is_not_shown(sites: tuple[Site, Site], tmp_path: Path, said: list[str]) -> None:
    site, _ = sites
    source = WebImage(f"http://{site.host}/suite.sif?key=s3cret", DIGEST)
    assert "s3cret" not in str(source)
    remote = find_remote_image(source, {}, said.append, insecure=False)
    with pytest.raises(TransferError, match=r"/suite.sif: the server answers 404") as caught:
        pull(remote, tmp_path, said)
    assert site.asked[0][0] == "/suite.sif?key=s3cret"
    assert "s3cret" not in str(caught.value)


def test_https_needs_a_trusted_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    (tmp_path / "site").mkdir()
    key, certificate = tmp_path / "site" / "key.pem", tmp_path / "site" / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site = Site(context)
    site.answers["/suite.sif"] = (200, {}, CONTENT)
    source = WebImage(f"https://{site.host}/suite.sif", DIGEST)
    remote = find_remote_image(source, {}, said.append, insecure=False)
    with pytest.raises(SilentServerError, match=r"not trusted here \(.*\): set SSL_CERT_FILE"):
        pull(remote, tmp_path, said)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert pull(remote, tmp_path, said) == CONTENT
    site.stop()


def test_nothing_leads_to_plain_http(sites: tuple[Site, Site], tmp_path: Path) -> None:
    site, _ = sites
    site.answers["/suite.sif"] = (302, {"Location": "http://example.org/suite.sif"}, b"")
    with pytest.raises(Exception, match=r"example.org over plain http: only with --insecure"):
        pull(web(site.host), tmp_path, [])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((302, {"Location": "http://[bad/x?key=secret"}, b""), "address that http cannot ask for"),
        ((302, {"Location": "http://127.0.0.1:1x/x?key=secret"}, b""), "address that http cannot"),
        ((302, {"Location": "ftp://127.0.0.1:1/x?key=secret"}, b""), "address that http cannot"),
        ((302, {"Location": "/suite.sif"}, b""), "redirect error that would lead to an infinite"),
        ((200, {f"X-{number}": "" for number in range(200)}, b""), "got more than 100 headers"),
        ((200, {"Content-Length": "a", "Connection": "close"}, CONTENT[1:]), "found [0-9a-f]{64};"),
        ((200, {"Content-Type": "text/html"}, b"<p>Log in"), r"in a web page \(text/html\)"),
    ],
)
def test_a_dishonest_server_is_named_at_once(
    sites: tuple[Site, Site],
    tmp_path: Path,
    answer: tuple[int, dict[str, str], bytes],
    message: str,
) -> None:
    site, _ = sites
    site.answers["/suite.sif"] = answer
    said: list[str] = []
    with pytest.raises((TransferError, WrongDigestError), match=message) as caught:
        pull(web(site.host), tmp_path, said)
    assert str(caught.value).startswith(f"http://{site.host}/suite.sif: ")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert said == []
    assert [path.name for path in tmp_path.iterdir()] == []


def test_other_letters_of_an_address_are_escaped(
    sites: tuple[Site, Site], tmp_path: Path, said: list[str]
) -> None:
    site, _ = sites
    site.answers["/s%C3%BCite%201.sif"] = (200, {}, CONTENT)
    source = WebImage(f"http://{site.host}/süite 1.sif", DIGEST)
    remote = find_remote_image(source, {}, lambda _: None, insecure=False)
    assert pull(remote, tmp_path, said) == CONTENT


def test_a_redirected_question_stays_one(sites: tuple[Site, Site]) -> None:
    site, store = sites
    site.answers["/suite.sif"] = (307, {"Location": f"http://{store.host}/suite.sif"}, b"")
    store.answers["/suite.sif"] = (200, {}, CONTENT)
    send(f"http://{site.host}/suite.sif", label="suite", method="HEAD").close()
    assert store.methods == ["HEAD"]


def test_a_file_of_the_hub_is_pulled_at_its_commit(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    files = tmp_path / "files"
    (files / "x86").mkdir(parents=True)
    (files / "x86" / "suite.sif").write_bytes(CONTENT)
    (files / "README.md").write_text("Images.")
    commit = hub.add_dataset("acme/images", files, "v1", token="hf_t0ken")
    environ = hub.environment | {"HF_TOKEN": "hf_t0ken"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    source = HubImage("acme/images", "v1", "x86/suite.sif")
    remote = find_remote_image(source, environ, said.append, insecure=False)
    assert remote[:3] == (f"hf://datasets/acme/images@{commit}/x86/suite.sif", DIGEST, 1_000_000)
    hub.fault("GET */suite.sif", Fault(cut=600_000), times=1)
    assert pull(remote, tmp_path, said) == CONTENT
    assert len(hub.served("GET */suite.sif bytes=600000-")) == 1
    for path, message in (("none.sif", "has no such file"), ("README.md", "lists no SHA-256")):
        with pytest.raises(HubFileError, match=message):
            find_remote_image(source._replace(path=path), environ, said.append, insecure=False)
    with pytest.raises(HubFileError, match="there is no such revision"):
        find_remote_image(source._replace(revision="v2"), environ, said.append, insecure=False)
