"""Rows of images that are done, on disk at once: a killed run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ovseg.errors import ConfigError
from ovseg.identity import difference, still_marked
from ovseg.journal import Journal, read_journal


class Row(Protocol):
    """What was found for one example."""

    @property
    def name(self) -> str:
        """Of the example."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""


RowT = TypeVar("RowT", bound=Row)


class KeptRows(Generic[RowT]):
    """The rows of a run in ``folder``, a file for each process; the first line of each describes the run.

    A row counts only as long as the files of its example are those that it was made from.

    Args:
        folder: where ``KIND-RANK.jsonl`` lie; None keeps nothing.
        run: plain values: all that the rows depend on besides the files of their examples.
        parse: makes a row of a line, and raises KeyError, TypeError, ValueError or AttributeError of what is none.
        rank: number of this process.
        kind: of rows.

    Raises:
        ConfigError: a file holds rows of another run, cannot be read, or has a damaged line.
    """

    def __init__(
        self,
        folder: Path | None,
        run: Mapping[str, Any],
        parse: Callable[[dict[str, Any]], RowT],
        *,
        rank: int = 0,
        kind: str = "rows",
    ) -> None:
        self._run, self._parse = run, parse
        self._journal = None if folder is None else Journal(folder / f"{kind}-{rank:05d}.jsonl")
        self._rows: dict[str, list[tuple[RowT, Any]]] = {}
        self._described: set[Path] = set()  # files that have their first line
        for path in sorted(folder.glob(f"{kind}-*.jsonl")) if folder is not None else ():
            self._read(path)

    def __enter__(self) -> KeptRows[RowT]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close()

    def find(self, name: str, files: Sequence[Path]) -> RowT | None:
        """The row of the example ``name`` that was made from ``files`` as they are now, if there is one."""
        kept = self._rows.get(name, [])
        return next((row for row, marks in kept if still_marked(files, marks)), None)

    def append(self, row: RowT, marks: Sequence[Mapping[str, Any]]) -> None:
        """Write a row and the marks of its example's files, taken before these were decoded.

        Raises:
            OutputError: the folder cannot be written to.
        """
        if self._journal is None:
            return
        if self._journal.path not in self._described:
            self._journal.append({"run": self._run})
            self._described.add(self._journal.path)
        self._journal.append({**row.to_dict(), "files": marks})

    def _read(self, path: Path) -> None:
        lines = read_journal(path)
        if not lines:
            return  # killed before the first line was whole
        self._check_run(lines[0].get("run"), path)
        self._described.add(path)
        for number, line in enumerate(lines[1:], start=2):
            try:
                row = self._parse(line)
                self._rows.setdefault(row.name, []).append((row, line["files"]))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ConfigError(
                    f"line {number} of '{path}' is damaged ({error!r}); delete the file to start anew"
                ) from error

    def _check_run(self, kept: Any, path: Path) -> None:
        told = difference(kept, self._run) if isinstance(kept, dict) else "another version of ovseg wrote them"
        if told is not None:
            raise ConfigError(
                f"'{path}' holds rows of another run: {told}; "
                "choose another --out, or delete the file to start anew"
            )
