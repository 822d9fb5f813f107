"""Object storage for tests: in memory, and an S3 server of this machine where moto is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec
import pytest

from ovseg.storage import opening

HAS_S3 = all(importlib.util.find_spec(name) is not None for name in ("s3fs", "moto", "flask"))
WHY_NO_S3 = "needs s3fs and moto[server]"


@dataclass
class Store:
    """A bucket.

    Attributes:
        address: of the bucket.
        files: the file system of fsspec that it is in.
    """

    address: str
    files: Any

    def write(self, name: str, content: bytes) -> str:
        """Put an object; its address comes back."""
        address = f"{self.address}/{name}"
        self.files.pipe(address, content)
        return address

    def remove(self, name: str) -> None:
        self.files.rm_file(f"{self.address}/{name}")

    def contents(self, folder: str) -> dict[str, bytes]:
        """The objects below a folder, by their names below it."""
        root = f"{opening.key_of(self.address)}/{folder}/"
        found = self.files.find(f"{self.address}/{folder}")
        return {name.lstrip("/").removeprefix(root): self.files.cat_file(name) for name in found}


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty bucket, once in memory and once behind an S3 server."""
    made: Store = request.getfixturevalue(f"{request.param}_store")
    return made


@pytest.fixture
def memory_store() -> Iterator[Store]:
    files = fsspec.filesystem("memory")
    files.mkdir("/bucket")
    yield Store("memory://bucket", files)
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture
def s3_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if not HAS_S3:
        pytest.skip(WHY_NO_S3)
    with s3_server() as address:
        for name, value in s3_settings(address).items():
            monkeypatch.setenv(name, value)
        opening._opened.cache_clear()
        files = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
        files.mkdir("bucket")
        yield Store("s3://bucket", files)
        files.rm("bucket", recursive=True)  # servers of one process share what they keep
        opening._opened.cache_clear()


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of an S3 server of this process alone."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def s3_settings(address: str) -> dict[str, str]:
    """What the environment must say for a server at ``address``; any key will do there."""
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
    return {**keys, "AWS_ENDPOINT_URL": address, "NO_PROXY": "127.0.0.1"}
