"""What other libraries take: rows of a table, supervision's detections, the list of a pipeline of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ovseg.errors import require
from ovseg.result.items import items
from ovseg.result.segments import encode_mask

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult

COLUMNS = ("label", "pixels", "area", "score", "presence", "objects")
_MANY = 64_000_000  # pixels of all masks above which supervision gets them compact


def table_rows(result: SegmentationResult) -> Iterator[dict[str, Any]]:
    """A row for each label, in order: values of ``COLUMNS``; ``objects`` is None where none were looked for."""
    height, width = result.size
    for row in result.table():
        pixels = round(row.area * height * width)
        values = (row.label, pixels, row.area, row.score, row.presence, row.objects)
        yield dict(zip(COLUMNS, values, strict=True))


def to_pandas(result: SegmentationResult) -> Any:
    """See ``SegmentationResult.to_pandas``."""
    pandas = require("pandas", extra="notebook")
    frame = pandas.DataFrame(list(table_rows(result)), columns=list(COLUMNS))
    return frame.astype({"objects": "Int64"})


def to_supervision(result: SegmentationResult) -> Any:
    """See ``SegmentationResult.to_supervision``."""
    supervision = require("supervision", extra="notebook")
    found = list(items(result))
    if not found:
        return supervision.Detections.empty()
    boxes = np.array([item.box for item in found], dtype=np.float64) - [0, 0, 1, 1]  # their last pixels count
    if len(found) * result.index_map.size > _MANY:
        rles = [encode_mask(item.whole(result.size)) for item in found]
        masks = supervision.CompactMask.from_coco_rle(rles, boxes, result.size)
    else:
        masks = np.stack([item.whole(result.size) for item in found])
    return supervision.Detections(
        xyxy=boxes,
        mask=masks,
        confidence=np.array([item.score for item in found]),
        class_id=np.array([result.labels.index(item.label) for item in found]),
        data={"class_name": np.array([item.label for item in found])},
    )


def to_huggingface(result: SegmentationResult) -> list[dict[str, Any]]:
    """See ``SegmentationResult.to_huggingface``."""
    return [
        {
            "score": item.score,
            "label": item.label,
            "mask": Image.fromarray(item.whole(result.size).astype(np.uint8) * 255),
        }
        for item in items(result)
    ]
