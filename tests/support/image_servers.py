"""Web servers of image files, and pulls from them."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import random
import ssl
import threading
from pathlib import Path

from oellm.images.downloads import RemoteImage, download_image
from oellm.images.image_sources import WebImage
from oellm.images.remote_images import find_remote_image

CONTENT = random.Random(2).randbytes(1_000_000)


DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Site:
    """A web server: each path has a status, headers and a body; it notes what it is asked."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        self.methods: list[str] = []
        # Paths that only who has this Authorization header gets.
        self.closed: dict[str, str] = {}
        # How often the answer for a path ends in its midst.
        self.cuts: dict[str, int] = {}
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_POST(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                site.methods.append(self.command)
                site.asked.append((self.path, self.headers.get("Authorization", "")))
                path = self.path.partition("?")[0]
                status, headers, body = site.answers.get(path, (404, {}, b""))
                wanted = site.closed.get(path)
                if wanted and self.headers.get("Authorization") != wanted:
                    challenge = f'Bearer realm="http://{site.host}/token",service="s",scope="pull"'
                    status, headers, body = 401, {"WWW-Authenticate": challenge}, b""
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if status == 200 and site.cuts.get(path):
                    site.cuts[path] -= 1
                    body = body[: len(body) // 2]
                    self.close_connection = True
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context:
            listener = self._server.socket
            self._server.socket = context.wrap_socket(listener, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def pull(remote: RemoteImage, directory: Path, said: list[str]) -> bytes:
    return download_image(
        remote, directory / "suite.sif", log=said.append, status=None
    ).read_bytes()


def web(host: str, digest: str = DIGEST) -> RemoteImage:
    source = WebImage(f"http://{host}/suite.sif", digest)
    return find_remote_image(source, {}, lambda _: None, insecure=False)
