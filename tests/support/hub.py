"""A small Hugging Face hub on 127.0.0.1, for tests: models, data sets and metrics from directories.

It answers what huggingface_hub, datasets and evaluate ask when they download, and no more.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

KINDS = ("models", "datasets", "spaces")
# The hub keeps these in Git LFS, and names them by their SHA-256.
LARGE = (".safetensors", ".bin", ".pth", ".gguf", ".sif")


@dataclass(frozen=True)
class File:
    """One file of a commit."""

    path: Path
    size: int
    # The git blob id.
    oid: str
    # For large files only.
    sha256: str

    @classmethod
    def read(cls, path: Path) -> File:
        content = path.read_bytes()
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        large = path.name.endswith(LARGE)
        return cls(path, len(content), oid, hashlib.sha256(content).hexdigest() if large else "")

    @property
    def etag(self) -> str:
        """Return the name that clients give the file in their cache."""
        return self.sha256 or self.oid

    def described(self) -> dict[str, object]:
        """Return the entry of the file in the answer to a call for a model with blobs=true."""
        large = {"sha256": self.sha256, "size": self.size, "pointerSize": 134}
        facts = {"size": self.size, "blobId": self.oid}
        return {**facts, "lfs": large} if self.sha256 else facts


@dataclass
class Fault:
    """What goes wrong with an answer. Fields that are not set change nothing."""

    # An answer without content, with these headers.
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    # The connection ends after this many bytes of the content.
    cut: int | None = None
    # The content never ends: nothing comes after this many bytes.
    hang: int | None = None
    bytes_per_second: int = 0
    etag: str = ""
    content: bytes | None = None
    # The size that the call for a model lists for each file instead of the true one, or none.
    listed_size: int | None = None
    lists_sizes: bool = True


@dataclass
class Repository:
    """One repository: its commits, and the branches and tags that name them."""

    token: str | None
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)

    def add(self, directory: Path, revision: str) -> str:
        paths = sorted(path for path in directory.rglob("*") if path.is_file())
        files = {path.relative_to(directory).as_posix(): File.read(path) for path in paths}
        content = json.dumps([[name, file.oid] for name, file in files.items()])
        commit = hashlib.sha1(content.encode()).hexdigest()
        self.commits[commit] = files
        self.revisions[revision] = self.revisions[commit] = commit
        return commit


class Hub:
    """The hub. Use it as a context manager, or call start() and stop().

    Serves the repositories that are added. Their files must not change afterwards.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        # While it is clear, all requests except those for the root are logged and wait.
        self.answering = threading.Event()
        self.answering.set()
        self.stopped = threading.Event()
        # Seconds before each answer.
        self.latency = 0.0
        self.repositories: dict[tuple[str, str], Repository] = {}
        # Data sets that had a name without an organisation, and their names today.
        self.renamed: dict[str, str] = {}
        # Pattern of requests, fault, and how often it is still to happen.
        self._faults: list[tuple[str, Fault, list[int]]] = []
        self._faults_lock = threading.Lock()
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """Return the address, for HF_ENDPOINT."""
        assert self._server is not None, "the hub is not started"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that make a process use this hub."""
        return {"HF_ENDPOINT": self.url, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def add_model(
        self, name: str, directory: Path, revision: str = "main", token: str | None = None
    ) -> str:
        """Serve a directory as a model at a branch or tag; return the commit, from its content.

        With `token` the repository is gated: its files go only to who sends that token.
        """
        return self._add("models", name, directory, revision, token)

    def add_dataset(
        self, name: str, directory: Path, revision: str = "main", token: str | None = None
    ) -> str:
        """Serve a directory as a data set, like add_model."""
        return self._add("datasets", name, directory, revision, token)

    def add_metric(self, name: str, directory: Path) -> str:
        """Serve a directory as a metric of `evaluate`, which holds NAME.py."""
        return self._add("spaces", f"evaluate-metric/{name}", directory, "main", None)

    def fault(self, pattern: str, fault: Fault, times: int | None = None) -> None:
        """Make requests that match a pattern (`GET /acme/a/*`) go wrong, always or N times."""
        self._faults.append((pattern, fault, [times or sys.maxsize]))

    def next_fault(self, request: str) -> Fault:
        """Return what goes wrong with a request, and count it."""
        with self._faults_lock:
            for pattern, fault, left in self._faults:
                if left[0] and fnmatch.fnmatchcase(request, pattern):
                    left[0] -= 1
                    return fault
        return Fault()

    def heal(self) -> None:
        """End all faults."""
        self._faults.clear()

    def served(self, pattern: str) -> list[str]:
        """Return the requests so far that match a pattern."""
        return [request for request in self.requests if fnmatch.fnmatchcase(request, pattern)]

    def _add(self, kind: str, name: str, directory: Path, revision: str, token: str | None) -> str:
        repository = self.repositories.setdefault((kind, name), Repository(token))
        return repository.add(directory, revision)

    def start(self) -> Hub:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        self.stopped.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Hub:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # An interrupted client is not an error of the hub.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _RefusalError(Exception):
    """An answer other than 200, with its status and the error code that clients read."""

    def __init__(self, status: int, code: str, commit: str = "") -> None:
        self.status, self.code, self.commit = status, code, commit


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self) -> None:
        request = f"{self.command} {self.path}"
        # A request for part of a file differs from one for all of it.
        part = self.headers.get("Range")
        self.hub.requests.append(f"{request} {part}" if part else request)
        if self.path != "/":
            self.hub.answering.wait()
            time.sleep(self.hub.latency)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        fault = self.hub.next_fault(request)
        try:
            if fault.status:
                raise _RefusalError(fault.status, fault.headers.get("X-Error-Code", ""))
            if parts == [""]:
                self._send(200, b"a hub for tests", {})
            elif new := self._new_address(parts):
                self._send(307, b"", {"Location": new})
            elif parts[0] == "api":
                self._send_api(parts[1:], body, fault)
            else:
                self._send_file(parts, fault)
        except _RefusalError as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.code}
            headers |= _commit_header(refusal.commit) | fault.headers
            self._send(refusal.status, b"", headers)

    def _new_address(self, parts: list[str]) -> str:
        """Return where a data set is that is asked for by its old name, or nothing."""
        place = parts.index("datasets") + 1 if "datasets" in parts[:2] else len(parts)
        old = "".join(parts[place : place + 1])
        query = urlsplit(self.path).query
        new = "/".join([*parts[:place], self.hub.renamed.get(old, ""), *parts[place + 1 :]])
        return f"/{new}?{query}" if old in self.hub.renamed else ""

    def _repository(self, kind: str, parts: list[str]) -> Repository:
        try:
            return self.hub.repositories[kind, "/".join(parts)]
        except KeyError:
            raise _RefusalError(404, "RepoNotFound") from None

    def _commit(self, repository: Repository, revision: str) -> str:
        try:
            return repository.revisions[revision]
        except KeyError:
            raise _RefusalError(404, "RevisionNotFound") from None

    def _send_api(self, parts: list[str], body: bytes, fault: Fault) -> None:
        """Answer /api/KIND/ORG/NAME[/revision/REV | /tree/REV[/DIR] | /paths-info/REV]."""
        if len(parts) < 3 or parts[0] not in KINDS:
            raise _RefusalError(404, "")
        kind, organisation, name, *rest = parts
        repository = self._repository(kind, [organisation, name])
        call, revision, *folders = rest or ["revision", "main"]
        commit = self._commit(repository, revision)
        files = repository.commits[commit]
        answer: object
        if call == "revision":
            answer = {
                "_id": commit[:24],
                "id": f"{organisation}/{name}",
                "sha": commit,
                "private": False,
                "gated": "auto" if repository.token else False,
                "tags": [],
                "downloads": 0,
                "siblings": list(_siblings(files, "blobs=" in self.path, fault)),
            }
        elif call == "tree":
            answer = list(_tree(files, "/".join(folders), "recursive=" in self.path))
        elif call == "paths-info":
            wanted = parse_qs(body.decode())["paths"]
            answer = [entry for entry in _tree(files, "", True) if entry["path"] in wanted]
        else:
            raise _RefusalError(404, "")
        headers = {"Content-Type": "application/json"}
        self._send(200, json.dumps(answer).encode(), headers | _commit_header(commit))

    def _send_file(self, parts: list[str], fault: Fault) -> None:
        """Answer /[datasets/|spaces/]ORG/NAME/resolve/REV/PATH."""
        kind = parts.pop(0) if parts[0] in KINDS[1:] else "models"
        if len(parts) < 5 or parts[2] != "resolve":
            raise _RefusalError(404, "")
        repository = self._repository(kind, parts[:2])
        commit = self._commit(repository, parts[3])
        if repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}":
            raise _RefusalError(401, "GatedRepo", commit)
        file = repository.commits[commit].get("/".join(parts[4:]))
        if file is None:
            raise _RefusalError(404, "EntryNotFound", commit)
        content = file.path.read_bytes() if fault.content is None else fault.content
        headers = {
            "ETag": f'"{fault.etag or file.etag}"',
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
        }
        status = 200
        if part := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(part[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[start:]
        self._send(status, content, headers | _commit_header(commit), fault)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self._write(body, fault or Fault())

    def _write(self, body: bytes, fault: Fault) -> None:
        end = min(len(body), *(n for n in (fault.cut, fault.hang, len(body)) if n is not None))
        step = fault.bytes_per_second // 20 or end or 1
        for start in range(0, end, step):
            self.wfile.write(body[start : min(start + step, end)])
            self.wfile.flush()
            if fault.bytes_per_second:
                time.sleep(1 / 20)
        if fault.hang is not None:
            self.hub.stopped.wait()
        if fault.cut is not None or fault.hang is not None:
            self.close_connection = True


def _commit_header(commit: str) -> dict[str, str]:
    return {"X-Repo-Commit": commit} if commit else {}


def _siblings(files: dict[str, File], blobs: bool, fault: Fault) -> Iterator[dict[str, object]]:
    for path, file in files.items():
        described = file.described() if blobs else {}
        if fault.listed_size is not None:
            described["size"] = fault.listed_size
        if not fault.lists_sizes:
            described.pop("size", None)
        yield {"rfilename": path, **described}


def _tree(files: dict[str, File], folder: str, recursive: bool) -> Iterator[dict[str, object]]:
    """Yield the entries of a folder in the order of the tree call: folders, then files."""
    prefix = f"{folder}/" if folder else ""
    below = {path: file for path, file in files.items() if path.startswith(prefix)}
    if not below:
        raise _RefusalError(404, "EntryNotFound")
    parents = {
        "/".join(path.split("/")[:depth])
        for path in below
        for depth in range(1, path.count("/") + 1)
    }
    for path in sorted(parents):
        if path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :]):
            oid = hashlib.sha1(path.encode()).hexdigest()
            yield {"type": "directory", "oid": oid, "size": 0, "path": path}
    for path, file in below.items():
        if recursive or "/" not in path[len(prefix) :]:
            yield {"type": "file", "oid": file.oid, "size": file.size, "path": path}


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Start an empty hub."""
    with Hub() as running:
        yield running
