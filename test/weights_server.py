# SPDX-License-Identifier: Apache-2.0
"""A server on the loopback that has one weights file and can misbehave; names outside the loopback do not resolve."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mlesam_ros.model.weights import FOLDER_VARIABLE, PUBLISHED, PublishedWeights

NAME = "sam2.1_hiera_tiny"
CONTENT = bytes(range(256)) * 2000


@dataclass
class WeightsServer:
    """Behavior of the server, and what it was asked for.

    Attributes:
        content: the file that it sends.
        ranges: whether it answers Range with a part.
        break_after: bytes of an answer after which it closes the connection.
        status: HTTP status of an answer instead of the file.
        content_type, with_length: of the headers.
        go_on: event that it waits for in the middle of an answer.
        asked: (path, Range) of every request.
    """

    content: bytes = CONTENT
    ranges: bool = True
    break_after: int | None = None
    status: int = 200
    content_type: str = "binary/octet-stream"
    with_length: bool = True
    go_on: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers["Range"]
        self.asked.append((request.path, wanted))
        if self.status != 200:
            request.send_error(self.status)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        body = self.content[start:]
        request.send_response(206 if start else 200)
        request.send_header("Content-Type", self.content_type)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.with_length:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        half = len(body) // 2
        request.wfile.write(body[:half] if self.break_after is None else body[: self.break_after])
        if self.break_after is None:
            self.go_on.wait(10)
            request.wfile.write(body[half:])


@contextmanager
def weights_server() -> Iterator[WeightsServer]:
    """Run a server on the loopback."""
    behavior = WeightsServer()
    behavior.go_on.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            behavior.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        behavior.url = f"http://127.0.0.1:{server.server_port}"
        yield behavior
        behavior.go_on.set()
        server.shutdown()
        thread.join()


def small_row() -> PublishedWeights:
    """The row of `NAME` for the server's file."""
    return replace(PUBLISHED[NAME], size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())


def isolate(monkeypatch: pytest.MonkeyPatch, folder: object) -> None:
    """Use a folder for the weights, the server's file under `NAME`, and no name that is not of the loopback."""
    resolve = socket.getaddrinfo

    def local(host, *arguments, **options):
        if host != "127.0.0.1":
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", local)
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    monkeypatch.setitem(PUBLISHED, NAME, small_row())
