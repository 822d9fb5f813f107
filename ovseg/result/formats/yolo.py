"""YOLO's format of segments: a line for each with its outline in shares of the photo, and ``data.yaml``.

Source: ultralytics, data/converter.py and data/utils.py: the labels of a photo are where ``/images/`` in its path
becomes ``/labels/``, without ``path`` folders are relative to ``data.yaml``, and several rings become one by seams.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from PIL import Image

from ovseg.errors import OutputError
from ovseg.files import atomic_path, renewed_folder
from ovseg.result.formats.base import Add, Format, Options, Place
from ovseg.result.items import items, outlines
from ovseg.result.polygons import Ring, bridged

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult

FOLDER = "_yolo"
TABLE = "data.yaml"


@contextmanager
def _yolo(out: Path, options: Options) -> Iterator[Add]:
    numbers: dict[str, int] = {}
    with renewed_folder(out / FOLDER, marker=TABLE) as folder:
        (folder / "images").mkdir()
        (folder / "labels").mkdir()

        def add(result: SegmentationResult, place: Place) -> None:
            for label in result.labels:
                numbers.setdefault(label, len(numbers))
            _put(place, folder / "images")
            with atomic_path(folder / "labels" / f"{place.path}.txt") as temporary:
                temporary.write_text("".join(lines(result, numbers, tolerance=options.tolerance)), "ascii")

        yield add
        table = {"train": "images", "val": "images", "names": {number: name for name, number in numbers.items()}}
        text = yaml.safe_dump(table, sort_keys=False, allow_unicode=True)
        (folder / TABLE).write_text(text, "utf-8", "backslashreplace")


def lines(result: SegmentationResult, numbers: dict[str, int], *, tolerance: float) -> Iterator[str]:
    """A line for each object, and for each connected part of what a label covers: its class, and x and y in turn.

    Args:
        result: of the photo.
        numbers: the class of each label.
        tolerance: pixels that an outline may be off.
    """
    some = list(items(result))
    for item, found in zip(some, outlines(some, tolerance=tolerance), strict=True):
        parts = [bridged([polygon.outer, *polygon.holes]) for polygon in found]
        for ring in [bridged(parts)] if item.number else parts:
            yield f"{numbers[item.label]} {_shares(ring, result.size)}\n"


def _shares(ring: Ring, size: tuple[int, int]) -> str:
    """The points of a closed ring but its last, in shares of width and height."""
    shares = ring[:-1] / np.array([size[1], size[0]])
    return " ".join(f"{share:.6g}" for share in shares.ravel().tolist())


def _ending(place: Place) -> str:
    """What the name of the photo ends with, by which it is opened."""
    if place.lasting and place.photo.suffix:
        return place.photo.suffix
    with Image.open(place.photo) as image:
        return f".{str(image.format).lower()}"


def _put(place: Place, folder: Path) -> None:
    """A link to the photo, or a copy where there can be none."""
    if not place.photo.is_file():
        raise OutputError(f"yolo needs the photo, but there is no file '{place.photo}'; save it there first")
    path = folder / f"{place.path}{_ending(place)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if place.lasting:
            path.symlink_to(place.photo.resolve())
            return
    except OSError:  # a file system, or a user of Windows, without links
        pass
    shutil.copyfile(place.photo, path)


YOLO = Format(
    "yolo",
    f"{FOLDER}/labels/NAME.txt, {FOLDER}/images/NAME.jpg",
    f"{FOLDER}/{TABLE}",
    "scores, holes or objects in several parts: seams without width join these to one outline",
    _yolo,
    opens_photo=True,
    by_object=True,
)
