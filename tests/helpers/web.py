"""A web server on this machine that behaves well or badly by path."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

REDIRECTS = {
    "/moved.png": "/cat.png",
    "/to-file": "file:///etc/hostname",
    "/to-ftp": "ftp://127.0.0.1/cat.png",
    "/loop": "/loop",
}


def picture(colour: tuple[int, int, int] = (200, 100, 50), size: tuple[int, int] = (60, 40)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


class Server(ThreadingHTTPServer):
    """Counts what it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path in REDIRECTS:
            self._answer(302, b"", {"Location": REDIRECTS[path]})
        elif path == "/page.jpg":
            self._answer(200, b"<!DOCTYPE html><html></html>", {"Content-Type": "image/jpeg"})
        elif path == "/empty.png":
            self._answer(200, b"")
        elif path == "/large.png":
            self._answer(200, b"", {"Content-Length": "999999999"})
        elif path == "/broken.png":
            self._answer(200, picture(), {"Content-Length": "5000"})
        elif path in {"/endless.png", "/dripping.png"}:
            self._drip(b"x" * 1000 if path == "/endless.png" else b"x")
        elif path.startswith("/other/") or path.endswith("dog.png"):
            self._answer(200, picture((0, 0, 255)))
        elif path.endswith("cat.png"):
            self._answer(200, picture(), {"Content-Type": "text/plain"})  # an image all the same
        else:
            self._answer(404, b"")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, part: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(1000):
                self.wfile.write(part)
                time.sleep(0.01)
        except OSError:
            pass  # the client has had enough


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
