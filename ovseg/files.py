"""Files that are whole or absent: write beside, flush, rename; and checksums."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ovseg.errors import OutputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of ``path`` that takes its name when the block ends without error.

    The parent folder is made. A crash or Ctrl-C inside the block leaves no file under ``path``.

    Raises:
        OutputError: the folder cannot be made or written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror}; choose a folder you may write to") from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}; is the disk full?") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_paths(paths: Sequence[str | Path]) -> Iterator[list[Path]]:
    """As ``atomic_path`` for files that belong together: all take their names, in order, or none does.

    The last one says that the others are there: an older file of its name is removed first, so that it never stands
    beside files that it does not describe, whatever instant a crash hits.

    Raises:
        OutputError: as ``atomic_path``.
    """
    with ExitStack() as stack:
        # the stack ends backwards, and the last file is to be renamed last
        temporaries = [stack.enter_context(atomic_path(path)) for path in reversed(paths)]
        yield temporaries[::-1]
        Path(paths[-1]).unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """Indented JSON with a line break at its end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, whole or not at all; what is no Unicode in a name is escaped."""
    with atomic_path(path) as temporary:
        temporary.write_text(to_json(value), "utf-8", "backslashreplace")


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_ends(path: str | Path, *, most: int = 1 << 16) -> str:
    """Hexadecimal SHA-256 of a file's first and last ``most`` bytes: quick for a file of any size."""
    with open(path, "rb") as stream:
        head = stream.read(most)
        stream.seek(max(len(head), os.fstat(stream.fileno()).st_size - most))
        return hashlib.sha256(head + stream.read(most)).hexdigest()


def sha256_of_bytes(content: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(content).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
