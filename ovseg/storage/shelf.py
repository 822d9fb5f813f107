"""A folder of results in storage: files are made in a local folder, and put there when they are whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ovseg.files import sha256_of
from ovseg.storage.objects import below, check_bucket, fetch, look, matching, put, write
from ovseg.storage.opening import is_stored


@dataclass(frozen=True)
class Shelf:
    """A folder in storage, and the local one that stands for it while files are made and read.

    Attributes:
        address: of the folder, such as ``s3://bucket/results``, without a slash at its end.
        room: the local folder; it holds what is being worked at, and not all results.
    """

    address: str
    room: Path

    def address_of(self, path: Path) -> str:
        """Where a file of the room has its place in storage."""
        return f"{self.address}/{path.relative_to(self.room).as_posix()}"

    def has(self, path: Path) -> bool:
        """Whether storage has the file."""
        return look(self.address_of(path)) is not None

    def bring(self, path: Path) -> bool:
        """See that a file that storage has is in the room; False where storage has none."""
        if path.is_file():
            return True
        if not self.has(path):
            return False
        fetch(self.address_of(path), path)
        return True

    def bring_matching(self, pattern: str) -> None:
        """See that all files right in the folder whose names fit a pattern with ``*`` are in the room."""
        for each in matching(f"{self.address}/{pattern}"):
            fetch(each.address, self.room / Path(each.address).name)

    def put(self, paths: Sequence[Path], *, begun: bytes) -> None:
        """Put files that belong together into storage, in order.

        Args:
            paths: the files; the last one says that the others are there.
            begun: what the last one holds until they are: a kill then leaves nothing beside files that it does not
                describe, and it is known whose they are.

        Raises:
            OutputError: storage cannot be written to.
        """
        write(begun, self.address_of(paths[-1]))
        for path in paths:
            put(path, self.address_of(path))

    def put_rest(self) -> None:
        """Put all that is left in the room into storage; what lies deepest first, as tables stand above.

        Raises:
            OutputError: storage cannot be written to.
        """
        for path in sorted(_files_in(self.room), key=lambda path: -len(path.parts)):
            put(path, self.address_of(path))


@contextmanager
def room_for(out: str | Path) -> Iterator[tuple[Path, Shelf | None]]:
    """The folder in which files are made, and where they go from there if ``out`` is an address in storage."""
    if not is_stored(out):
        yield Path(out), None
        return
    with TemporaryDirectory() as folder:
        yield Path(folder), Shelf(str(out).rstrip("/"), Path(folder))


@contextmanager
def results_in(out: str | Path) -> Iterator[tuple[Path, Shelf | None]]:
    """``room_for`` results, once it is sure that their storage answers.

    Raises:
        StorageError: storage cannot be reached, lets nobody in, or has no such bucket.
    """
    if is_stored(out):
        check_bucket(str(out))
    with room_for(out) as place:
        yield place


@contextmanager
def synced(out: str | Path) -> Iterator[Path]:
    """A local folder with the files that storage has at ``out``; those that change are put there at the end.

    They are when the block ends by an error too. A local ``out`` is the folder itself.

    Raises:
        OutputError, StorageError: storage cannot be read or written.
    """
    with results_in(out) as (room, shelf):
        if shelf is None:
            yield room
            return
        found = below(shelf.address)
        for each in found:
            fetch(each.address, room / each.address.removeprefix(f"{shelf.address}/"))
        had = {path: sha256_of(path) for path in _files_in(room)}
        try:
            yield room
        finally:
            for path in _files_in(room):
                if had.get(path) != sha256_of(path):
                    put(path, shelf.address_of(path))


def _files_in(room: Path) -> list[Path]:
    return [path for path in sorted(room.rglob("*")) if path.is_file() and path.name != ".lock"]
