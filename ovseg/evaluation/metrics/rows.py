"""What is kept of one image: every score of a data set is a sum over its images' rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg.evaluation.metrics import panoptic, saliency
from ovseg.evaluation.metrics.objects import ANY_CLASS, FOUND_COLUMNS, TRUE_COLUMNS

_WIDTHS = {
    "panoptic": len(panoptic.COLUMNS),
    "found": len(FOUND_COLUMNS),
    "true": len(TRUE_COLUMNS),
    "saliency": len(saliency.COLUMNS),
}
_LARGEST = 2.0**53  # below, every whole number has a float


@dataclass(frozen=True)
class ImageRow:
    """Everything that is kept of one image; ``from_dict`` gives back every digit of ``to_dict``.

    Attributes:
        name: the example's name.
        pairs: (k, 3) int64 true class, predicted class (-1 none), pixels.
        candidates: class indices whose labels the segmenter was given.
        seconds: time inside the segmenter.
        boundary: (m, 7) int64 of ``boundary.boundary_counts``; (0, 7) when it was not measured.
        calibration: (bins, 3) float64 of ``calibration.reliability_bins``; (0, 3) without confidences.
        claimed: class indices with a presence score above one half; None without presence scores.
        tables: of objects and saliency, by name: "panoptic" (k, 9) of ``panoptic.COLUMNS``, "found" (n, 10) and
            "true" (m, 5) of ``objects.FOUND_COLUMNS`` and ``TRUE_COLUMNS``, "saliency" (l, 3) of
            ``saliency.COLUMNS``; float64.
        content: what the bytes of the example's files are known by; empty in reports of earlier versions.
    """

    name: str
    pairs: NDArray[np.int64]
    candidates: tuple[int, ...]
    seconds: float
    boundary: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 7), np.int64))
    calibration: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    claimed: tuple[int, ...] | None = None
    content: str = ""
    tables: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, short enough for a line of JSON."""
        values = {
            "name": self.name,
            "content": self.content,
            "seconds": self.seconds,
            "pairs": _pack(self.pairs),
            "asked": " ".join(map(str, self.candidates)),  # the candidates' name in reports, from the first on
            "boundary": _pack(self.boundary),
            "calibration": _pack(self.calibration),
            "claimed": None if self.claimed is None else " ".join(map(str, self.claimed)),
        }
        if self.tables:
            values["tables"] = {name: _pack(table) for name, table in self.tables.items()}
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImageRow:
        """The row that ``to_dict`` wrote.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is no such row.
        """
        claimed = values["claimed"]
        return cls(
            name=str(values["name"]),
            pairs=_whole(_unpack(values["pairs"], 3)),
            candidates=_integers(values["asked"]),
            seconds=float(values["seconds"]),
            boundary=_whole(_unpack(values["boundary"], 7)),
            calibration=_unpack(values["calibration"], 3),
            claimed=None if claimed is None else _integers(claimed),
            content=values.get("content", ""),
            tables={name: _unpack(text, _WIDTHS[name]) for name, text in values.get("tables", {}).items()},
        )

    def check(self, classes: int) -> None:
        """Refuse indices that are none of so many classes, and counts that none can be.

        Raises:
            ValueError: names the image and the part.
        """
        parts = {
            "pairs": ((self.pairs[:, :1], 0), (self.pairs[:, 1:2], -1)),
            "boundary": ((self.boundary[:, :1], 0),),
            "asked": ((np.asarray(self.candidates, np.int64), 0),),
            "claimed": ((np.asarray(self.claimed or (), np.int64), 0),),
        }
        for part, columns in parts.items():
            for indices, least in columns:
                if indices.size and not least <= indices.min() <= indices.max() < classes:
                    raise ValueError(f"{part} of '{self.name}' must hold class indices below {classes}")
        ranges = {"panoptic": (0, classes), "saliency": (0, saliency.LEVELS)}
        for name, table in self.tables.items():
            least, limit = ranges.get(name, (ANY_CLASS, classes))
            if len(table) and not least <= table[:, 0].min() <= table[:, 0].max() < limit:
                raise ValueError(
                    f"the table '{name}' of '{self.name}' must begin with numbers in [{least}, {limit})"
                )
        tables = (table[:, 1:] for table in self.tables.values())
        counts = (self.pairs[:, 2:], self.boundary[:, 1:], self.calibration, *tables)
        if not math.isfinite(self.seconds) or any(part.size and part.min() < 0 for part in counts):
            raise ValueError(f"the counts of '{self.name}' must be 0 or more")


def _pack(table: NDArray[Any]) -> str:
    """Rows joined by blanks, columns by commas: ``"0,0,812 3,0,7"``; of a float, as many digits as it takes."""
    return " ".join(",".join(repr(value).removesuffix(".0") for value in row) for row in table.tolist())


def _unpack(text: str, columns: int) -> NDArray[np.float64]:
    rows = [[float(value) for value in row.split(",")] for row in text.split()]
    table = np.asarray(rows, np.float64).reshape(-1, columns)
    if not (np.abs(table) < _LARGEST).all():  # nor is NaN
        raise ValueError(f"expected numbers below {_LARGEST:.0f}, got {text!r:.60}")
    return table


def _whole(table: NDArray[np.float64]) -> NDArray[np.int64]:
    if not (table == table.round()).all():
        raise ValueError("expected whole numbers")
    return table.astype(np.int64)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(value) for value in text.split())
