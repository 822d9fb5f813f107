"""LabelMe's files: for each photo the outlines of its labels, as points of the photo.

Source: labelme, _label_file.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ovseg.result.formats.base import Add, Format, Options, Place
from ovseg.result.formats.spool import open_text
from ovseg.result.items import items, outlines
from ovseg.result.polygons import bridged

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult

FOLDER = "_labelme"
_VERSION = "5.5.0"  # of the program whose files these are


@contextmanager
def _labelme(out: Path, options: Options) -> Iterator[Add]:
    def add(result: SegmentationResult, place: Place) -> None:
        path = out / FOLDER / f"{place.path}.json"
        row = document(result, _picture(place, path.parent), tolerance=options.tolerance)
        with open_text(path) as stream:
            stream.write(json.dumps(row, ensure_ascii=False))

    yield add


def document(result: SegmentationResult, picture: str, *, tolerance: float) -> dict[str, Any]:
    """What LabelMe's file of a photo says; the parts of one object have its number as their group.

    Args:
        result: of the photo.
        picture: path of the photo from the folder of the file.
        tolerance: pixels that an outline may be off.
    """
    some = list(items(result))
    shapes = [
        {
            "label": item.label,
            "points": np.round(bridged([polygon.outer, *polygon.holes])[:-1], 3).tolist(),
            "group_id": item.number or None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for item, found in zip(some, outlines(some, tolerance=tolerance), strict=True)
        for polygon in found
    ]
    height, width = result.size
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": picture,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _picture(place: Place, folder: Path) -> str:
    if not place.lasting:
        return place.picture
    return Path(os.path.relpath(place.photo.resolve(), folder.resolve())).as_posix()


LABELME = Format(
    "labelme",
    f"{FOLDER}/NAME.json",
    "",
    "scores or holes: seams without width join these to the outline",
    _labelme,
    by_object=True,
)
