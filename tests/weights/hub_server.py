"""A server on this machine that speaks as much of the Hub's protocol as huggingface_hub needs to fetch a model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves `folder` as the model `owner/model`; `asked` lists the files whose bytes were fetched."""

    daemon_threads = True

    def __init__(self, folder: Path):
        self.folder, self.asked, self.tokens = folder, [], []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.tokens.append(self.headers.get("Authorization"))
        for revision in ("main", COMMIT):
            if path in (f"/api/models/owner/model/revision/{revision}", "/api/models/owner/model"):
                return self._send(json.dumps(self._info()).encode(), with_body, "application/json")
            if path.startswith(f"/api/models/owner/model/tree/{revision}"):
                return self._send(json.dumps(self._tree()).encode(), with_body, "application/json")
            prefix = f"/owner/model/resolve/{revision}/"
            if path.startswith(prefix) and (self.server.folder / path.removeprefix(prefix)).is_file():
                name = path.removeprefix(prefix)
                if with_body:
                    self.server.asked.append(name)
                return self._send((self.server.folder / name).read_bytes(), with_body, "application/octet-stream")
        code = {"owner/gated": "GatedRepo", "owner/model": "RevisionNotFound"}
        named = next((code[known] for known in code if known in path), "RepoNotFound")
        self.send_response(403 if named == "GatedRepo" else 404)
        self.send_header("X-Error-Code", named)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, body: bytes, with_body: bool, kind: str) -> None:
        self.send_response(200)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _files(self) -> list[Path]:
        return sorted(entry for entry in self.server.folder.rglob("*") if entry.is_file())

    def _info(self) -> dict[str, object]:
        names = [{"rfilename": str(entry.relative_to(self.server.folder))} for entry in self._files()]
        return {"_id": "1", "id": "owner/model", "modelId": "owner/model", "sha": COMMIT, "siblings": names}

    def _tree(self) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": str(f.relative_to(self.server.folder)), "size": f.stat().st_size, "oid": COMMIT}
            for f in self._files()
        ]


@contextmanager
def serving(folder: Path) -> Iterator[HubServer]:
    with HubServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
