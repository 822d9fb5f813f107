"""COCO's format: the data set of one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ovseg.result.segments import Segment, components, whole_labels

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult


def to_coco(result: SegmentationResult, *, image_id: int, per_component: bool) -> dict[str, Any]:
    """See ``SegmentationResult.to_coco``."""
    height, width = result.size
    if result.segments is not None:
        segments = list(result.segments)
    else:
        segments = list(components(result) if per_component else whole_labels(result))
    category = {label: number for number, label in enumerate(result.labels, start=1)}
    return {
        "images": [
            {
                "id": image_id,
                "file_name": str(result.provenance.get("source", "")),
                "height": height,
                "width": width,
            }
        ],
        "annotations": [
            {"id": number, "image_id": image_id, "category_id": category[each.label]} | _describe(each)
            for number, each in enumerate(segments, start=1)
        ],
        "categories": [{"id": number, "name": label} for label, number in category.items()],
    }


def _describe(segment: Segment) -> dict[str, Any]:
    x0, y0, x1, y1 = segment.box
    return {
        "segmentation": segment.rle,
        "area": segment.area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],  # x, y, width, height
        "iscrowd": 0,
        "score": segment.score,
    }
