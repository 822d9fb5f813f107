"""What is known about a picture that was read by windows, without its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovseg.errors import ImageError
from ovseg.files import read_json
from ovseg.result import LabelSummary
from ovseg.result.overlay import palette
from ovseg.result.storage import none_value


@dataclass(frozen=True)
class LargeResult:
    """The labels of a large picture: what each covers, and the files that hold the pixels.

    Attributes:
        size: (H, W) of the picture.
        rows: of each label its share of the picture, mean score, and presence, in order.
        index: GeoTIFF of positions in ``labels``.
        overlay: PNG of the picture with its labels in colour, at most about 2000 pixels long.
        record: JSON file with all that is here.
        outlines: GeoJSON, if it was asked for.
        provenance: what made the result.
    """

    size: tuple[int, int]
    rows: tuple[LabelSummary, ...]
    index: Path
    overlay: Path
    record: Path
    outlines: Path | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    instances = None  # none are looked for
    things = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """L names."""
        return tuple(row.label for row in self.rows)

    @property
    def presence(self) -> dict[str, float]:
        """How sure it is of each label that the picture shows it at all, in [0, 1]."""
        return {row.label: row.presence for row in self.rows}

    def table(self) -> list[LabelSummary]:
        """One row per label, in order; the score is 0 where the label won no pixel."""
        return list(self.rows)

    def area(self, label: str) -> float:
        """Share of the picture where ``label`` won, in [0, 1]."""
        return next(row.area for row in self.rows if row.label == label)

    def describe(self) -> dict[str, Any]:
        """As the JSON file of a photo's result."""
        return {
            "index": self.index.name,
            "overlay": self.overlay.name,
            "outlines": None if self.outlines is None else self.outlines.name,
            "size": list(self.size),
            "image": None,
            "none": none_value(len(self.rows)),
            "labels": list(self.labels),
            "presence": self.presence,
            "areas": {row.label: row.area for row in self.rows},
            "scores": {row.label: row.score for row in self.rows},
            "instances": None,
            "things": [],
            "provenance": self.provenance,
            "palette": palette(len(self.rows)).tolist(),
        }

    @classmethod
    def load(cls, path: str | Path) -> LargeResult:
        """What the JSON file says.

        Raises:
            ImageError: it is missing or damaged.
        """
        path = Path(path)
        known: Mapping[str, Any] = read_json(path, what="result", advice="make it again", error=ImageError)
        try:
            rows = [
                LabelSummary(label, known["areas"][label], known["scores"][label], known["presence"][label])
                for label in known["labels"]
            ]
            height, width = known["size"]
            outlines = known["outlines"]
            return cls(
                (height, width),
                tuple(rows),
                path.parent / known["index"],
                path.parent / known["overlay"],
                path,
                None if outlines is None else path.parent / outlines,
                known["provenance"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ImageError(
                f"expected a result in '{path}', but it is damaged ({error!r}); make it again"
            ) from error
