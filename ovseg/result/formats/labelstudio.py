"""Label Studio's tasks with predictions: brush strokes in its own runs, which hold holes and several parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from ovseg.escape import for_xml
from ovseg.images.web import is_address
from ovseg.result.formats.base import Add, Format, Options, Place
from ovseg.result.formats.brush import encode_brush
from ovseg.result.formats.spool import open_text, rows
from ovseg.result.items import Item, items
from ovseg.result.overlay import palette

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult

TASKS = "_tasks.labelstudio.json"
VIEW = "_view.labelstudio.xml"
_FROM, _TO = "label", "image"


@contextmanager
def _labelstudio(out: Path, options: Options) -> Iterator[Add]:
    labels: dict[str, None] = {}
    with rows(out) as tasks:

        def add(result: SegmentationResult, place: Place) -> None:
            labels.update(dict.fromkeys(result.labels))
            tasks.append(task(result, place))

        yield add
        with open_text(out / VIEW) as stream:
            stream.write(_view(list(labels)))
        with open_text(out / TASKS) as stream:
            stream.write("[\n")
            tasks.copy_to(stream)
            stream.write("\n]\n")


def task(result: SegmentationResult, place: Place) -> dict[str, Any]:
    """A task of one photo, with a region for each object, and for all that each other label covers."""
    found = list(items(result))
    regions = [_region(item, result.size, number=number) for number, item in enumerate(found, start=1)]
    model = result.provenance.get("model", "ovseg")
    mean = float(np.mean([item.score for item in found])) if found else 0.0
    prediction = {"model_version": str(model), "score": mean, "result": regions}
    return {"data": {_TO: _address(place)}, "predictions": [prediction]}


def _address(place: Place) -> str:
    """The photo on the web, or below the folder that Label Studio serves as local files."""
    return place.source if is_address(place.source) else f"/data/local-files/?d={quote(place.picture)}"


def _region(item: Item, size: tuple[int, int], *, number: int) -> dict[str, Any]:
    height, width = size
    return {
        "id": f"region{number}",
        "from_name": _FROM,
        "to_name": _TO,
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": item.score,
        "value": {
            "format": "rle",
            "rle": encode_brush(item.mask, corner=item.corner, size=size),
            "brushlabels": [item.label],
        },
    }


def _view(labels: list[str]) -> str:
    """The labelling set-up of a project, whose names the regions use."""
    rows = [
        f'    <Label value="{for_xml(label)}" background="#{red:02x}{green:02x}{blue:02x}"/>\n'
        for label, (red, green, blue) in zip(labels, palette(len(labels)).tolist(), strict=True)
    ]
    return (
        f'<View>\n  <Image name="{_TO}" value="${_TO}"/>\n  <BrushLabels name="{_FROM}" toName="{_TO}">\n'
        f"{''.join(rows)}  </BrushLabels>\n</View>\n"
    )


LABELSTUDIO = Format("labelstudio", "", f"{TASKS}, {VIEW}", "", _labelstudio, by_object=True)
