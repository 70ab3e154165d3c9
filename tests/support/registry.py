"""A real registry of images on 127.0.0.1: Debian's docker-registry, as a process of the test.

If the machine has none, its tests skip; with CI=true they fail.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oellm.clusters.image_digest import hash_file
from support.skipping import require_program
from support.waiting import wait_until

# A login that Registry(login=True) asks for, and its line of an htpasswd file.
USER, PASSWORD = "ada", "open-sesame"
_HTPASSWD = f"{USER}:$2b$04$eOdbpuEvVp.kZO9I9U2oL.SGTboHtBBlpnSYbE3aWlU31O0navUPa\n"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_IMAGE_FILE = "application/vnd.sylabs.sif.layer.v1.sif"
_IMAGE_FILE_CONFIG = "application/vnd.sylabs.sif.config.v1+json"
_BYTES = {"Content-Type": "application/octet-stream"}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Registry:
    """A registry that keeps its images in a directory. Use it as a context manager."""

    def __init__(self, directory: Path, *, login: bool = False) -> None:
        self.directory = directory
        self._login = login
        self._log = directory / "log"
        self.host = ""

    def __enter__(self) -> Registry:
        self.directory.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"formatter": "json", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(self.directory / "storage")}},
            "http": {"addr": "127.0.0.1:0"},
        }
        if self._login:
            (self.directory / "htpasswd").write_text(_HTPASSWD)
            path = str(self.directory / "htpasswd")
            config["auth"] = {"htpasswd": {"realm": "test", "path": path}}
        # YAML can be written as JSON.
        (self.directory / "config.yml").write_text(json.dumps(config))
        self._process = subprocess.Popen(
            ["docker-registry", "serve", str(self.directory / "config.yml")],
            stdout=self._log.open("wb"),
            stderr=subprocess.STDOUT,
        )
        wait_until(lambda: "listening on" in self._log.read_text(), 30)
        match = re.search(r"listening on (127\.0\.0\.1:\d+)", self._log.read_text())
        assert match is not None
        self.host = match[1]
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.wait()

    def served(self, pattern: str) -> list[str]:
        """Return the requests so far that match a pattern, as `METHOD PATH`."""
        entries = re.findall(r'"(\w+ /v2/\S*) HTTP', self._log.read_text())
        return [entry for entry in entries if re.fullmatch(pattern, entry)]

    def manifest(self, name: str, tag: str) -> dict[str, Any]:
        """Return the manifest of an image."""
        url = f"http://{self.host}/v2/{name}/manifests/{tag}"
        request = urllib.request.Request(url, headers={"Accept": _MANIFEST})
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
            return found

    def blob_file(self, sha256: str) -> Path:
        """Return where the registry keeps a content."""
        blobs = self.directory / "storage/docker/registry/v2/blobs/sha256"
        return blobs / sha256[:2] / sha256 / "data"

    def add_tree(self, tree: Path, name: str, tag: str) -> None:
        """Make an image of layers of a directory: what docker:// addresses and definitions name."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path in sorted(tree.rglob("*")):
                archive.add(path, path.relative_to(tree).as_posix(), recursive=False)
        layer = gzip.compress(packed.getvalue(), 1)
        config = {
            "architecture": _ARCHITECTURES[os.uname().machine],
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(packed.getvalue())]},
        }
        entries = [
            self._add_blob(name, json.dumps(config).encode(), _INDEX_CONFIG),
            self._add_blob(name, layer, _LAYER),
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": entries[0],
            "layers": entries[1:],
        }
        self.put_manifest(name, tag, manifest)

    def add_file(self, path: Path, name: str, tag: str) -> None:
        """Make an image of an image file, as a push would, without copying it."""
        sha256 = hash_file(path)
        layer = self.blob_file(sha256)
        layer.parent.mkdir(parents=True)
        layer.symlink_to(path)
        repositories = self.directory / "storage/docker/registry/v2/repositories"
        link = repositories / name / "_layers/sha256" / sha256 / "link"
        link.parent.mkdir(parents=True)
        link.write_text(f"sha256:{sha256}")
        size = path.stat().st_size
        layers = [{"mediaType": _IMAGE_FILE, "digest": f"sha256:{sha256}", "size": size}]
        config = self._add_blob(name, b"{}", _IMAGE_FILE_CONFIG)
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}
        self.put_manifest(name, tag, manifest)

    def put_manifest(self, name: str, tag: str, manifest: dict[str, Any]) -> None:
        """Give an image a manifest."""
        url = f"http://{self.host}/v2/{name}/manifests/{tag}"
        headers = {"Content-Type": _MANIFEST}
        _send("PUT", url, json.dumps(manifest).encode(), headers)

    def _add_blob(self, name: str, content: bytes, media_type: str) -> dict[str, object]:
        place = _send("POST", f"http://{self.host}/v2/{name}/blobs/uploads/", b"", _BYTES)
        _send("PUT", f"{place}&digest={_digest(content).replace(':', '%3A')}", content, _BYTES)
        return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _send(method: str, url: str, body: bytes, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, data=body, headers=headers, method=method)  # noqa: S310
    request.add_header("Content-Length", str(len(body)))
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return str(answer.headers.get("Location", ""))


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def make_tree(tree: Path) -> None:
    """Make a system that has a shell and nothing else, of what this machine runs."""
    programs = [Path("/bin/sh"), Path("/bin/cat"), Path("/usr/bin/env")]
    for name in ("dev", "proc", "sys", "tmp", "etc", "root", "var/tmp", "home", "bin"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for program in programs:
        listed = subprocess.check_output(["ldd", program], text=True)
        for library in re.findall(r"(/\S+) \(0x", listed):
            _copy(Path(library), tree / library.lstrip("/"))
        _copy(program, tree / "bin" / program.name)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\n")
    (tree / "usr").mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (tree / "usr/bin").symlink_to("../bin")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source.resolve(), target)


def require_programs(*names: str) -> None:
    """Skip the test, or fail in CI, if this machine lacks a program of scripts/install-cluster."""
    for name in names:
        require_program(name, installer="install-cluster")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """Start an empty registry."""
    require_programs("docker-registry")
    with Registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def registry_with_login(tmp_path: Path) -> Iterator[Registry]:
    """Start an empty registry that asks for a user and a password."""
    require_programs("docker-registry")
    with Registry(tmp_path / "registry", login=True) as running:
        yield running
