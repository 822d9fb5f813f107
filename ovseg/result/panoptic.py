"""COCO's panoptic format: a picture whose colours are numbers of segments, and a list that says what each is.

Source: Kirillov et al., Panoptic Segmentation, CVPR 2019, section 3.1; format of cocodataset.org.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg.files import atomic_path
from ovseg.result.coco import Growing

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult


class Panoptic(NamedTuple):
    """One image in COCO's panoptic format.

    Attributes:
        picture: RGB; the segment of a pixel is R + 256 G + 65536 B, 0 for none.
        segments_info: of each segment ``id``, ``category_id``, ``area``, ``bbox`` (x, y, width, height),
            ``iscrowd`` and ``score``.
        categories: of each label ``id``, ``name`` and ``isthing``.
        image_id: id of the image.
    """

    picture: Image.Image
    segments_info: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    image_id: int

    @property
    def ids(self) -> npt.NDArray[np.int32]:
        """(H, W) int32, the segment of each pixel, 0 for none."""
        return picture_to_ids(np.asarray(self.picture))


@dataclass
class PanopticDataset:
    """One data set of the results of many images in COCO's panoptic format; ids are counted from 1.

    Attributes:
        images: where the rows of images go.
        annotations: where those of annotations go.
    """

    images: Growing = field(default_factory=list[dict[str, Any]])
    annotations: Growing = field(default_factory=list[dict[str, Any]])
    _categories: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The rows of labels so far."""
        return list(self._categories.values())

    def add(self, result: SegmentationResult, picture: Path, *, file_name: str) -> None:
        """Add an image, and write its picture.

        Args:
            result: of the image.
            picture: where the picture is written.
            file_name: what the data set calls the picture.
        """
        found = to_panoptic(result, image_id=len(self.images) + 1, min_area=0)
        names = {row["id"]: row["name"] for row in found.categories}
        for row in found.categories:
            known = self._categories.setdefault(row["name"], row | {"id": len(self._categories) + 1})
            known["isthing"] |= row["isthing"]
        info = [
            row | {"category_id": self._categories[names[row["category_id"]]]["id"]} for row in found.segments_info
        ]
        height, width = result.size
        source = str(result.provenance.get("source", ""))
        self.images.append({"id": found.image_id, "file_name": source, "height": height, "width": width})
        self.annotations.append({"image_id": found.image_id, "file_name": file_name, "segments_info": info})
        with atomic_path(picture) as temporary:
            found.picture.save(temporary, format="PNG")

    def to_dict(self) -> dict[str, Any]:
        """``images``, ``annotations`` and ``categories``: plain values that fit into JSON."""
        return {"images": self.images, "annotations": self.annotations, "categories": self.categories}


def to_panoptic(result: SegmentationResult, *, image_id: int, min_area: int) -> Panoptic:
    """See ``SegmentationResult.to_panoptic``."""
    ids = np.array(result.instance_map)
    labels = [each.label for each in result.instances or ()]
    scores = [each.score for each in result.instances or ()]
    for label in result.labels:
        if label not in result.things:
            rest = result.mask(label) & (ids == 0)
            if rest.any():
                labels.append(label)
                scores.append(float(result.score_map[rest].mean(dtype=np.float64)))
                ids[rest] = len(labels)
    areas = np.bincount(ids.ravel(), minlength=len(labels) + 1)
    areas[1:][areas[1:] < min_area] = 0
    ids = np.where(areas[ids] > 0, ids, 0)
    category = {label: number for number, label in enumerate(result.labels, start=1)}
    info = [
        {
            "id": number,
            "category_id": category[labels[number - 1]],
            "area": int(areas[number]),
            "bbox": box,
            "iscrowd": 0,
            "score": scores[number - 1],
        }
        for number, box in _boxes(ids).items()
    ]
    categories = [
        {"id": number, "name": label, "isthing": int(label in result.things)} for label, number in category.items()
    ]
    return Panoptic(ids_to_picture(ids), info, categories, image_id)


def _boxes(ids: npt.NDArray[np.int32]) -> dict[int, list[int]]:
    """By number of a segment that has pixels: x, y, width, height of all of them."""
    from scipy.ndimage import find_objects

    found = enumerate(find_objects(ids), start=1)
    windows = {number: window for number, window in found if window is not None}
    return {number: [x.start, y.start, x.stop - x.start, y.stop - y.start] for number, (y, x) in windows.items()}


def ids_to_picture(ids: npt.NDArray[np.int32]) -> Image.Image:
    """(H, W) numbers of segments, at least 0 and below 2²⁴, as the colours of COCO's panoptic pictures."""
    return Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], -1).astype(np.uint8))


def picture_to_ids(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """(H, W, 3) uint8 colours of a panoptic picture to (H, W) int32 numbers of segments."""
    ids: npt.NDArray[np.int32] = picture[..., :3].astype(np.int32) @ np.array([1, 256, 65536], dtype=np.int32)
    return ids
