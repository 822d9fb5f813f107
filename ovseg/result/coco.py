"""COCO's format: a data set of one image, or of many."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from ovseg.result.segments import Segment, components, whole_labels

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult


@dataclass
class CocoDataset:
    """One data set of the results of many images; ids are those of the whole, counted from 1.

    Attributes:
        per_component: one annotation for each connected part of a label, instead of one per label; labels of which
            objects were looked for have one for each object.
    """

    per_component: bool = False
    _images: list[dict[str, Any]] = field(default_factory=list)
    _annotations: list[dict[str, Any]] = field(default_factory=list)
    _categories: dict[str, int] = field(default_factory=dict)

    def add(self, result: SegmentationResult, *, image_id: int | None = None) -> None:
        """Add an image with its annotations, and the labels that no image before it had."""
        image_id = len(self._images) + 1 if image_id is None else image_id
        height, width = result.size
        name = str(result.provenance.get("source", ""))
        self._images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for label in result.labels:
            self._categories.setdefault(label, len(self._categories) + 1)
        stuff = [label for label in result.labels if label not in result.things]
        parts = (components if self.per_component else whole_labels)(result, stuff)
        for number, each in enumerate(chain(result.instances or (), parts), start=len(self._annotations) + 1):
            ids = {"id": number, "image_id": image_id, "category_id": self._categories[each.label]}
            self._annotations.append(ids | _describe(each))

    def to_dict(self) -> dict[str, Any]:
        """``images``, ``annotations`` and ``categories``: plain values that fit into JSON."""
        return {
            "images": self._images,
            "annotations": self._annotations,
            "categories": [{"id": number, "name": label} for label, number in self._categories.items()],
        }


def to_coco(result: SegmentationResult, *, image_id: int, per_component: bool) -> dict[str, Any]:
    """See ``SegmentationResult.to_coco``."""
    dataset = CocoDataset(per_component)
    dataset.add(result, image_id=image_id)
    return dataset.to_dict()


def _describe(segment: Segment) -> dict[str, Any]:
    x0, y0, x1, y1 = segment.box
    return {
        "segmentation": segment.rle,
        "area": segment.area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],  # x, y, width, height
        "iscrowd": 0,
        "score": segment.score,
    }
