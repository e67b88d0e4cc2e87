"""Receives HTTP requests on localhost, and answers them well, badly, late or never."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "s3cr3t-t0ken"


class Receiver:
    """The requests that have arrived, and the next answers: a status, `hang` or `garbage`; the last one stays."""

    def __init__(self, *answers: int | str) -> None:
        self.answers = list(answers) or [200]
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.released = threading.Event()
        self.address = ""
        self._lock = threading.Lock()

    def next_answer(self, path: str, headers: dict[str, str], body: bytes) -> int | str:
        with self._lock:
            self.paths.append(path)
            self.headers.append(headers)
            self.bodies.append(json.loads(body))
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def events(self) -> list[str]:
        return [body["event"] for body in self.bodies]

    @property
    def url(self) -> str:
        """An address with a secret in its path and its query."""
        return f"{self.address}/hook/{SECRET}?key={SECRET}"


@contextmanager
def receiving(*answers: int | str) -> Iterator[Receiver]:
    """Runs a server until the end of the block; requests that hang are let go then."""
    receiver = Receiver(*answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = receiver.next_answer(self.path, dict(self.headers), body)
            if answer == "hang":
                receiver.released.wait()
                self.close_connection = True
            elif answer == "garbage":
                self.wfile.write(b"\x00\x01 no http\r\n")
                self.close_connection = True
            else:
                self.send_response(int(answer))
                if 300 <= int(answer) < 400:
                    self.send_header("Location", f"{receiver.address}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
