"""An image as vectors: one for the whole, some for its regions, and a hash of how it looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ovseg.regions.clusters import cluster_cells

if TYPE_CHECKING:
    from ovseg.encoders.spec import DenseFeatures
    from ovseg.pipeline.encoded import EncodedImage


def image_vector(encoded: EncodedImage) -> NDArray[np.float32]:
    """(D,) float32: unit mean of the joint features over all cells."""
    mean = encoded.features.values[0].float().flatten(1).mean(1)
    vector: NDArray[np.float32] = functional.normalize(mean, dim=0).cpu().numpy()
    return vector


def region_vectors(encoded: EncodedImage, count: int) -> NDArray[np.float32]:
    """(R, D) float32: unit means of the joint features over clusters of similar cells, R at most ``count``.

    Clusters are of the structure features, or of the joint features where there are none.
    """
    vectors: NDArray[np.float32] = describe_regions(encoded.features, count)[1].numpy()
    return vectors


def describe_regions(features: DenseFeatures, count: int) -> tuple[Tensor, Tensor]:
    """(h·w,) int64 the region of each cell, and (R, D) float32 ``region_vectors``, both on the CPU."""
    maps = features.likeness
    owner = cluster_cells(functional.normalize(maps[0].float(), dim=0).cpu(), count=count).flatten()
    members = functional.one_hot(owner).float()  # (h·w, R)
    means = members.T @ features.values[0].float().flatten(1).T.cpu()
    return owner, functional.normalize(means, dim=1)


def difference_hash(pixels: NDArray[np.uint8]) -> int:
    """64 bits: whether each cell of a 9×8 grey thumbnail is brighter than its right neighbour."""
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = (small[:, :-1] > small[:, 1:]).ravel()
    return int(np.packbits(bits).view(">u8")[0])
