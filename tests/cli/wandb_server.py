"""As much of W&B's server as its client talks to when it sends a run; on the loopback interface."""

from __future__ import annotations

import gzip
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """What was received: by run, its lines of history by place, what it was upserted with, and its exit code."""

    def __init__(self) -> None:
        self.history: dict[str, dict[int, dict[str, Any]]] = {}
        self.upserts: dict[str, list[dict[str, Any]]] = {}
        self.exit_codes: dict[str, int] = {}
        self.operations: list[str] = []
        self.stalled = threading.Event()
        self.released = threading.Event()
        self.stall_after: str | None = None  # an operation after which it falls silent
        self.address = ""

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer a GraphQL request."""
        if operation == "Viewer":
            teams = {"edges": [{"node": {"name": "tester"}}]}
            viewer = {"id": "1", "entity": "tester", "username": "tester", "email": "a@b", "flags": "{}"}
            return {"viewer": {**viewer, "teams": teams}}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "tester"}}
        if operation == "UpsertBucket":
            run = variables.get("name") or variables["id"]
            inserted = run not in self.upserts
            self.upserts.setdefault(run, []).append(variables)
            bucket = {"id": run, "name": run, "displayName": run, "description": "", "config": "{}", "sweepName": None}
            lines = len(self.history.get(run, {}))
            bucket |= {"project": project, "historyLineCount": lines}
            return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
        if operation == "RunResumeStatus":
            return {"model": {**project, "bucket": self._resumed(variables["name"])}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.address}/upload"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def _resumed(self, run: str) -> dict[str, Any] | None:
        if run not in self.upserts:
            return None
        lines = self.history.get(run, {})
        tail = [json.dumps(lines[max(lines)])] if lines else []
        return {
            "id": run, "name": run, "summaryMetrics": tail[0] if tail else "{}", "displayName": run,
            "logLineCount": 0, "historyLineCount": len(lines), "eventsLineCount": 0, "historyTail": json.dumps(tail),
            "eventsTail": "[]", "config": "{}", "tags": [], "notes": None, "wandbConfig": '{"t": {}}',
        }  # fmt: skip

    def stream(self, run: str, document: dict[str, Any]) -> None:
        """Take lines of a run's files."""
        history = document.get("files", {}).get("wandb-history.jsonl")
        if history:
            lines = self.history.setdefault(run, {})
            lines |= {history["offset"] + place: json.loads(line) for place, line in enumerate(history["content"])}
        if document.get("complete"):
            self.exit_codes[run] = document.get("exitcode", 0)


@contextmanager
def silent_port(kind: str) -> Iterator[str]:
    """An address that refuses connections ("refusing"), or takes them and never answers ("stalling")."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == "stalling":
            taken.listen()
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def environment(address: str) -> dict[str, str]:
    """The environment of a process that takes the address for W&B's, with a key of the right form."""
    return {**own_environment(), "WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}


def own_environment() -> dict[str, str]:
    """This process's environment, but for the W&B process of a test that trained in it: another must start its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WANDB_SERVICE")}


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server; from the moment that ``stalled`` is set it takes requests and answers none."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({})

        def do_PUT(self) -> None:
            self._body()
            self._reply({})

        def do_POST(self) -> None:
            body = self._body()
            if self.path == "/graphql":
                document = json.loads(body)
                operation = document.get("operationName") or document["query"].split("(")[0].split("{")[0].split()[-1]
                state.operations.append(operation)
                self._reply({"data": state.answer(operation, document.get("variables") or {})})
                if operation == state.stall_after:
                    state.stalled.set()
            elif self.path.endswith("/file_stream"):
                state.stream(self.path.split("/")[-2], json.loads(body))
                self._reply({})
            else:
                self._reply({})

        def _body(self) -> bytes:
            if state.stalled.is_set():
                state.released.wait()
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def _reply(self, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()
