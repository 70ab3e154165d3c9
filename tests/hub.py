"""A small Hugging Face hub on 127.0.0.1, for tests: models, data sets and metrics from directories.

It answers what huggingface_hub, datasets and evaluate ask when they download, and no more.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

KINDS = ("models", "datasets", "spaces")


@dataclass(frozen=True)
class File:
    """One file of a commit."""

    path: Path
    size: int
    # The git blob id; it is also the ETag, by which clients name the file in their cache.
    oid: str

    @classmethod
    def read(cls, path: Path) -> File:
        content = path.read_bytes()
        return cls(
            path, len(content), hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        )


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
    """The hub; a context manager, or start() and stop().

    Serves what is added, and below `root`: {models,datasets,spaces}/ORG/NAME. Files must stay as
    they were when they were added.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.requests: list[str] = []
        # While it is cleared, all requests but for the root are logged and wait.
        self.answering = threading.Event()
        self.answering.set()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self._server: _Server | None = None
        for kind in KINDS if root is not None else ():
            for directory in sorted((root / kind).glob("*/*")):
                self._add(
                    kind, f"{directory.parent.name}/{directory.name}", directory, "main", None
                )

    @property
    def url(self) -> str:
        """The address, for HF_ENDPOINT."""
        assert self._server is not None, "the hub is not started"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that bring a process to this hub."""
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

    def handle_error(self, request: object, client_address: object) -> None:
        # A client that was interrupted is no error of the hub's.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _RefusalError(Exception):
    """An answer other than 200: status, and the codes that clients read."""

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
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.path != "/":
            self.hub.answering.wait()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        try:
            if parts == [""]:
                self._send(200, b"a hub for tests", {})
            elif parts[0] == "api":
                self._send_api(parts[1:], body)
            else:
                self._send_file(parts)
        except _RefusalError as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.code}
            self._send(refusal.status, b"", headers | _commit_header(refusal.commit))

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

    def _send_api(self, parts: list[str], body: bytes) -> None:
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
                "siblings": [{"rfilename": path} for path in files],
            }
        elif call == "tree":
            answer = list(_tree(files, "/".join(folders), "recursive=" in self.path))
        elif call == "paths-info":
            wanted = json.loads(body)["paths"]
            answer = [entry for entry in _tree(files, "", True) if entry["path"] in wanted]
        else:
            raise _RefusalError(404, "")
        headers = {"Content-Type": "application/json"}
        self._send(200, json.dumps(answer).encode(), headers | _commit_header(commit))

    def _send_file(self, parts: list[str]) -> None:
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
        headers = {"ETag": f'"{file.oid}"', "Content-Type": "application/octet-stream"}
        self._send(200, file.path.read_bytes(), headers | _commit_header(commit))

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _commit_header(commit: str) -> dict[str, str]:
    return {"X-Repo-Commit": commit} if commit else {}


def _tree(files: dict[str, File], folder: str, recursive: bool) -> Iterator[dict[str, object]]:
    """Yield the entries of a folder as the tree call lists them: its folders, then its files."""
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
    """Give a running hub with nothing in it."""
    with Hub() as running:
        yield running
