"""A real HTTP server on this machine that fails on command, and small sets of files for it to serve."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from datamodules.store import ShardInfo


def write_files(folder: Path, number: int, size: int, prefix: str = "shard") -> list[ShardInfo]:
    """Random files, and what an index would say of them."""
    folder.mkdir(parents=True, exist_ok=True)
    infos = []
    for i in range(number):
        data = os.urandom(size)
        (folder / f"{prefix}-{i:03d}.tar").write_bytes(data)
        infos.append(ShardInfo(f"{prefix}-{i:03d}.tar", 1, size, hashlib.sha256(data).hexdigest()))
    return infos


class LoopbackServer(ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        faults: by file name, what to do wrong in the next requests for its body, one after the other: a status, "stall"
            (send nothing), "stall midway", "truncate", "damage", "longer" or "" for nothing.
        asked: every request: (method, file name, range).
        stalled: is set when a request has come to stand still; ``go_on`` lets it go.
        ranges: whether parts of files can be asked for.
        tags: whether to send an ETag.
        bucket: answer as Google's JSON API does for a bucket of this name.
        allow: header that a request must carry.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.faults: dict[str, deque[int | str]] = defaultdict(deque)
        self.asked: list[tuple[str, str, str]] = []
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self.ranges = True
        self.tags = True
        self.bucket = ""
        self.allow: tuple[str, str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set" if not self.bucket else f"gs://{self.bucket}/set"

    def bodies(self) -> Counter[str]:
        """How often each file was asked for."""
        return Counter(name for method, name, _ in self.asked if method == "GET")

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        server = self.server
        parts = urlsplit(self.path)
        name = unquote(parts.path).removeprefix("/set/")
        if server.bucket:
            match = re.search(r"/b/([^/]+)/o/(.+)$", parts.path)
            if not match or match[1] != server.bucket:
                return self._status(404)
            name = unquote(match[2]).removeprefix("set/")
            if "alt=media" not in parts.query:
                return self._metadata(name)
        asked = self.headers.get("Range", "")
        server.asked.append((self.command, name, asked))
        if server.allow is not None and self.headers.get(server.allow[0]) != server.allow[1]:
            return self._status(401)
        fault = server.faults[name].popleft() if body and server.faults[name] else ""
        if isinstance(fault, int):
            return self._status(fault)
        if fault == "stall":
            self._stall()
            self.close_connection = True
            return None
        path = server.folder / name
        if not path.is_file():
            return self._status(404)
        data = whole = path.read_bytes()
        tag = hashlib.md5(whole).hexdigest()
        if fault == "damage":
            data = bytes(255 - byte for byte in data[:100]) + data[100:]
        if fault == "longer":
            data += b"more"
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        if match and server.ranges:
            first, last = int(match[1]), int(match[2] or len(data) - 1)
            if first >= len(data):
                return self._status(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}")
            data = data[first : last + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        if server.tags:
            self.send_header("ETag", f'"{tag}"')
        self.end_headers()
        if not body:
            return None
        if fault in ("truncate", "stall midway"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            if fault == "stall midway":
                self._stall()
            self.close_connection = True
            return None
        self.wfile.write(data)
        return None

    def _stall(self) -> None:
        self.server.stalled.set()
        self.server.go_on.wait(60)

    def _status(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _metadata(self, name: str) -> None:
        path = self.server.folder / name
        if not path.is_file():
            return self._status(404)
        data = path.read_bytes()
        answer = {
            "kind": "storage#object",
            "name": f"set/{name}",
            "bucket": self.server.bucket,
            "size": str(len(data)),
            "etag": hashlib.md5(data).hexdigest(),
            "generation": str(path.stat().st_mtime_ns),
        }
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        return None


@contextmanager
def serving(folder: Path) -> Iterator[LoopbackServer]:
    """Serve a folder for the time of a block."""
    with LoopbackServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.go_on.set()
            server.shutdown()
            thread.join()
