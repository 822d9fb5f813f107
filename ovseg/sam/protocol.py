"""What every SAM here answers to: a photo is encoded once, prompts then give masks at low resolution.

Prompts and results are on the CPU. Masks of the photo's size are made one at a time, so that memory does not grow
with their number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional

from ovseg.errors import ModelError, ShapeError
from ovseg.images.geometry import ImageGeometry
from ovseg.sam.decoder import Multimask
from ovseg.tensors import check_shape

BATCH = 2  # prompts that a decoder answers together: more do not fit the caches and take longer each
OUTSIDE = -32.0  # logit of what lies outside the photo


@dataclass(frozen=True)
class SamEmbedding:
    """A photo as a SAM sees it.

    Attributes:
        geometry: how the photo lies in the square frame of the network.
        features: what the network keeps of the photo; its own business.
        by_frame: whether masks are enlarged to the frame and then to the photo, as SAM does; SAM 2 does it at once.
    """

    geometry: ImageGeometry
    features: Any
    by_frame: bool = True

    def inside(self, logits: Tensor) -> Tensor:
        """The part of (…, h, w) low-resolution maps that shows the photo and not the padding."""
        return logits[..., : self._length(0, logits.shape[-2]), : self._length(1, logits.shape[-1])]

    def framed(self, maps: Tensor) -> Tensor:
        """Maps (n, H, W) of the photo at low resolution in the frame, 0 in the padding: (n, s, s) float32."""
        side = self.geometry.padded[0] // 4
        rows, columns = (round(side * self.geometry.resized[axis] / self.geometry.padded[axis]) for axis in (0, 1))
        small = _resize(maps[:, None].float(), (rows, columns))[:, 0]
        return functional.pad(small, (0, side - columns, 0, side - rows))

    def _length(self, axis: int, cells: int) -> int:
        return -(-cells * self.geometry.resized[axis] // self.geometry.padded[axis])


@dataclass(frozen=True)
class Prompts:
    """Boxes, points, or both, of n masks, in pixels of the photo or of a frame; with rough masks, if any.

    Attributes:
        boxes: (n, 4) float32 left, top, right, bottom; or None.
        points: (n, p, 2) float32 x, y; or None.
        labels: (n, p) int64, 1 on the thing, 0 off it; or None where there are no points.
        masks: (n, s, s) float32 logits of the frame at low resolution; or None.
    """

    boxes: Tensor | None
    points: Tensor | None
    labels: Tensor | None
    masks: Tensor | None = None

    def __len__(self) -> int:
        given = self.points if self.boxes is None else self.boxes
        assert given is not None
        return len(given)

    def in_frame(self, geometry: ImageGeometry) -> Prompts:
        """Prompts of the photo in pixels of the frame."""
        pairs = zip(reversed(geometry.resized), reversed(geometry.original), strict=True)
        scale = torch.tensor([new / old for new, old in pairs])
        boxes = None if self.boxes is None else self.boxes * scale.repeat(2)
        points = None if self.points is None else self.points * scale
        return Prompts(boxes, points, self.labels, self.masks)

    def to(self, device: torch.device) -> Prompts:
        """The same numbers on a device."""
        parts = (self.boxes, self.points, self.labels, self.masks)
        return Prompts(*(None if part is None else part.to(device) for part in parts))

    def split(self, batch: int) -> Iterator[Prompts]:
        """At most ``batch`` at a time."""
        for start in range(0, len(self), batch):
            parts = (self.boxes, self.points, self.labels, self.masks)
            yield Prompts(*(None if part is None else part[start : start + batch] for part in parts))


class PromptedSam(ABC):
    """A network that draws what prompts point at."""

    @property
    def reads_masks(self) -> bool:
        """Whether prompts may hold rough masks."""
        return False

    def to(self, device: torch.device) -> Self:
        """This network, moved to where it shall compute; one that says nothing else stays where it is."""
        return self

    @abstractmethod
    def encode(self, image: Tensor) -> SamEmbedding:
        """What ``masks`` needs of a photo, computed once.

        Args:
            image: (H, W, 3) uint8 RGB.

        Raises:
            ShapeError: the image has another form.
        """

    @torch.inference_mode()
    def masks(
        self,
        embedding: SamEmbedding,
        *,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        rough: Tensor | None = None,
        multimask: Multimask = False,
        batch: int = BATCH,
    ) -> tuple[Tensor, Tensor]:
        """Masks of prompts at low resolution.

        Args:
            embedding: of ``encode``.
            boxes: (n, 4) left, top, right, bottom in pixels of the photo.
            points: (n, 2) or (n, p, 2) x, y in pixels of the photo.
            point_labels: (n,) or (n, p), 1 on the thing, 0 off it; all 1 by default.
            rough: (n, s, s) rough masks, logits at the size of the masks that come back (256 by default), as
                ``SamEmbedding.framed`` gives them; only with ``reads_masks``, and beside boxes or points.
            multimask: three masks for each prompt (a part, a larger part, the whole) rather than one. Better for a
                lone point, which may mean any of them. "all" gives the one and then the three.
            batch: prompts that are computed together.

        Returns:
            Logits (n, m, 256, 256) float32, over 0 on the thing, of the frame with its padding, and (n, m) float32
            the overlap with the truth that the network expects. m is 1, 3 or 4.

        Raises:
            ShapeError: there is no prompt, shapes do not fit, or a number is not finite.
            ModelError: rough masks for a SAM that was made without prompts by masks.
        """
        prompts = check_prompts(boxes, points, point_labels).in_frame(embedding.geometry)
        if rough is not None:
            prompts = replace(prompts, masks=self._checked(rough, len(prompts), embedding))
        side, count = embedding.geometry.padded[0] // 4, 4 if multimask == "all" else 3 if multimask else 1
        logits, quality = [torch.zeros(0, count, side, side)], [torch.zeros(0, count)]
        for found, sure in self._answers(embedding, prompts.split(batch), multimask=multimask):
            logits.append(found.cpu())
            quality.append(sure.cpu())
        return torch.cat(logits), torch.cat(quality)

    def _checked(self, rough: Tensor, count: int, embedding: SamEmbedding) -> Tensor:
        side = embedding.geometry.padded[0] // 4
        if not self.reads_masks:
            raise ModelError("this SAM was made without prompts by masks, got rough=; take facebook/sam-vit-base")
        check_shape("rough", rough, "n h w", n=count, h=side, w=side)
        return _finite("rough", rough)

    @abstractmethod
    def _answers(
        self, embedding: SamEmbedding, parts: Iterator[Prompts], *, multimask: Multimask
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """What ``masks`` returns of each of some prompts in pixels of the frame, one after the other."""


def check_image(image: Tensor) -> Tensor:
    """The image on the CPU.

    Raises:
        ShapeError: it is not (H, W, 3) uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != torch.uint8 or 0 in image.shape:
        raise ShapeError(f"image must be (H, W, 3) uint8, got {tuple(image.shape)} {image.dtype}")
    return image.cpu()


