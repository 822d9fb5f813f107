"""Files of many photos, written as the photos come: rows wait on the disk, and are put together at the end."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ovseg.errors import OutputError
from ovseg.files import atomic_path


class Rows:
    """Rows of a list that only grows; they lie in an unnamed file of a folder, and not in memory."""

    def __init__(self, stream: IO[str], *, separator: str = ",\n") -> None:
        self._stream = stream
        self._separator = separator
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, row: Any) -> None:
        """Add a row: plain values that fit into JSON."""
        self.write(json.dumps(row, ensure_ascii=False))

    def write(self, text: str) -> None:
        """Add a row that is text already."""
        if self._count:
            self._stream.write(self._separator)
        self._stream.write(text)
        self._count += 1

    def copy_to(self, stream: IO[str]) -> None:
        """Write all rows, with separators between."""
        self._stream.flush()
        self._stream.seek(0)
        shutil.copyfileobj(self._stream, stream)


@contextmanager
def rows(folder: Path, *, separator: str = ",\n") -> Iterator[Rows]:
    """Rows whose file lies in ``folder``, which is made if need be, and is gone when the block ends.

    Raises:
        OutputError: the folder cannot be made or written to, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace", dir=folder) as stream:
            yield Rows(stream, separator=separator)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to '{folder}': {error.strerror}; is the disk full?") from error


def write_lists(path: Path, lists: dict[str, Rows | list[Any]]) -> None:
    """Write a JSON object of lists of rows, whole or not at all."""
    with open_text(path) as stream:
        for place, (key, values) in enumerate(lists.items()):
            stream.write(f"{',' if place else '{'}\n{json.dumps(key)}: [\n")
            if isinstance(values, Rows):
                values.copy_to(stream)
            else:
                stream.write(",\n".join(json.dumps(value, ensure_ascii=False) for value in values))
            stream.write("\n]")
        stream.write("\n}\n")


@contextmanager
def open_text(path: Path, *, newline: str | None = None) -> Iterator[IO[str]]:
    """A UTF-8 file to write, whole or not at all; what is no Unicode in a name is escaped."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline=newline) as stream,
    ):
        yield stream
