"""Label Studio's tasks with predictions: brush strokes in its own runs, which hold holes and several parts.

Source: label-studio-sdk, converter/brush.py, after thi.ng's rle-pack.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from ovseg.escape import for_xml
from ovseg.images.web import is_address
from ovseg.result.formats.base import Add, Format, Options, Place
from ovseg.result.formats.spool import open_text, rows
from ovseg.result.items import Item, items
from ovseg.result.overlay import palette

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult

TASKS = "_tasks.labelstudio.json"
VIEW = "_view.labelstudio.xml"
_FROM, _TO = "label", "image"
_SIZES = np.array([3, 4, 8, 16])  # bits in which the length of a run less one may be written
_LONGEST = 1 << _SIZES
_PLACES = np.arange(3 + 16 + 8)[::-1]  # of the bits of the longest word
_SIZE_BITS = [int(bit) for bit in "00111" + "".join(f"{bits - 1:04b}" for bits in _SIZES)]


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
        "value": {"format": "rle", "rle": brush(item, size), "brushlabels": [item.label]},
    }


def brush(item: Item, size: tuple[int, int]) -> list[int]:
    """The bytes of Label Studio's runs of a mask in an image of ``size`` (H, W), row by row.

    Each pixel stands four times, as red, green, blue and opacity: 255 where the mask is, else 0. First come the
    number of values (32 bits), the bits of a value less one (5), and four sizes less one (4 each); then for each
    run a 1, which of the sizes it takes (2), its length less one in so many bits, and its value.
    """
    lengths, values = _runs(item, size)
    kinds = np.searchsorted(_LONGEST, lengths)  # the smallest size that holds the length
    bits = _SIZES[kinds]
    words = ((4 | kinds) << (bits + 8)) | ((lengths - 1) << 8) | values
    spread = (words[:, None] >> _PLACES) & 1  # the highest first
    used = spread[bits[:, None] + 11 > _PLACES]
    count = np.array([4 * size[0] * size[1]], dtype=">u4").tobytes()
    packed: bytes = np.packbits(np.concatenate([_SIZE_BITS, used]).astype(np.uint8)).tobytes()
    return list(count + packed)


def _runs(item: Item, size: tuple[int, int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Lengths, 1 to 65536, and values, 0 or 255, of the runs of four values a pixel."""
    (top, left), (height, width) = item.corner, item.mask.shape
    framed = np.zeros((height, width + 2), dtype=bool)
    framed[:, 1:-1] = item.mask
    rows, columns = np.nonzero(framed[:, 1:] != framed[:, :-1])  # where runs begin and end, in turn
    places = 4 * ((rows + top) * size[1] + columns + left)
    apart = np.ones(len(places), dtype=bool)
    apart[1:-1] = np.repeat(places[1:-1:2] < places[2::2], 2)  # not where one ends right and goes on left
    ends = np.concatenate([[0], places[apart], [4 * size[0] * size[1]]])
    lengths = ends[1:] - ends[:-1]
    pieces = -(-lengths // _LONGEST[-1])  # none of an empty run
    last = np.cumsum(pieces) - 1
    split = np.full(last[-1] + 1, _LONGEST[-1])
    some = pieces > 0
    split[last[some]] = (lengths - (pieces - 1) * _LONGEST[-1])[some]
    return split, np.repeat(np.arange(len(lengths)) % 2 * 255, pieces)


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
