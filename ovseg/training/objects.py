"""Images with numbered objects or segments, and their cached views: frozen features and a mask for each object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovseg.errors import ConfigError
from ovseg.evaluation.data.annotations import AnnotatedImage
from ovseg.evaluation.data.objects import ObjectDataset
from ovseg.evaluation.metrics.objects import TrueObjects
from ovseg.evaluation.metrics.panoptic import Segments
from ovseg.models.model import Model
from ovseg.result.segments import paint_over
from ovseg.sam import load_sam
from ovseg.sam.features import sam_map
from ovseg.sam.load import sam_mark
from ovseg.training.augment import Augmentation, make_view
from ovseg.training.data import IGNORED, NONE, Labelled, MaskData, MaskSource
from ovseg.training.features import Arrays, FeatureCache
from ovseg.training.views import Views

_SMALLEST = 4  # cells of the label map under which what is left of an object is not trained on


class ObjectSource(MaskSource):
    """The images of a protocol of objects, each label map holding numbers of objects in place of classes.

    Numbers are unique over all images, so that a view may join several. Void and crowds are ignored; pixels that no
    annotated object has are none of them. Where objects overlap, the smaller one is seen.

    Attributes:
        class_of: (N,) class index of each number.

    Raises:
        ConfigError: the protocol has label maps alone, or see ``MaskSource``.
    """

    dataset: ObjectDataset

    def __init__(self, data: MaskData) -> None:
        super().__init__(data)
        if not isinstance(self.dataset, ObjectDataset):
            raise ConfigError(
                f"'{data.protocol}' has label maps; masks of things are learned from objects, such as those of the "
                "protocols coco-panoptic and coco-instances, or panoptic and instances for your own"
            )
        classes = [_classes_of(self.dataset.images[row], self.dataset) for row in self.rows]
        self.class_of = np.concatenate([np.zeros(0, np.int64), *classes])
        self._first = np.concatenate([[0], np.cumsum([len(each) for each in classes])])
        self.reading = {**self.reading, "label maps": "numbers of objects"}

    def load(self, index: int) -> Labelled:
        """The image, and (H, W) int32 the number of the object at each pixel."""
        example = self.dataset.load(self.rows[index])
        assert example.objects is not None
        numbers = _numbered(example.objects, size=(example.truth.shape[0], example.truth.shape[1]))
        return Labelled(
            example.image, np.where(numbers >= 0, numbers + self._first[index], numbers).astype(np.int32)
        )

    def select(
        self, truth: NDArray[Any], confidence: NDArray[np.uint8] | None
    ) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
        """Objects of classes that are held out are ignored."""
        held = np.isin(self.class_of, self.held)
        gone = (truth >= 0) & held[np.maximum(truth, 0)] if len(held) else np.zeros(truth.shape, bool)
        return np.where(gone, IGNORED, truth).astype(truth.dtype), confidence


@dataclass(frozen=True)
class ObjectView:
    """A view as the recipe reads it.

    Attributes:
        features: (C, h, w) float32.
        masks: (m, f·h, f·w) bool, see ``views.FINER``.
        classes: (m,) int64.
        known: (f·h, f·w) bool, false where it is not known what a pixel shows.
        sam: (256, a, b) float32 embedding, or None.
    """

    features: torch.Tensor
    masks: torch.Tensor
    classes: torch.Tensor
    known: torch.Tensor
    sam: torch.Tensor | None = None


class ObjectViews(Views):
    """The views of all images of a source, with the embedding by a SAM where one is named.

    Args:
        source, model, cache, augmentation, seed: as of ``Views``.
        sam: name of a SAM, or empty.
    """

    source: ObjectSource
    numbers = np.int32

    def __init__(
        self,
        source: ObjectSource,
        model: Model,
        cache: FeatureCache,
        *,
        augmentation: Augmentation,
        seed: int,
        sam: str = "",
    ) -> None:
        super().__init__(source, model, cache, augmentation=augmentation, seed=seed)
        self._sam = sam
        if sam:
            self._key["sam"] = [sam, sam_mark(sam)]

    def objects(self, index: int, view: int = 0) -> ObjectView:
        """A view of the image at ``index`` with its masks.

        Raises:
            DatasetError: a file is missing or damaged, or has changed since the run began.
        """
        arrays = self.arrays(index, view)
        truth, _ = self.source.select(np.asarray(arrays["truth"]), None)
        numbers, counts = np.unique(truth[truth >= 0], return_counts=True)
        numbers = numbers[counts >= _SMALLEST]
        masks = torch.from_numpy(truth[None] == numbers[:, None, None])
        sam = arrays.get("sam")
        return ObjectView(
            torch.from_numpy(arrays["features"].astype(np.float32)).permute(2, 0, 1),
            masks,
            torch.from_numpy(self.source.class_of[numbers]),
            torch.from_numpy(truth != IGNORED),
            None if sam is None else torch.from_numpy(sam.astype(np.float32)),
        )

    def _make(self, index: int, view: int) -> Arrays:
        arrays = super()._make(index, view)
        if self._sam:
            seen = make_view(self.source, index, view, augmentation=self._augmentation, seed=self._seed)
            image = torch.from_numpy(np.ascontiguousarray(seen.image))
            arrays["sam"] = sam_map(load_sam(self._sam), image)[0].to(torch.float16).numpy()
        return arrays


def _classes_of(image: AnnotatedImage, dataset: ObjectDataset) -> NDArray[np.int64]:
    """The classes of what an image's annotations list, in order; of labels alone, as the data set gives them."""
    classes = [int(dataset.lookup[row["category_id"]]) for row in image.rows]
    return np.asarray([each for each in classes if each >= 0], np.int64)


def _numbered(objects: Segments | TrueObjects, *, size: tuple[int, int]) -> NDArray[np.int64]:
    """(H, W) number of the object at each pixel, from 0; ``IGNORED`` or ``NONE`` where there is none."""
    if isinstance(objects, Segments):
        numbers = objects.ids.astype(np.int64) - 1
        crowds = np.flatnonzero(objects.crowded)
        return np.where((numbers < 0) | np.isin(numbers, crowds), IGNORED, numbers)
    crowd = objects.crowd or (False,) * len(objects.classes)
    order = sorted(range(len(objects.rles)), key=lambda place: (not crowd[place], -objects.areas[place]))
    values = [IGNORED if crowd[place] else place for place in order]  # crowds lie below
    return paint_over([objects.rles[place] for place in order], values, size, ground=NONE).astype(np.int64)
