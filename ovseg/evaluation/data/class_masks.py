"""Images whose objects are annotated, one class at a time: masks of two classes may overlap (LVIS-92i)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.config import parse_config
from ovseg.evaluation.data.examples import BACKGROUND, Example, check_same_size, resize_pair
from ovseg.evaluation.data.masks import read_image
from ovseg.evaluation.data.objects import VOID, ObjectDataset, find_annotated, rle_of
from ovseg.evaluation.data.protocol import Protocol

Pairs = dict[int, list[int]]  # class index -> positions of the images that show it


@dataclass
class ClassMasks(ObjectDataset):
    """Annotated images; the background is the class at 0, the category of the n-th lowest id the class n."""

    def load_class(self, index: int, class_index: int) -> Example:
        """The image at ``index``; its truth is the union of all objects of the class, all else background.

        Raises:
            DatasetError: the image or a mask cannot be read, or their sizes differ.
        """
        from pycocotools import mask as masks

        pair, annotated = self.pairs[index], self.images[index]
        image = read_image(pair.image)
        rles = [
            rle_of(row, annotated) for row in annotated.rows if self._class_of[row["category_id"]] == class_index
        ]
        shown = masks.decode(masks.merge(rles)) > 0 if rles else np.zeros(annotated.size, bool)
        truth = np.where(shown, class_index, BACKGROUND).astype(np.int32)
        check_same_size(image, truth, image_name=str(pair.image), mask_name=str(pair.mask))
        return Example(pair.name, *resize_pair(image, truth, resize=self.protocol.resize))

    def images_by_class(self) -> Pairs:
        """For each class that an image shows, the images that do, in order of the classes."""
        pairs: Pairs = {}
        for place, image in enumerate(self.images):
            for index in {self._class_of[row["category_id"]] for row in image.rows}:
                pairs.setdefault(index, []).append(place)
        return dict(sorted(pairs.items()))

    @cached_property
    def _class_of(self) -> dict[int, int]:
        return {value: index for index, entry in enumerate(self.protocol.classes) for value in entry.ids}


def open_class_masks(protocol: Protocol, data: Path) -> ClassMasks:
    """The images and annotations under ``data``; the protocol gets their categories, after the background.

    Raises:
        DatasetError: the data is not laid out as the protocol says, or the annotations do not hold together.
        ConfigError: the categories do not fit the protocol.
    """
    files = find_annotated(protocol, data, kind="instances")
    entries: list[dict[str, Any]] = [{"name": protocol.background.class_name, "ids": (VOID,)}]
    entries += [{"name": each.name, "ids": (each.id,), "thing": True} for each in files.found.categories]
    values = protocol.model_dump() | {"classes": entries}
    protocol = parse_config(Protocol, values, source=f"'{files.path}' for '{protocol.name}'")
    lookup = protocol.lookup()
    return ClassMasks(protocol, files.pairs, files.layout, lookup, files.fingerprint, files.found.images)
