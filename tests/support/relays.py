"""A relay on 127.0.0.1 in front of a server: it counts bytes, and cuts or slows connections."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable


class Relay:
    """Passes connections on to a server. Use it as a context manager.

    Attributes:
        host: Its address, as HOST:PORT.
        sent: The bytes that went to clients.
        upload_cuts: The same as `cuts` for bytes to the server.
        cuts: The next connection with more bytes to the client than the first number ends after
            that many, the next after the second number, and so on.
        pause_s: The seconds to wait before each part, of at most 64 KiB.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = 0
        self.cuts: deque[int] = deque()
        self.upload_cuts: deque[int] = deque()
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
            upload = threading.Thread(
                target=_carry, args=(client, server, self.upload_cuts, self._pause), daemon=True
            )
            upload.start()
            _carry(server, client, self.cuts, self._account)
            upload.join()

    def _account(self, size: int) -> None:
        self.sent += size
        self._pause(size)

    def _pause(self, _: int) -> None:
        time.sleep(self.pause_s)


def _carry(
    source: socket.socket, target: socket.socket, cuts: deque[int], account: Callable[[int], None]
) -> None:
    """Pass on what one side sends; end the connection when it ends, or at a cut."""
    passed = 0
    with contextlib.suppress(OSError):
        while part := source.recv(2**16):
            account(len(part))
            if cuts and passed + len(part) > cuts[0]:
                target.sendall(part[: cuts.popleft() - passed])
                break
            target.sendall(part)
            passed += len(part)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
