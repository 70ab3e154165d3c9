"""A relay on 127.0.0.1 in front of a server: it counts bytes, and cuts or slows connections."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque


class Relay:
    """Passes connections on to a server. Use it as a context manager.

    Attributes:
        host: Its address, as HOST:PORT.
        sent: The bytes that went to clients.
        cuts: The next connection with more bytes to the client than the first number ends after
            that many, the next after the second number, and so on.
        pause_s: The seconds to wait before each part to the client, of at most 64 KiB.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = 0
        self.cuts: deque[int] = deque()
        self.pause_s = 0.0

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        # A thread that waits in accept() would keep it open.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        host, _, port = self._server.rpartition(":")
        with client, socket.create_connection((host, int(port))) as server:
            threading.Thread(target=_pass_on, args=(client, server), daemon=True).start()
            passed = 0
            with contextlib.suppress(OSError):
                while part := server.recv(2**16):
                    time.sleep(self.pause_s)
                    if self.cuts and passed + len(part) > self.cuts[0]:
                        client.sendall(part[: self.cuts.popleft() - passed])
                        break
                    client.sendall(part)
                    passed += len(part)
                    self.sent += len(part)
            for end in (client, server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(2**16):
            target.sendall(part)
