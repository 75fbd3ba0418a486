"""A server on this machine that speaks as much of the Hub's protocol as huggingface_hub needs to upload a model."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN, READ_ONLY = "hf_mine", "hf_reader"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class UploadServer(ThreadingHTTPServer):
    """The Hub for the user `me`. `repositories` holds the files, `private` and `commits` (messages) of each."""

    daemon_threads = True

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.fails_at: str | None = None  # a request whose path has this in it is answered with an error
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def make(self, name: str, private: bool = False) -> None:
        self.repositories[name] = {"files": {}, "private": private, "commits": []}


class _Handler(BaseHTTPRequestHandler):
    server: UploadServer

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        oid = self.path.removeprefix("/blobs/")
        body = self._body()
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.blobs[oid] = body
        self._send(200, {})

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        token = str(self.headers.get("Authorization")).removeprefix("Bearer ")
        if token not in (TOKEN, READ_ONLY):
            return self._send(401, {"error": "Invalid username or password."})
        if self.server.fails_at and self.server.fails_at in path:
            return self._send(400, {"error": "storage is full"})
        if path == "/api/whoami-v2":
            return self._send(200, {"name": "me", "type": "user"})
        if path == "/api/repos/create":
            return self._create(json.loads(body), token)
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        for name, repository in self.server.repositories.items():
            if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
                return self._send(200, {"_id": "1", "id": name, "sha": COMMIT, "private": repository["private"]})
            if path == f"/api/models/{name}/preupload/main":
                return self._send(200, {"files": [_mode(file["path"]) for file in json.loads(body)["files"]]})
            if path == f"/{name}.git/info/lfs/objects/batch":
                return self._send(200, {"transfer": "basic", "objects": self._places(json.loads(body)["objects"])})
            if path == f"/api/models/{name}/commit/main":
                return self._commit(repository, name, [json.loads(line) for line in body.splitlines()])
        self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def _create(self, asked: dict[str, Any], token: str) -> None:
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if token == READ_ONLY or not name.startswith("me/"):
            return self._send(403, {"error": f"You don't have the rights to create a model under {name}"})
        exists = name in self.server.repositories
        if not exists:
            self.server.make(name, asked.get("visibility") == "private" or bool(asked.get("private")))
        self._send(409 if exists else 200, {"url": f"{self.server.endpoint}/{name}"})

    def _places(self, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
        upload = f"{self.server.endpoint}/blobs/"
        return [{**entry, "actions": {"upload": {"href": upload + entry["oid"]}}} for entry in objects]

    def _commit(self, repository: dict[str, Any], name: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository["commits"].append(value["summary"])
            elif line["key"] == "file":
                repository["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository["files"][value["path"]] = self.server.blobs[value["oid"]]
        address = f"{self.server.endpoint}/{name}/commit/{COMMIT}"
        self._send(200, {"success": True, "commitOid": COMMIT, "commitUrl": address})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        sent = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _mode(path: str) -> dict[str, object]:
    large = path.endswith(".safetensors")
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}


@contextmanager
def receiving() -> Iterator[UploadServer]:
    with UploadServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
