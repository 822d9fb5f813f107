from __future__ import annotations

import builtins
import importlib
import socket
from pathlib import Path
from typing import Any

import pytest
from helpers.storage import Store, s3_settings

from ovseg.errors import ImageError, MissingDependencyError, OutputError, OvsegError, StorageError
from ovseg.identity import FileMark
from ovseg.images.find import find_images, find_stored
from ovseg.storage import Shelf, below, fetch, is_stored, look, opening, put, read
from ovseg.storage import objects as objects_module

NAMES = [
    "b/z.jpg",
    "a-b/c.jpg",
    "a/b.JPG",
    "a/b/deep.png",
    "Z.webp",
    "z.tif",
    "ü 1#2.jpeg",
    "notes.txt",
    "raw.heic",
]


@pytest.mark.parametrize(
    ("source", "stored"),
    [("s3://b/x", True), ("GS://b", True), ("https://a.b/c.jpg", False), ("s3:/b", False), ("photos/", False)],
)
def test_what_is_in_storage_is_known_by_its_scheme(source: str, stored: bool) -> None:
    assert is_stored(source) == stored and not is_stored(Path("s3://b/x"))


def test_a_folder_and_a_pattern_are_listed_as_local_ones(store: Store, tmp_path: Path) -> None:
    for name in NAMES:
        store.write(f"photos/{name}", b"x")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    store.write("photos-of-others/a.jpg", b"x")
    for source in ("", "/", "/*.jp*g", "/**/*.jpg", "/a*/*", "/z.tif"):
        local = [path.relative_to(tmp_path).as_posix() for path in find_images(f"{tmp_path}{source}")]
        root, found = find_stored(f"{store.address}/photos{source}")
        assert [each.address.removeprefix(f"{store.address}/photos/") for each in found] == local
        assert root == f"{store.address}/photos"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("photos", "expected images in folder '.*/photos', found none; known suffixes: .avif"),
        ("photo", "no object, folder or pattern in storage matches '.*/photo'; check the spelling"),
        ("photos/*.jpg", r"no object, folder or pattern in storage matches '.*/photos/\*.jpg'"),
    ],
)
def test_what_has_no_photos_is_named(store: Store, source: str, message: str) -> None:
    store.write("photos/notes.txt", b"x")
    with pytest.raises(ImageError, match=message):
        find_stored(f"{store.address}/{source}")


def test_a_bucket_that_is_not_there_is_named(store: Store) -> None:
    missing = store.address.replace("bucket", "nowhere")
    with pytest.raises(
        StorageError, match=f"there is no bucket 'nowhere', got '{missing}/photos'; check the spelling"
    ):
        find_stored(f"{missing}/photos")
    with pytest.raises(
        StorageError, match="expected an address with a bucket, such as s3://bucket/photos, got 's3://'"
    ):
        find_stored("s3://")


