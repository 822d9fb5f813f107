"""Regions that a person is asked to label: as values, as files, and as a sheet."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ovseg.errors import ImageError
from ovseg.escape import one_line
from ovseg.files import atomic_paths
from ovseg.images.load import read_image
from ovseg.images.reading import Reading
from ovseg.images.sheets import boxes_tile, captioned, grid
from ovseg.images.sources import read_key

NONE = "none of the labels"
_SIDE, _COLUMNS = 320, 4
_COLUMN_NAMES = ("image", "x0", "y0", "x1", "y1", "score", "labels")


@dataclass(frozen=True)
class Suggestion:
    """A region that a person is asked to label.

    Attributes:
        image: key of the bank's image.
        box: x0, y0, x1, y1 in pixels of the upright image; x1 and y1 are not included.
        score: impurity times uncertainty, in [0, 1].
        labels: what it likely shows, the likeliest first; "none of the labels" may be among them.
    """

    image: str
    box: tuple[int, int, int, int]
    score: float
    labels: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As the files say it."""
        sides = dict(zip(("x0", "y0", "x1", "y1"), self.box, strict=True))
        return {"image": self.image, **sides, "score": round(self.score, 4), "labels": list(self.labels)}


@dataclass(frozen=True)
class Suggestions:
    """What to label next.

    Attributes:
        regions: in the order in which they are worth labelling.
        bad: images that could not be read, and why.
    """

    regions: tuple[Suggestion, ...]
    bad: tuple[tuple[str, str], ...] = ()

    def save(self, out: str | Path, *, reading: Reading | None = None) -> Path:
        """Write ``suggestions.json``, ``suggestions.csv`` and ``sheet.png`` into a folder, all of them or none.

        Args:
            out: the folder.
            reading: how the images are read.

        Raises:
            OutputError: the folder cannot be written to.
        """
        root = Path(out)
        rows = [each.to_dict() for each in self.regions]
        bad = [{"path": path, "reason": reason} for path, reason in self.bad]
        picture = self.sheet(reading=reading)
        with atomic_paths([root / name for name in ("suggestions.json", "suggestions.csv", "sheet.png")]) as paths:
            content = json.dumps({"regions": rows, "bad": bad}, indent=2, ensure_ascii=False)
            paths[0].write_text(content + "\n", encoding="utf-8")
            with paths[1].open("w", encoding="utf-8", newline="") as stream:
                table = csv.DictWriter(stream, _COLUMN_NAMES)
                table.writeheader()
                table.writerows({**row, "labels": "; ".join(row["labels"])} for row in rows)
            picture.save(paths[2], format="PNG")
        return root

    def sheet(self, *, reading: Reading | None = None, side: int = _SIDE) -> Image.Image:
        """The images with their regions, numbered in order, and what these likely show.

        Args:
            reading: how the images are read.
            side: pixels of a tile.
        """
        of_image: dict[str, dict[int, Suggestion]] = {}
        for number, each in enumerate(self.regions, start=1):
            of_image.setdefault(each.image, {})[number] = each
        most = max(map(len, of_image.values()), default=1)
        return grid(
            [_tile(key, here, reading, side, lines=most) for key, here in of_image.items()], columns=_COLUMNS
        )


def _tile(key: str, here: dict[int, Suggestion], reading: Reading | None, side: int, *, lines: int) -> Image.Image:
    """An image with its numbered regions; grey where it is gone."""
    try:
        pixels = Image.fromarray(read_image(read_key(key), reading).pixels)
    except ImageError:
        pixels = Image.new("RGB", (side, side), (200, 200, 200))
    told = [f"{number}: {one_line(', '.join(each.labels))[:30]}" for number, each in here.items()]
    told += [""] * (lines - len(told))  # tiles of one height
    tile = boxes_tile(pixels, {str(number): each.box for number, each in here.items()}, side=side)
    return captioned(tile, "\n".join([*told, one_line(Path(key).name)[-30:]]), size=14)
