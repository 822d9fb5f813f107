"""A hub on this machine that speaks to ``huggingface_hub`` as the Hugging Face hub does, well or badly.

It answers ``/api/models/REPO``, ``…/revision/REV``, ``…/tree/REV`` and ``/REPO/resolve/REV/FILE``; large files lie
on a second address, as they do behind the real hub. It knows no Xet (the real hub offers it for most large files,
and ``hf_xet`` then fetches chunks), no signed addresses that expire, no compression and no encryption.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

_LARGE = (".safetensors", ".bin", ".model")  # kept apart, as by git-lfs
_PART = 1 << 14


@dataclass
class Repository:
    """Files by their paths, and who may have them: ``readers`` holds the tokens of a gated one."""

    files: dict[str, bytes]
    gated: bool = False
    readers: set[str] = field(default_factory=set)

    @property
    def commit(self) -> str:
        known = hashlib.sha1()
        for name, data in sorted(self.files.items()):
            known.update(name.encode() + hashlib.sha256(data).digest())
        return known.hexdigest()


@dataclass
class Asked:
    """One request: what for, which bytes, how it was answered, and how many bytes of a file were sent."""

    method: str
    path: str
    range: str | None
    status: int = 0
    sent: int = 0


class Hub:
    """Repositories, the log of requests, and what shall go wrong.

    Attributes:
        asked: all requests, in their order.
        cuts: by file name, after how many bytes the connection is cut, one number for each answer.
        pauses: by file name, seconds before each 16 kB.
        refusals: how many of the next requests are answered by 429.
        portal: answer everything with a page, as networks do that want a login first.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[Asked] = []
        self.cuts: dict[str, deque[int]] = {}
        self.pauses: dict[str, float] = {}
        self.refusals = 0
        self.portal = False
        self.lock = threading.Lock()
        self.front, self.storage = (_Server(self) for _ in range(2))

    @property
    def address(self) -> str:
        return self.front.address

    def sent(self, name: str = "") -> int:
        """Bytes of files whose path ends in ``name`` that were sent."""
        with self.lock:
            return sum(each.sent for each in self.asked if each.path.endswith(name))

    def got(self, name: str) -> list[Asked]:
        """The GET requests for the bytes of a file."""
        with self.lock:
            return [each for each in self.asked if each.method == "GET" and each.path.endswith(name) and each.sent]

    def stop(self) -> None:
        for server in (self.front, self.storage):
            server.stop()


