from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.storage import Store

from ovseg.errors import StorageError
from ovseg.storage import copies as module
from ovseg.storage import mirror


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of objects that were fetched."""
    names: list[str] = []
    fetch: Callable[[str, Path], None] = module.fetch

    def count(address: str, path: Path) -> None:
        names.append(path.name)
        fetch(address, path)

    monkeypatch.setattr(module, "fetch", count)
    return names


def files(folder: Path) -> dict[str, bytes]:
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_a_copy_has_what_storage_has_and_only_what_changed_is_fetched(
    store: Store, tmp_path: Path, fetched: list[str]
) -> None:
    content = {"images/a.png": b"one", "images/b c.png": b"two", "list.txt": b"a\nb c\n"}
    for name, each in content.items():
        store.write(f"data/{name}", each)
    store.write("database/other", b"beside")
    copy = mirror(f"{store.address}/data/", folder=tmp_path)
    assert copy.name == "data" and files(copy) == content and len(fetched) == 3
    fetched.clear()
    assert mirror(f"{store.address}/data", folder=tmp_path) == copy and not fetched
    store.write("data/images/a.png", b"1-1")  # as many bytes as before
    store.remove("data/list.txt")
    (copy / "images/b c.png").unlink()
    mirror(f"{store.address}/data", folder=tmp_path)
    assert sorted(fetched) == ["a.png", "b c.png"]
    assert files(copy) == {"images/a.png": b"1-1", "images/b c.png": b"two"}


def test_a_copy_that_was_stopped_goes_on(
    memory_store: Store, tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        memory_store.write(f"data/{name}", name.encode())
    mirror(f"{memory_store.address}/data", folder=tmp_path)
    memory_store.write("data/b", b"new")

    def stopped(address: str, path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "fetch", stopped)
        with pytest.raises(KeyboardInterrupt):
            mirror(f"{memory_store.address}/data", folder=tmp_path)
    fetched.clear()
    copy = mirror(f"{memory_store.address}/data", folder=tmp_path)
    assert fetched == ["b"] and files(copy) == {"a": b"a", "b": b"new", "c": b"c"}


def test_copies_are_bounded_and_those_used_least_recently_go(memory_store: Store, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        memory_store.write(f"{name}/a", b"x" * 40)
    places = {}
    for name in ("one", "two", "one", "three"):
        places[name] = mirror(f"{memory_store.address}/{name}", folder=tmp_path, limit=100)
    assert places["one"].is_dir() and places["three"].is_dir() and not places["two"].exists()
    memory_store.write("one/b", b"x" * 61)
    with pytest.raises(StorageError, match=r"one' has 1.01e-07 GB, more than the 1e-07 GB"):
        mirror(f"{memory_store.address}/one", folder=tmp_path, limit=100)
    assert files(places["one"]) == {"a": b"x" * 40}


def test_a_damaged_index_makes_the_copy_anew(memory_store: Store, tmp_path: Path, fetched: list[str]) -> None:
    memory_store.write("data/a", b"x")
    copy = mirror(f"{memory_store.address}/data", folder=tmp_path)
    for broken in (b"", b"[]", b'{"a": 3}', b"\xff"):
        (copy.parent / "index.json").write_bytes(broken)
        fetched.clear()
        assert files(mirror(f"{memory_store.address}/data", folder=tmp_path)) == {"a": b"x"} and fetched == ["a"]


def test_what_is_not_there_is_one_sentence(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"there is nothing below '{store.address}/none' in storage"):
        mirror(f"{store.address}/none", folder=tmp_path)
    with pytest.raises(StorageError, match="there is no bucket 'bucketx'"):
        mirror(f"{store.address}x/data", folder=tmp_path)
    assert not files(tmp_path)
