"""What the photos of a group have in common, found without words or training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.bank.vectors import describe_regions
from ovseg.errors import ImageError, ShapeError
from ovseg.pipeline.opening import load
from ovseg.proposals.masks import sharp_masks

if TYPE_CHECKING:
    from ovseg.images.load import ImageSource
    from ovseg.pipeline.encoded import EncodedImage
    from ovseg.pipeline.segmenter import Segmenter


@dataclass(frozen=True)
class Cosaliency:
    """What one photo shares with the others of its group.

    Attributes:
        weights: (H, W) float32 in [-1, 1]: the mean, over the other photos, of the best cosine of the pixel's
            region with one of their regions.
        mask: (H, W) bool, the regions whose weight is over the photo's mean, borders drawn on the photo.
    """

    weights: NDArray[np.float32]
    mask: NDArray[np.bool_]


def cosaliency(
    images: Sequence[ImageSource], *, segmenter: Segmenter | None = None, model: str = "mini", regions: int = 8
) -> tuple[Cosaliency, ...]:
    """What each photo of a group has that the others have too.

    Args:
        images: at least two, each anything ``Segmenter.encode`` takes.
        segmenter: whose features are compared; None loads ``model``.
        model: a name of ``ovseg.list_models()``.
        regions: into how many a photo is cut, at most: clusters of its structure features.

    Raises:
        ImageError: fewer than two, one image in place of a list, or one cannot be read.

    Source: the regions' weights are after SCoSPARC (Chakraborty et al., ECCV 2024), whose networks are left out.
    """
    if isinstance(images, str | bytes) or not isinstance(images, Sequence) or len(images) < 2:
        raise ImageError("expected a list of at least two images, which may have something in common")
    segmenter = load(model) if segmenter is None else segmenter
    with torch.inference_mode():
        seen = [_described(segmenter.encode(image), regions) for image in images]
        weights = region_weights([vectors for _, _, vectors in seen])
        return tuple(
            _drawn(pixels, owner, weight) for (pixels, owner, _), weight in zip(seen, weights, strict=True)
        )


def region_weights(vectors: Sequence[Tensor]) -> list[Tensor]:
    """How much of what the others have each region has.

    Args:
        vectors: of each image (R, D) unit vectors of its regions; at least two images.

    Returns:
        For each image (R,) in [-1, 1]: the mean, over the other images, of the largest cosine with their regions.

    Raises:
        ShapeError: fewer than two images.
    """
    if len(vectors) < 2:
        raise ShapeError(f"regions of at least two images can be compared, got {len(vectors)}")
    return [
        torch.stack([(own @ other.T).amax(1) for place, other in enumerate(vectors) if place != number]).mean(0)
        for number, own in enumerate(vectors)
    ]


def _described(encoded: EncodedImage, regions: int) -> tuple[NDArray[np.uint8], Tensor, Tensor]:
    """The pixels, (h, w) the region of each cell that shows the photo, and (R, D) the regions' vectors."""
    owner, vectors = describe_regions(encoded.features, regions)
    return encoded.image, encoded.unpadded(owner.view(encoded.features.grid)), vectors


def _drawn(pixels: NDArray[np.uint8], owner: Tensor, weight: Tensor) -> Cosaliency:
    cells = weight[owner]
    above = (cells > cells.mean()).float()
    (mask,) = sharp_masks(torch.from_numpy(pixels), above[None])
    size = (pixels.shape[0], pixels.shape[1])
    whole = torch.nn.functional.interpolate(cells[None, None], size, mode="bilinear", align_corners=False)
    return Cosaliency(whole[0, 0].numpy(), mask.numpy())
