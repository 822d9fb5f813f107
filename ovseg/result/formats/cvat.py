"""CVAT's XML for images 1.1: masks as runs, so that holes and objects in several parts stay as they are.

Source: CVAT's documentation, "XML annotation format"; the order of runs after datumaro, plugins/data_formats/cvat.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovseg.escape import for_xml
from ovseg.result.formats.base import Add, Format, Options, Place
from ovseg.result.formats.spool import open_text, rows
from ovseg.result.items import Item, items
from ovseg.result.overlay import palette

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult
    from ovseg.result.segments import Mask

FILE = "_annotations.cvat.xml"


@contextmanager
def _cvat(out: Path, options: Options) -> Iterator[Add]:
    labels: dict[str, None] = {}
    with rows(out, separator="\n") as images:

        def add(result: SegmentationResult, place: Place) -> None:
            labels.update(dict.fromkeys(result.labels))
            images.write(_image(result, place, number=len(images)))

        yield add
        with open_text(out / FILE) as stream:
            stream.write(_head(list(labels)))
            images.copy_to(stream)
            stream.write("\n</annotations>\n")


def runs(mask: Mask) -> list[int]:
    """The lengths of runs of False and True in turn, row by row, False first."""
    values = np.concatenate([[False], mask.ravel(), [not mask.flat[-1]]])
    ends = np.flatnonzero(values[1:] != values[:-1])
    lengths: list[int] = np.diff(ends, prepend=0).tolist()
    return lengths


def _image(result: SegmentationResult, place: Place, *, number: int) -> str:
    height, width = result.size
    objects = len(result.instances or ())
    masks = "".join(_mask(item, objects) for item in items(result))
    name = for_xml(place.picture)
    return f'  <image id="{number}" name="{name}" width="{width}" height="{height}">\n{masks}  </image>'


def _mask(item: Item, objects: int) -> str:
    """The surest object lies on top, as in the overlay."""
    x0, y0, x1, y1 = item.box
    where = f'left="{x0}" top="{y0}" width="{x1 - x0}" height="{y1 - y0}"'
    over = objects + 1 - item.number if item.number else 0
    counts = ", ".join(map(str, runs(item.mask)))
    return (
        f'    <mask label="{for_xml(item.label)}" source="auto" occluded="0" rle="{counts}" {where} '
        f'z_order="{over}"></mask>\n'
    )


def _head(labels: list[str]) -> str:
    rows = [
        f"        <label><name>{for_xml(label)}</name><color>#{red:02x}{green:02x}{blue:02x}</color>"
        "<attributes></attributes></label>\n"
        for label, (red, green, blue) in zip(labels, palette(len(labels)).tolist(), strict=True)
    ]
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
        f"      <labels>\n{''.join(rows)}      </labels>\n    </task>\n  </meta>\n"
    )


CVAT = Format("cvat", "", FILE, "scores", _cvat, by_object=True)
