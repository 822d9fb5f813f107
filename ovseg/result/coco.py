"""COCO's format: a data set of one image, or of many."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from ovseg.result.segments import Segment, components, whole_labels

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult


class Growing(Protocol):
    """What rows are added to: a list, or rows that wait on the disk."""

    def append(self, row: dict[str, Any], /) -> None:
        """Add a row."""
        ...

    def __len__(self) -> int: ...


@dataclass
class CocoDataset:
    """One data set of the results of many images; ids are those of the whole, counted from 1.

    Attributes:
        per_component: one annotation for each connected part of a label, instead of one per label; labels of which
            objects were looked for have one for each object.
        images: where the rows of images go.
        annotations: where those of annotations go.
    """

    per_component: bool = False
    images: Growing = field(default_factory=list[dict[str, Any]])
    annotations: Growing = field(default_factory=list[dict[str, Any]])
    _categories: dict[str, int] = field(default_factory=dict)

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The rows of labels so far."""
        return [{"id": number, "name": label} for label, number in self._categories.items()]

    def add(self, result: SegmentationResult, *, image_id: int | None = None) -> None:
        """Add an image with its annotations, and the labels that no image before it had."""
        image_id = len(self.images) + 1 if image_id is None else image_id
        height, width = result.size
        name = str(result.provenance.get("source", ""))
        self.images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for label in result.labels:
            self._categories.setdefault(label, len(self._categories) + 1)
        stuff = [label for label in result.labels if label not in result.things]
        parts = (components if self.per_component else whole_labels)(result, stuff)
        for number, each in enumerate(chain(result.instances or (), parts), start=len(self.annotations) + 1):
            ids = {"id": number, "image_id": image_id, "category_id": self._categories[each.label]}
            self.annotations.append(ids | _describe(each))

    def to_dict(self) -> dict[str, Any]:
        """``images``, ``annotations`` and ``categories``: plain values that fit into JSON."""
        return {"images": self.images, "annotations": self.annotations, "categories": self.categories}


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
