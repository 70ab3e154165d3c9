"""A server of OpenAI's kind on 127.0.0.1 that knows some answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support import human_eval


@contextmanager
def human_eval_server(count: int) -> Iterator[str]:
    """Serve a model that knows the first problems of HumanEval; yield the address."""
    known = {p.entry_point: p.prompt + p.canonical_solution for p in human_eval.problems()[:count]}

    def answer(message: str) -> str:
        found = next((code for name, code in known.items() if f"def {name}(" in message), "")
        return f"```python\n{found}\n```"

    with chat_server(answer) as address:
        yield address


@contextmanager
def chat_server(answer: Callable[[str], str]) -> Iterator[str]:
    """Serve chats whose last message is answered by a function; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({"object": "list", "data": []})

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            asked = json.loads(self.rfile.read(length))
            message = {"role": "assistant", "content": answer(asked["messages"][-1]["content"])}
            choices = [
                {"index": index, "message": message, "finish_reason": "stop"}
                for index in range(asked.get("n") or 1)
            ]
            facts = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            self._send({**facts, "choices": choices})

        def _send(self, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
