"""Lines of JSON that are on disk as soon as they are written: a killed run goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from ovseg.errors import ConfigError, OutputError
from ovseg.files import atomic_path, parse_json


def read_journal(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a journal, in order; none where there is no such file.

    What follows the last newline was cut off by a kill and is left out.

    Raises:
        ConfigError: the file cannot be read, or a whole line of it is damaged; names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read '{path}' ({error}); delete it to start anew") from error
    return [_parse(line, number, path) for number, line in enumerate(lines, start=1)]


def keep_lines(path: str | Path, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The lines of a journal for which ``keep`` holds; the others are removed from the file, all at once.

    Raises:
        ConfigError: as ``read_journal``.
        OutputError: the folder cannot be written to.
    """
    rows = read_journal(path)
    kept = [row for row in rows if keep(row)]
    if len(kept) != len(rows):
        with atomic_path(path) as temporary:
            temporary.write_text("".join(map(_line, kept)), encoding="utf-8")
    return kept


class Journal:
    """Appends to the lines of JSON at ``path``; the file and its folder are made with the first line.

    Args:
        path: the file. A line that a kill cut off is removed before the first new one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stream: IO[str] | None = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line and hand it to the operating system, so that killing this process does not lose it.

        Raises:
            OutputError: the folder cannot be written to, or the disk is full.
        """
        try:
            if self._stream is None:
                self._stream = self._open()
            self._stream.write(_line(row))
            self._stream.flush()
        except OSError as error:
            raise OutputError(
                f"cannot write '{self.path}': {error.strerror or error}; is the disk full, or the folder not yours?"
            ) from error

    def sync(self) -> None:
        """Wait until all lines are on the disk itself.

        Raises:
            OutputError: the disk is full.
        """
        try:
            if self._stream is not None:
                os.fsync(self._stream.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot write '{self.path}': {error.strerror or error}; is the disk full?"
            ) from error

    def close(self) -> None:
        """Close the file, if any line was written."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _open(self) -> IO[str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            _drop_cut_line(self.path)
        return self.path.open("a", encoding="utf-8")


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _parse(line: str, number: int, path: str | Path) -> dict[str, Any]:
    source = f"line {number} of '{path}' is damaged: it"
    row = parse_json(line, source=source, advice="delete the file to start anew")
    if not isinstance(row, dict):
        raise ConfigError(f"line {number} of '{path}' must be an object, got {line[:40]!r}; delete the file")
    return row


def _drop_cut_line(path: Path) -> None:
    """Cut the file after its last newline, where a killed process left half a line."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        with path.open("r+b") as stream:
            stream.truncate(whole)
