"""COCO's formats: run-length encoded masks and the data set of one image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult

Mask = npt.NDArray[np.bool_]


def encode_mask(mask: Mask) -> dict[str, Any]:
    """COCO's compressed run-length encoding of an (H, W) bool mask, with ``counts`` as text."""
    from pycocotools import mask as masks

    encoded = masks.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def to_coco(result: SegmentationResult, *, image_id: int, per_component: bool) -> dict[str, Any]:
    """See ``SegmentationResult.to_coco``."""
    height, width = result.size
    annotations: list[dict[str, Any]] = []
    for category, label in enumerate(result.labels, start=1):
        whole = result.mask(label)
        for mask in _components(whole) if per_component else [whole]:
            if mask.any():
                annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category}
                annotations.append(annotation | _describe(mask, result.score_map))
    file_name = str(result.provenance.get("source", ""))
    return {
        "images": [{"id": image_id, "file_name": file_name, "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(result.labels, start=1)],
    }


def _describe(mask: Mask, score_map: npt.NDArray[np.float32]) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return {
        "segmentation": encode_mask(mask),
        "area": int(np.count_nonzero(mask)),
        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],  # x, y, width, height
        "iscrowd": 0,
        "score": float(score_map[mask].mean(dtype=np.float64)),
    }


def _components(mask: Mask) -> Iterator[Mask]:
    """The 8-connected parts of a mask, each as a mask of full size."""
    from skimage.measure import label

    parts, count = label(mask, connectivity=2, return_num=True)
    for part in range(1, count + 1):
        yield parts == part
