"""A folder of results in storage: files are made in a local folder, and put there when they are whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovseg.storage.objects import check_bucket, fetch, look, put, write


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
        files = [path for path in sorted(self.room.rglob("*")) if path.is_file()]
        for path in sorted(files, key=lambda path: -len(path.parts)):
            put(path, self.address_of(path))


def shelf_of(address: str, room: Path) -> Shelf:
    """The folder at ``address``, which is asked for once, so that what is wrong is said before any work is done.

    Raises:
        StorageError: storage cannot be reached, lets nobody in, or has no such bucket.
    """
    check_bucket(address)
    return Shelf(address.rstrip("/"), room)
