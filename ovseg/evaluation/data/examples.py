"""An image with its truth, and what every data set can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg.errors import DatasetError
from ovseg.evaluation.data.orientation import Reading
from ovseg.evaluation.data.protocol import Protocol, Resize
from ovseg.evaluation.metrics.confusion import IGNORE
from ovseg.evaluation.metrics.objects import TrueObjects
from ovseg.evaluation.metrics.panoptic import Segments

BACKGROUND = 0  # its position in every protocol that asks for one class an image


@dataclass(frozen=True)
class Support:
    """A visual example of a class in a few-shot episode: (H, W, 3) uint8 image and (H, W) bool mask."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Example:
    """One image to segment and its truth.

    Attributes:
        name: unique in the data set; reports are compared image by image by it.
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) int32 class indices; -1 is ignored.
        candidates: indices of the classes whose labels are given; None: all of the protocol's.
        supports: visual examples by class index (few-shot episodes).
        objects: panoptic segments or annotated objects, where the protocol has them.
    """

    name: str
    image: NDArray[np.uint8]
    truth: NDArray[np.int32]
    candidates: tuple[int, ...] | None = None
    supports: dict[int, tuple[Support, ...]] = field(default_factory=dict)
    objects: Segments | TrueObjects | None = None


class Dataset(Interface):
    """A sequence of examples that are decoded when they are needed."""

    @property
    def protocol(self) -> Protocol:
        """The protocol, with its classes."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each example, unique."""
        ...

    def load(self, index: int) -> Example:
        """The example at ``index``."""
        ...

    @property
    def fingerprint(self) -> str | None:
        """What the data are known by besides ``files``, such as the annotations of all images; None: by nothing."""
        ...

    @property
    def reading(self) -> Reading | None:
        """How masks lie on photos that their EXIF data turn; None where there are no such photos."""
        ...

    def files(self, index: int) -> tuple[Path, ...]:
        """Every file that the example at ``index`` is made of: images, masks, and those of its visual examples."""
        ...

    def image_files(self, index: int) -> tuple[Path, ...]:
        """Those of ``files`` that show the image to segment; none where it has no file of its own."""
        ...


def only_class(truth: NDArray[np.int32], class_index: int) -> NDArray[np.int32]:
    """(H, W) int32: the class kept, every other labelled pixel background (0), ignored ones still ignored."""
    kept = np.where((truth == class_index) | (truth == IGNORE), truth, BACKGROUND)
    return kept.astype(np.int32, copy=False)


def check_same_size(image: NDArray[np.uint8], mask: NDArray[np.int32], *, image_name: str, mask_name: str) -> None:
    """Refuse an image and a mask of different height or width."""
    if image.shape[:2] != mask.shape:
        raise DatasetError(
            f"the image '{image_name}' is {image.shape[0]} x {image.shape[1]} pixels (H x W) but its mask "
            f"'{mask_name}' is {mask.shape[0]} x {mask.shape[1]}; each mask must have its image's size"
        )


def resize_pair(
    image: NDArray[np.uint8], truth: NDArray[np.int32], *, resize: Resize
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Image (bilinear) and truth (nearest) at the protocol's size; unchanged where it states none."""
    if resize.short_side is None:
        return image, truth
    height, width = truth.shape
    scale = resize.short_side / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    truth = np.asarray(Image.fromarray(truth).resize(size, Image.Resampling.NEAREST))
    if resize.center_crop:
        side = resize.short_side
        top, left = (truth.shape[0] - side) // 2, (truth.shape[1] - side) // 2
        image, truth = (
            image[top : top + side, left : left + side],
            truth[top : top + side, left : left + side],
        )
    return np.ascontiguousarray(image), np.ascontiguousarray(truth)
