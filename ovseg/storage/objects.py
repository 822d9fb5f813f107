"""Objects in storage: found, read, written whole; and what says that one is still the same."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ovseg.errors import ImageError, OutputError, StorageError
from ovseg.files import atomic_path
from ovseg.identity import FileMark
from ovseg.storage.opening import address_of, answering, first_answer, key_of, opened

_CONTENT = ("ETag", "etag", "md5Hash")  # what a backend says of an object that changes with its bytes
_TIMES = ("LastModified", "updated", "mtime", "created")  # what else it may say


@dataclass(frozen=True)
class Stored:
    """An object in storage as it is now.

    Attributes:
        address: such as ``s3://bucket/photos/a.jpg``.
        size: in bytes.
        stamp: what changes when it is written anew: its ETag, or the time where there is none; empty for neither.
    """

    address: str
    size: int
    stamp: str

    def is_marked(self, mark: FileMark) -> bool:
        """Whether size and stamp say that the object still has the bytes of ``mark``; its bytes are not read."""
        return bool(self.stamp) and (self.size, self.stamp) == (mark.size, mark.stamp)

    def steady_stamp(self) -> str:
        """The stamp, if the object in storage still has it: what was read since then are its bytes; else empty."""
        return self.stamp if look(self.address) == self else ""


def look(address: str) -> Stored | None:
    """The object of this name; None where there is none.

    Raises:
        StorageError: see ``opening.answering``; also where it may not be read.
    """
    files = opened(address)
    with answering(address):
        try:
            found = first_answer(files, key_of(address))
        except FileNotFoundError:
            return None
    return _stored(address, found) if found["type"] == "file" else None


def below(address: str) -> list[Stored]:
    """All objects below a folder, in its sub-folders too; empty where there is no such folder.

    Raises:
        StorageError: as ``look``.
    """
    files = opened(address)
    with answering(address):  # fsspec lists what is not there as empty
        return _listed(address, files.find(key_of(address), detail=True))


def matching(pattern: str) -> list[Stored]:
    """All objects whose names a pattern with ``*``, ``?``, ``[...]`` or ``**`` fits.

    Raises:
        StorageError: as ``below``.
    """
    files = opened(pattern)
    with answering(pattern):
        return _listed(pattern, files.glob(key_of(pattern), detail=True))


def read(address: str) -> bytes:
    """The bytes of an object.

    Raises:
        ImageError: it is gone, or may not be read.
        StorageError: see ``opening.answering``.
    """
    files = opened(address)
    with answering(address, error=ImageError):
        return bytes(files.cat_file(key_of(address)))


def fetch(address: str, path: Path) -> None:
    """Make the file ``path`` of an object, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
        ImageError, StorageError: as ``read``.
    """
    files = opened(address)
    with atomic_path(path) as temporary, answering(address, error=ImageError):
        files.get_file(key_of(address), str(temporary))


def put(path: Path, address: str) -> None:
    """Make an object of a file: whole or not at all.

    Raises:
        OutputError: it may not be written, or there is no such bucket.
        StorageError: see ``opening.answering``.
    """
    files = opened(address)
    with _writing(address):
        files.put_file(str(path), key_of(address))


def write(content: bytes, address: str) -> None:
    """Make an object of bytes: whole or not at all.

    Raises:
        OutputError, StorageError: as ``put``.
    """
    files = opened(address)
    with _writing(address):
        files.pipe_file(key_of(address), content)


@contextmanager
def _writing(address: str) -> Iterator[None]:
    with answering(address, error=OutputError):
        try:
            yield
        except FileNotFoundError as problem:
            raise OutputError(
                f"cannot write '{address}', as its bucket is gone; make it, and run again"
            ) from problem


def check_bucket(address: str) -> None:
    """Refuse an address whose bucket is not there.

    Raises:
        StorageError: it is not, or as ``look``.
    """
    bucket = key_of(address).strip("/").partition("/")[0]
    if not bucket:
        raise StorageError(f"expected an address with a bucket, such as s3://bucket/photos, got '{address}'")
    files = opened(address)
    with answering(address):
        try:
            first_answer(files, bucket)
        except FileNotFoundError as problem:
            raise StorageError(f"there is no bucket '{bucket}', got '{address}'; check the spelling") from problem
        except PermissionError:  # some may use a folder of a bucket and not ask for the bucket itself
            return


def _listed(address: str, found: Mapping[str, Mapping[str, Any]]) -> list[Stored]:
    objects = [_stored(address_of(address, name), said) for name, said in found.items() if said["type"] == "file"]
    for each in objects:
        name = key_of(each.address)
        if posixpath.normpath(name) != name.rstrip("/"):  # such as a/../b: as a path it would lead elsewhere
            raise StorageError(f"expected names that can be paths, got '{each.address}'; rename that object")
    return objects


def _stored(address: str, said: Mapping[str, Any]) -> Stored:
    stamp = next((said[name] for names in (_CONTENT, _TIMES) for name in names if said.get(name)), "")
    if isinstance(stamp, datetime):
        stamp = stamp.timestamp()
    return Stored(address, int(said["size"] or 0), str(stamp))
