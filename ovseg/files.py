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

from ovseg.errors import ConfigError, OutputError, OvsegError


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


@contextmanager
def renewed_folder(path: Path, *, marker: str) -> Iterator[Path]:
    """A new folder that takes the place of ``path``, and of what is there, when the block ends without error.

    Args:
        path: the folder.
        marker: a file that the block writes, and by which an older folder of this kind is known.

    Raises:
        OutputError: something else has that name, or the folder cannot be written to.
    """
    if path.exists() and not (path / marker).is_file():
        raise OutputError(f"'{path}' is there and has no '{marker}'; choose another folder, or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as room:
            new, old = Path(room) / "new", Path(room) / "old"
            new.mkdir()
            yield new
            if path.exists():
                path.rename(old)
            new.rename(path)
    except OvsegError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}; is the disk full?") from error


def to_json(value: Any) -> str:
    """Indented JSON with a line break at its end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def parse_json(text: str, *, source: str, advice: str, error: type[OvsegError] = ConfigError) -> Any:
    """The value of a JSON text that came from outside.

    Args:
        text: the JSON.
        source: what it is, to begin the message: "the report 'a.json'".
        advice: what to do, to end it.
        error: what is raised.

    Raises:
        OvsegError: ``error``, in one sentence: it is cut off, no JSON, nested too deep, or has a number too long.
    """
    try:
        return json.loads(text)
    except RecursionError as problem:
        raise error(f"{source} is nested too deep to be read; {advice}") from problem
    except ValueError as problem:  # JSONDecodeError, and a number of thousands of digits
        told = " ".join(str(problem).split())[:100]
        raise error(f"{source} is cut off or not JSON ({told}); {advice}") from problem


def read_json(path: str | Path, *, what: str, advice: str, error: type[OvsegError] = ConfigError) -> dict[str, Any]:
    """The JSON object in a file that came from outside.

    Args:
        path: the file.
        what: it is, for the message: "report".
        advice: what to do when it cannot be read.
        error: what is raised.

    Raises:
        OvsegError: ``error``, in one sentence: there is no such file, it cannot be read, or is no JSON object.
    """
    source = f"the {what} '{path}'"
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as problem:
        raise error(f"no {what} '{path}'; {advice}") from problem
    except OSError as problem:
        raise error(f"cannot read {source}: {problem.strerror}; {advice}") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{source} is not UTF-8 ({problem}); {advice}") from problem
    value = parse_json(text, source=source, advice=advice, error=error)
    if not isinstance(value, dict):
        raise error(f"{source} must be a JSON object, got {type(value).__name__}; {advice}")
    return value


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