def test_who_may_use_a_folder_alone_need_not_see_its_bucket(
    memory_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, first_answer = memory_store.write("photos/a.jpg", b"x"), objects_module.first_answer

    def guarded(files: Any, name: str) -> dict[str, Any]:
        if name == "bucket":
            raise PermissionError("Forbidden")
        return first_answer(files, name)

    monkeypatch.setattr(objects_module, "first_answer", guarded)
    assert [each.address for each in find_stored(f"{memory_store.address}/photos")[1]] == [address]


def test_a_name_that_would_lead_out_of_a_folder_is_refused(memory_store: Store) -> None:
    memory_store.files.pipe("/bucket/photos/../../evil.jpg", b"x")
    with pytest.raises(
        StorageError, match=r"names that can be paths, got 'memory://bucket/photos/\.\./\.\./evil\.jpg'"
    ):
        below(f"{memory_store.address}/photos")


def test_an_object_comes_and_goes_whole(store: Store, tmp_path: Path) -> None:
    address = f"{store.address}/below/a.bin"
    assert look(address) is None
    (tmp_path / "a.bin").write_bytes(b"12345")
    put(tmp_path / "a.bin", address)
    found = look(address)
    assert found is not None and found.size == 5 and found.address == address and [found] == below(store.address)
    assert look(f"{store.address}/below") is None  # a folder
    fetch(address, tmp_path / "new/b.bin")
    assert (tmp_path / "new/b.bin").read_bytes() == b"12345" == read(address)
    store.remove("below/a.bin")
    with pytest.raises(ImageError, match=f"there is no '{address}' in storage, or no longer; check the address"):
        read(address)
    with pytest.raises(ImageError, match="or no longer"):
        fetch(address, tmp_path / "c.bin")
    assert not (tmp_path / "c.bin").exists()


def test_an_object_is_known_by_its_stamp_until_it_is_written_anew(store: Store) -> None:
    found = look(store.write("a.bin", b"12345"))
    assert found is not None and found.stamp and found.steady_stamp() == found.stamp
    assert found.is_marked(FileMark(5, found.stamp, ""))
    assert not found.is_marked(FileMark(5, "", "")) and not found.is_marked(FileMark(6, found.stamp, ""))
    store.write("a.bin", b"54321")
    assert found.steady_stamp() == "" and look(found.address) != found


def test_without_a_stamp_nothing_is_taken_for_the_same() -> None:
    assert not objects_module.Stored("s3://b/a", 5, "").is_marked(FileMark(5, "", ""))


def test_a_shelf_lets_go_of_the_old_record_before_it_puts_anything(memory_store: Store, tmp_path: Path) -> None:
    shelf, files = Shelf(f"{memory_store.address}/out", tmp_path), [tmp_path / "a.png", tmp_path / "a.json"]
    memory_store.write("out/a.json", b"old")
    files[1].write_bytes(b"new")  # and no picture: putting it fails
    with pytest.raises(OutputError, match=r"cannot write .*a\.png|storage failed"):
        shelf.put(files, begun=b"begun")
    assert memory_store.contents("out") == {"a.json": b"begun"}
    files[0].write_bytes(b"picture")
    shelf.put(files, begun=b"begun")
    assert memory_store.contents("out") == {"a.png": b"picture", "a.json": b"new"}
    files[1].unlink()
    assert shelf.bring(files[1]) and files[1].read_bytes() == b"new" and not shelf.bring(tmp_path / "b.json")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *given: Any) -> Any:
        if name == "s3fs":
            raise ImportError(name)
        return builtins.__import__(name, *given)

    opening._opened.cache_clear()
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError, match=r"the package 's3fs', .*; pip install 'ovseg\[storage\]'$"):
        find_stored("s3://bucket/photos")


def _error(name: str, *bases: type[Exception]) -> Exception:
    return type(name, bases or (Exception,), {})("because\nof this.")


@pytest.mark.parametrize(
    ("problem", "kind", "message"),
    [
        (
            _error("NoCredentialsError"),
            StorageError,
            r"wants credentials, got none .*\(because of this\); set them",
        ),
        (
            _error("EndpointConnectionError", ConnectionError),
            StorageError,
            "cannot reach the storage of 's3://b/a'",
        ),
        (_error("FSTimeoutError"), StorageError, "cannot reach the storage"),
        (
            PermissionError("Forbidden"),
            ImageError,
            r"storage refuses 's3://b/a' \(Forbidden\); check the credentials",
        ),
        (FileNotFoundError(), ImageError, "there is no 's3://b/a' in storage, or no longer"),
        (OSError("odd"), ImageError, r"storage failed at 's3://b/a' \(odd\); try again"),
    ],
)
def test_what_a_backend_raises_is_one_sentence(problem: Exception, kind: type[OvsegError], message: str) -> None:
    with pytest.raises(kind, match=message) as raised, opening.answering("s3://b/a", error=ImageError):
        raise problem
    assert "\n" not in str(raised.value)


def test_a_backend_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from fsspec.asyn import AsyncFileSystem

    class Silent(AsyncFileSystem):
        async def _info(self, path: str, **_: Any) -> dict[str, Any]:
            await asyncio.sleep(3600)
            return {}

    monkeypatch.setattr(opening, "_PATIENCE", 0.1)
    monkeypatch.setattr(opening, "_opened", lambda scheme: Silent(skip_instance_cache=True))
    with pytest.raises(StorageError, match="cannot reach the storage of 's3://bucket/photos'"):
        find_stored("s3://bucket/photos")


def test_an_endpoint_where_nothing_answers_is_one_sentence(
    s3_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # a port that nobody listens at
        taken.bind(("127.0.0.1", 0))
        for name, value in s3_settings(f"http://127.0.0.1:{taken.getsockname()[1]}").items():
            monkeypatch.setenv(name, value)
        opening._opened.cache_clear()
        with pytest.raises(
            StorageError, match=r"cannot reach the storage of 's3://bucket/photos' .*AWS_ENDPOINT_URL"
        ):
            find_stored("s3://bucket/photos")


def test_without_credentials_is_one_sentence(
    s3_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    opening._opened.cache_clear()
    with pytest.raises(StorageError, match=r"wants credentials, got none that it can use \(Unable to locate"):
        find_stored("s3://bucket/photos")
