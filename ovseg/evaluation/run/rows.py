"""One line for each image that is done, on disk at once: a killed run goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ConfigError, OutputError


@dataclass(frozen=True)
class ImageRow:
    """Everything that is kept of one image; a data set's scores are sums over its rows.

    Attributes:
        name: the example's name.
        pairs: (k, 3) int64 true class, predicted class (-1 none), pixels.
        asked: class indices that were asked for.
        seconds: time inside the segmenter.
        boundary: (m, 7) int64 of ``boundary.boundary_counts``; (0, 7) when it was not measured.
        calibration: (bins, 3) float64 of ``calibration.reliability_bins``; (0, 3) without confidences.
        claimed: class indices with a presence score above one half; None without presence scores.
    """

    name: str
    pairs: NDArray[np.int64]
    asked: tuple[int, ...]
    seconds: float
    boundary: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 7), np.int64))
    calibration: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    claimed: tuple[int, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, short enough for a line of JSON."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 6),
            "pairs": _pack(self.pairs),
            "asked": " ".join(map(str, self.asked)),
            "boundary": _pack(self.boundary),
            "calibration": _pack(self.calibration),
            "claimed": None if self.claimed is None else " ".join(map(str, self.claimed)),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImageRow:
        """The row that ``to_dict`` wrote."""
        claimed = values["claimed"]
        return cls(
            name=values["name"],
            pairs=_unpack(values["pairs"], 3).astype(np.int64),
            asked=_integers(values["asked"]),
            seconds=float(values["seconds"]),
            boundary=_unpack(values["boundary"], 7).astype(np.int64),
            calibration=_unpack(values["calibration"], 3),
            claimed=None if claimed is None else _integers(claimed),
        )


class Journal:
    """The rows of a run in ``folder``, a file for each process; the first line names the run.

    Args:
        folder: where ``rows-RANK.jsonl`` lie.
        run: hexadecimal name of protocol, model and options together; another run's rows are refused.
        rank: number of this process.
    """

    def __init__(self, folder: Path, *, run: str, rank: int = 0) -> None:
        self.folder = folder
        self.run = run
        self.path = folder / f"rows-{rank:05d}.jsonl"
        self._stream: IO[str] | None = None

    def read(self) -> dict[str, ImageRow]:
        """Rows by name, from the files of all processes; a line cut off by a kill is left out.

        Raises:
            ConfigError: a file belongs to another run, cannot be read, or has a damaged line.
        """
        rows: dict[str, ImageRow] = {}
        for path in sorted(self.folder.glob("rows-*.jsonl")):
            try:
                header, *lines = path.read_text(encoding="utf-8").split("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"cannot read '{path}' ({error}); delete it to start anew") from error
            if not lines:
                continue  # killed before the header was whole
            self._check_header(header, path)
            for number, line in enumerate(lines[:-1], start=2):  # after the last newline: empty or cut off
                row = _row(line, path, number)
                rows.setdefault(row.name, row)
        return rows

    def append(self, row: ImageRow) -> None:
        """Write one row and hand it to the operating system."""
        if self._stream is None:
            self._stream = self._open()
        self._stream.write(json.dumps(row.to_dict(), ensure_ascii=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file, if any row was written."""
        if self._stream is not None:
            self._stream.close()

    def _open(self) -> IO[str]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                _drop_cut_line(self.path)
            stream = self.path.open("a", encoding="utf-8")
            if stream.tell() == 0:
                stream.write(json.dumps({"run": self.run}) + "\n")
        except OSError as error:
            raise OutputError(
                f"cannot write '{self.path}': {error.strerror}; choose a folder you may write to"
            ) from error
        return stream

    def _check_header(self, header: str, path: Path) -> None:
        try:
            found = json.loads(header).get("run")
        except (json.JSONDecodeError, AttributeError):
            found = None
        if found != self.run:
            raise ConfigError(
                f"'{path}' holds rows of another run (protocol, model or options differ); "
                "choose another --out, or delete the file to start anew"
            )


def _row(line: str, path: Path, number: int) -> ImageRow:
    try:
        return ImageRow.from_dict(json.loads(line))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"line {number} of '{path}' is damaged ({error}); delete the file to start anew"
        ) from error


def _drop_cut_line(path: Path) -> None:
    """Cut the file after its last newline, where a killed process left half a line."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        with path.open("r+b") as stream:
            stream.truncate(whole)


def _pack(table: NDArray[Any]) -> str:
    """Rows joined by blanks, columns by commas: ``"0,0,812 3,0,7"``."""
    return " ".join(",".join(f"{value:.10g}" for value in row) for row in table.tolist())


def _unpack(text: str, columns: int) -> NDArray[np.float64]:
    rows = [[float(value) for value in row.split(",")] for row in text.split()]
    return np.asarray(rows, np.float64).reshape(-1, columns)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(value) for value in text.split())
