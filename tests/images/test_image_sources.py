"""Addresses that images are pulled from, and why others are refused."""

from __future__ import annotations

import pytest

from oellm.errors import UsageError
from oellm.images.image_sources import (
    ConvertedImage,
    HubImage,
    ImageSource,
    RegistryImage,
    WebImage,
    parse_source,
)

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "source", "name"),
    [
        (
            "oras://ghcr.io/a/b/suite-cuda:1.0",
            RegistryImage("ghcr.io", "a/b/suite-cuda", "1.0"),
            "",
        ),
        ("oras://[::1]:5000/suite", RegistryImage("[::1]:5000", "suite", "latest"), "suite"),
        (
            f"oras://h.eu:5000/a/suite@sha256:{DIGEST}",
            RegistryImage("h.eu:5000", "a/suite", f"sha256:{DIGEST}"),
            "suite",
        ),
        ("docker://python:3.11-slim", ConvertedImage("docker://python:3.11-slim"), "python"),
        ("docker://h:5000/a/b", ConvertedImage("docker://h:5000/a/b"), "b"),
        (
            "library://a/b/c:sha256." + DIGEST,
            ConvertedImage(f"library://a/b/c:sha256.{DIGEST}"),
            "c",
        ),
        (
            "hf://datasets/acme/images@v1/x86/suite.sif",
            HubImage("acme/images", "v1", "x86/suite.sif"),
            "suite",
        ),
        ("docker://alpine:3.22", ConvertedImage("docker://alpine:3.22"), "alpine"),
        ("hf://datasets/acme/images/suite.sif", HubImage("acme/images", "", "suite.sif"), "suite"),
        (
            f"https://h.eu/a/suite%201.sif?x=1#sha256={DIGEST.upper()}",
            WebImage("https://h.eu/a/suite%201.sif?x=1", DIGEST),
            "suite 1",
        ),
    ],
)
def test_an_address_has_a_name(text: str, source: ImageSource, name: str) -> None:
    parsed = parse_source(text)
    assert parsed == source
    assert parsed.name == name or not name
    assert parse_source(str(parsed)).name == parsed.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suite.sif", "cannot pull from 'suite.sif': expected oras://"),
        ("oras://ghcr.io", r"expected oras://HOST\[:PORT\]/REPOSITORY:TAG, got"),
        ("oras://ghcr.io/Upper:1", "expected oras://"),
        ("hf://acme/images/suite.sif", r"expected hf://datasets/ORG/REPOSITORY\[@REVISION\]/FILE"),
        ("https://h.eu/suite.sif", "nothing says what its content must be: append #sha256="),
        ("https://h.eu/suite.sif#sha256=12", "append #sha256="),
        (f"https://h.eu/#sha256={DIGEST}", "it names no file"),
        (f"http://h.eu/suite.sif#sha256={DIGEST}", "h.eu over plain http: only with --insecure"),
        ("oras://me:secret@ghcr.io/a/b:1", "a password in an address gets into logs"),
        ("https://h.eu/suite.sif?key=secret", "https://h.eu/suite.sif: nothing says what"),
        (f"https://h.eu/?key=secret#sha256={DIGEST}", "https://h.eu/: it names no file"),
        ("htps://h.eu/suite.sif?key=secret", "cannot pull from 'htps://h.eu/suite.sif'"),
        (f"https://[h.eu/suite.sif?key=secret#sha256={DIGEST}", "Invalid IPv6 URL"),
        (f"https://h.eu:1x/suite.sif?key=secret#sha256={DIGEST}", "Port could not be cast"),
        ("docker://[::1/suite", r"cannot pull from 'docker://\[::1/suite': Invalid IPv6 URL"),
        ("oras://h.eu:99999/suite:1", "Port out of range"),
        ("oras://h.eu/suite?key=secret", "expected oras://.*, got 'oras://h.eu/suite'"),
    ],
)
def test_other_addresses_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_source(text)
    assert "secret" not in str(caught.value)


def test_plain_http_needs_leave() -> None:
    address = f"http://h.eu/suite.sif#sha256={DIGEST}"
    assert parse_source(address, insecure=True).name == "suite"
    assert parse_source(address.replace("h.eu", "127.0.0.1:8080")).name == "suite"
