"""Masks in colours, with the table that says which label each colour is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg.errors import DatasetError
from ovseg.evaluation.data.classes import read_classes, read_text
from ovseg.evaluation.data.files import FileDataset, find_pairs
from ovseg.evaluation.data.masks import INDEX_MODES, read_mask
from ovseg.evaluation.data.protocol import Protocol, with_classes
from ovseg.evaluation.data.tools import json_of

TABLE = "labelmap.txt"  # of CVAT's "Segmentation mask 1.1": NAME:RED,GREEN,BLUE:: a line
_CATEGORIES = "categories.json"


@dataclass
class ColouredFiles(FileDataset):
    """Images and masks whose pixels have the colours of a table; masks of ids are read as such.

    Attributes:
        numbers: id by colour, 65536 R + 256 G + B.
        table: the file of the table, for errors.
        only_colours: whether a palette's colours count, and not its indices.
    """

    numbers: dict[int, int] = field(default_factory=dict)
    table: Path = Path(TABLE)
    only_colours: bool = False

    def ids(self, index: int) -> NDArray[np.int32]:
        """(H, W) int32 ids of the mask at ``index``.

        Raises:
            DatasetError: the file cannot be read, or has a colour that the table does not list.
        """
        path = self.pairs[index].mask
        try:
            with Image.open(path) as opened:
                if opened.mode in INDEX_MODES and not (self.only_colours and opened.mode == "P"):
                    return read_mask(path)
                colours = np.asarray(opened.convert("RGB")).astype(np.int32)
        except OSError as error:
            raise DatasetError(f"cannot read the mask '{path}': {error}; fetch the file again") from error
        shown, places = np.unique(colours @ np.array([65536, 256, 1]), return_inverse=True)
        strange = [colour for colour in shown.tolist() if colour not in self.numbers]
        if strange:
            listed = ", ".join(str(_channels(colour)) for colour in strange[:5])
            raise DatasetError(
                f"the mask '{path}' has {len(strange)} colours that '{self.table}' does not list: {listed}; add "
                "them, or store masks without loss (JPEG and smoothing make colours of their own)"
            )
        numbers = np.array([self.numbers[colour] for colour in shown.tolist()], dtype=np.int32)
        return numbers[places.reshape(colours.shape[:2])]


def open_coloured(protocol: Protocol, data: Path, *, labels: str = "all") -> ColouredFiles | None:
    """The images and coloured masks under ``data``; None where no file says what the colours are.

    Raises:
        DatasetError: the table cannot be read, or see ``open_files``.
    """
    path = next((data / name for name in (TABLE, _CATEGORIES) if (data / name).is_file()), None)
    if path is None:
        return None
    own = any((data / name).is_file() for name in protocol.classes_from)
    if own:
        protocol = read_classes(protocol, data)
    rows = _read_table(path) if path.name == TABLE else _read_categories(path)
    if not rows:
        return None
    if not own:
        entries: list[dict[str, Any]] = [{"name": name, "ids": (place,)} for place, (name, _) in enumerate(rows)]
        protocol = with_classes(protocol, entries, ignore=protocol.ignore, source=f"'{path}'")
    numbers = {entry.name: entry.ids[0] for entry in protocol.classes}
    unknown = [name for name, _ in rows if name not in numbers]
    if unknown:
        raise DatasetError(f"'{path}' has a colour of '{unknown[0]}', which is none of the classes; add it to them")
    layout, pairs = find_pairs(protocol, data)
    by_colour = {colour: numbers[name] for name, colour in rows}
    return ColouredFiles(
        protocol, pairs, layout, protocol.lookup(labels), numbers=by_colour, table=path, only_colours=not own
    )


def _read_table(path: Path) -> list[tuple[str, int]]:
    """Name and colour of each line that is no remark."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *parts = line.split(":")
        try:
            rows.append((name, _packed(parts[0].split(","))))
        except (ValueError, IndexError) as error:
            raise DatasetError(
                f"line {number} of '{path}' must read NAME:RED,GREEN,BLUE:: with numbers from 0 to 255, got "
                f"'{line:.60}'; correct it"
            ) from error
    return rows


def _read_categories(path: Path) -> list[tuple[str, int]]:
    """Name and colour of each category that has one."""
    content = json_of(path)
    listed = content.get("categories", []) if isinstance(content, dict) else content
    try:
        return [(row["name"], _packed(row["color"])) for row in listed if "color" in row]
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError(
            f"'{path}' must give each color as [RED, GREEN, BLUE] from 0 to 255 ({error!s:.60}); correct it"
        ) from error


def _packed(channels: Any) -> int:
    red, green, blue = (int(channel) for channel in channels)
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"got {red},{green},{blue}")
    return red << 16 | green << 8 | blue


def _channels(colour: int) -> tuple[int, int, int]:
    return colour >> 16, colour >> 8 & 255, colour & 255