def check_prompts(boxes: Tensor | None, points: Tensor | None, labels: Tensor | None) -> Prompts:
    """Prompts of ``PromptedSam.masks`` in their full shapes.

    Raises:
        ShapeError: there is no prompt, shapes do not fit, a number is not finite, or a box is turned over.
    """
    if boxes is None and points is None:
        raise ShapeError("expected boxes= or points=, got neither; a mask needs something to start from")
    if boxes is not None:
        check_shape("boxes", boxes, "n corners", corners=4)
        boxes = _finite("boxes", boxes)
        if bool((boxes[:, 2:] < boxes[:, :2]).any()):
            raise ShapeError("boxes must be left, top, right, bottom, got a right or bottom below its left or top")
    if points is None:
        if labels is not None:
            raise ShapeError("point_labels say what points= are, which are missing")
        return Prompts(boxes, None, None)
    points = _finite("points", points[:, None] if points.ndim == 2 else points)
    check_shape("points", points, "n p xy", xy=2)
    if boxes is not None and len(boxes) != len(points):
        raise ShapeError(f"boxes and points must be of the same masks, got {len(boxes)} and {len(points)}")
    if labels is None:
        labels = torch.ones(points.shape[:2])
    labels = labels[:, None] if labels.ndim == 1 else labels
    if labels.shape != points.shape[:2] or not bool(torch.isin(labels.cpu().long(), torch.tensor([0, 1])).all()):
        raise ShapeError(f"point_labels must be 0 or 1 for each of {tuple(points.shape[:2])} points")
    return Prompts(boxes, points, labels.cpu().long())


def _finite(name: str, values: Tensor) -> Tensor:
    values = values.detach().cpu().float()
    if not bool(values.isfinite().all()):
        raise ShapeError(f"{name} must be finite numbers, in pixels of the photo")
    return values


@torch.inference_mode()
def to_image(embedding: SamEmbedding, logits: Tensor) -> Iterator[Tensor]:
    """Masks of the photo's size, one after the other.

    Args:
        embedding: that the masks are of.
        logits: (n, h, w) of ``PromptedSam.masks``, one mask of each prompt.

    Yields:
        (H, W) bool.
    """
    for one in of_image(embedding, logits):
        yield one > 0


@torch.inference_mode()
def of_image(embedding: SamEmbedding, logits: Tensor) -> Iterator[Tensor]:
    """As ``to_image``, but (H, W) float32 logits."""
    check_shape("logits", logits, "n h w")
    geometry = embedding.geometry
    for one in logits[:, None, None]:
        if embedding.by_frame:
            framed = _resize(one, geometry.padded)
            one = framed[..., : geometry.resized[0], : geometry.resized[1]]
        yield _resize(one, geometry.original)[0, 0]


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def to_rle(embedding: SamEmbedding, logits: Tensor) -> list[dict[str, Any]]:
    """Masks of the photo's size as COCO's compressed run lengths, ``{"size": [H, W], "counts": bytes}``.

    Args:
        embedding, logits: as of ``to_image``.
    """
    return [
        coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in to_image(embedding, logits)
    ]
