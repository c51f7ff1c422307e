"""What the engine's tests share: a listener that takes notes and a Hugging Face Hub on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bot.generation import FetchProgress, GenerationRequest, Progress

ROOT = Path(__file__).resolve().parents[3]
POCKET = ROOT / "models" / "pocket"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def request(prompt: str = "a sunset over a beach", **changes: Any) -> GenerationRequest:
    """A small request for the built-in model."""
    values: dict[str, Any] = {
        "prompt": prompt, "negative_prompt": "", "model": "pocket", "width": 64, "height": 64, "count": 1,
        "num_inference_steps": 4, "guidance_scale": 4.0, "seed": 7, "sampler": "DDIM",
    }  # fmt: skip
    return GenerationRequest(**{**values, **changes})


class Notes:
    """A listener that takes notes, wants a preview every `every` steps and cancels after `cancel_after` steps."""

    def __init__(self, *, every: int = 0, cancel_after: int | None = None) -> None:
        self.progress: list[Progress] = []
        self.loads: list[FetchProgress] = []
        self._every = every
        self._cancel_after = cancel_after
        self._asked = 0

    def cancelled(self) -> bool:
        return self._cancel_after is not None and len(self.progress) >= self._cancel_after

    def wants_preview(self) -> bool:
        self._asked += 1
        return self._every > 0 and self._asked % self._every == 0

    def on_progress(self, progress: Progress) -> None:
        self.progress.append(progress)

    def on_load(self, progress: FetchProgress) -> None:
        self.loads.append(progress)


class FakeHub:
    """Serves folders as repositories, as huggingface.co does: the files' list, and each file by commit."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.token = "hf_right"
        self.broken = False
        self.asked: list[str] = []
        self.on_chunk: Callable[[], None] = lambda: None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            def do_HEAD(self) -> None:
                hub.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def add_folder(self, repository: str, folder: Path) -> None:
        """Serve a folder's files under a repository's id."""
        self.repositories[repository] = {
            file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
        }

    def close(self) -> None:
        """Stop answering; further calls are refused by the system."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.split("?")[0].strip("/")
        self.asked.append(f"{handler.command} {path}")
        parts = path.split("/")
        api = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if api else parts[:2])
        if self.broken:
            return self._send(handler, 503, {}, b"{}")
        if repository not in self.repositories:
            return self._send(handler, 401, {"X-Error-Code": "RepoNotFound"}, b"{}")
        if repository in self.gated and handler.headers.get("Authorization") != f"Bearer {self.token}":
            return self._send(handler, 403, {"X-Error-Code": "GatedRepo"}, b"{}")
        files = self.repositories[repository]
        if api:
            listed = [{"rfilename": name, "size": len(data)} for name, data in sorted(files.items())]
            body = json.dumps({"id": repository, "modelId": repository, "sha": COMMIT, "siblings": listed}).encode()
            return self._send(handler, 200, {"Content-Type": "application/json"}, body)
        data = files.get("/".join(parts[4:]))
        if data is None:
            return self._send(handler, 404, {"X-Error-Code": "EntryNotFound"}, b"{}")
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self._send(handler, 200, {"ETag": etag, "X-Repo-Commit": COMMIT}, data)

    def _send(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        try:
            for start in range(0, len(body), 1 << 20):
                self.on_chunk()
                handler.wfile.write(body[start : start + (1 << 20)])
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True