@contextmanager
def serving_hub(repositories: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    """A hub with these repositories (files by name) until the block ends."""
    hub = Hub()
    hub.repositories = {name: Repository(dict(files)) for name, files in repositories.items()}
    try:
        yield hub
    finally:
        hub.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        self._connections.append(request)
        super().process_request(request, client_address)

    def stop(self) -> None:
        if self._thread.is_alive():
            self.shutdown()
            self.server_close()
            self._thread.join()
        for connection in self._connections:  # those that are kept open for the next request
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    asked: Asked

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.asked = Asked(self.command, path, self.headers.get("Range"))
        with self.server.hub.lock:  # before the answer, as the client goes on once it has it
            self.server.hub.asked.append(self.asked)
        try:
            self._route(path)
        except OSError:
            self.close_connection = True  # the client has gone

    def _route(self, path: str) -> None:
        hub = self.server.hub
        with hub.lock:
            refused = hub.refusals > 0
            hub.refusals -= refused
        if refused:
            return self._head(429, {"Retry-After": "1"})
        if hub.portal:
            return self._head(200, {"Content-Type": "text/html"})
        if path.startswith("/api/models/"):
            return self._api(path.removeprefix("/api/models/"))
        if path.startswith("/api/resolve-cache/models/"):
            owner, name, _, file = path.removeprefix("/api/resolve-cache/models/").split("/", 3)
            return self._small(hub.repositories[f"{owner}/{name}"], file)
        if path.startswith(
            "/stored/"
        ):  # of the second address: signed by what they are, nobody is asked for a token
            owner, name, file = path.removeprefix("/stored/").split("/", 2)
            return self._bytes(hub.repositories[f"{owner}/{name}"].files[file], {})
        return self._resolve(path)

    def _api(self, path: str) -> None:
        name, rest = "/".join(path.split("/")[:2]), path.split("/")[2:]
        repository = self.server.hub.repositories.get(name)
        if repository is None:
            return self._error(401, "RepoNotFound", "Invalid username or password.")
        if rest and rest[0] == "tree":
            return self._tree(repository, "/".join(rest[2:]))
        siblings = [{"rfilename": file} for file in repository.files]
        facts = {"_id": "0", "id": name, "modelId": name, "sha": repository.commit, "siblings": siblings}
        return self._json(facts | {"private": False, "gated": "manual" if repository.gated else False, "tags": []})

    def _tree(self, repository: Repository, folder: str) -> None:
        if folder:
            return self._error(404, "EntryNotFound", f"{folder} does not exist")
        return self._json([_entry(name, data) for name, data in repository.files.items()])

    def _resolve(self, path: str) -> None:
        parts = path.strip("/").split("/", 4)
        name = "/".join(parts[:2])
        repository = self.server.hub.repositories.get(name)
        if repository is None or len(parts) < 5:
            return self._error(401, "RepoNotFound", "Invalid username or password.")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository.gated and token not in repository.readers:
            return self._error(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        commit = {"X-Repo-Commit": repository.commit}
        data = repository.files.get(parts[4])
        if data is None:
            return self._error(404, "EntryNotFound", "Entry not found", commit)
        if not parts[4].endswith(_LARGE):
            place = f"/api/resolve-cache/models/{name}/{repository.commit}/{parts[4]}"
            return self._head(307, {"Location": place, **commit})
        linked = {"X-Linked-Etag": f'"{_sha256(data)}"', "X-Linked-Size": str(len(data))}
        place = f"{self.server.hub.storage.address}/stored/{name}/{parts[4]}"
        return self._head(302, {"Location": place, **linked, **commit})

    def _small(self, repository: Repository, file: str) -> None:
        data = repository.files[file]
        self._bytes(data, {"ETag": f'"{_git_name(data)}"', "X-Repo-Commit": repository.commit})

    def _bytes(self, data: bytes, headers: dict[str, str]) -> None:
        start, whole = 0, len(data)
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes="):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers = {**headers, "Content-Range": f"bytes {start}-{whole - 1}/{whole}"}
        length = {"Content-Length": str(whole - start), "Accept-Ranges": "bytes"}
        self._head(206 if start else 200, {**length, **headers})
        if self.command == "GET":
            self._send(data[start:])

    def _send(self, data: bytes) -> None:
        hub, file = self.server.hub, self.path.rsplit("/", 1)[-1]
        with hub.lock:
            cuts = hub.cuts.get(file)
            end = cuts.popleft() if cuts else len(data)
        for first in range(0, min(end, len(data)), _PART):
            if file in hub.pauses:
                time.sleep(hub.pauses[file])
            part = data[first : min(first + _PART, end)]
            self.asked.sent += len(part)
            self.wfile.write(part)
        if end < len(data):
            self.close_connection = True

    def _json(self, facts: object) -> None:
        data = json.dumps(facts).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        if self.command == "GET":
            self.wfile.write(data)

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self._head(status, {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.asked.status = status
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def _entry(name: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": _git_name(data)}
    if name.endswith(_LARGE):
        entry["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": 134}
    return entry


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git_name(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def point_at(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``huggingface_hub`` in this process use ``hub``, and ``folder`` as its cache.

    It reads ``HF_ENDPOINT`` and ``HF_HOME`` when it is imported: what proves those needs a process of its own.
    """
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    facts = {"ENDPOINT": hub.address, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": str(folder)}
    for name, value in facts.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr("ovseg.network.getproxies", dict)
