"""An image as vectors: one for the whole, some for its regions, and a hash of how it looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ovseg.errors import ConfigError
from ovseg.regions.clusters import cluster_cells

if TYPE_CHECKING:
    from ovseg.encoders.spec import DenseFeatures
    from ovseg.pipeline.encoded import EncodedImage


def image_vector(encoded: EncodedImage) -> NDArray[np.float32]:
    """(D,) float32: unit mean of the joint features over all cells."""
    mean = encoded.features.values[0].float().flatten(1).mean(1)
    vector: NDArray[np.float32] = functional.normalize(mean, dim=0).cpu().numpy()
    return vector


def describe_regions(features: DenseFeatures, count: int) -> tuple[Tensor, Tensor]:
    """The regions of an image, clusters of similar cells, R at most ``count``; both tensors on the CPU.

    Clusters are of the structure features, or of the joint features where there are none.

    Returns:
        (h·w,) int64 the region of each cell, and (R, D) float32 unit means of the joint features over regions.
    """
    maps = functional.normalize(features.likeness[0].float(), dim=0).cpu()
    owner = cluster_cells(maps, count=count).flatten()
    return owner, unit_means(features.values, owner)


def region_keys(features: DenseFeatures, owner: Tensor) -> Tensor:
    """(R, S) float32: unit means of the structure features over the regions that ``owner`` (h·w,) tells.

    Raises:
        ConfigError: the model has no structure features on the grid of its cells.
    """
    if features.structure is None:
        raise ConfigError(
            "keys 'structure' need a second encoder on the grid of the features, which this model has not; take "
            "one with a recipe such as proxyclip or corrclip, or keys 'joint'"
        )
    return unit_means(features.structure, owner)


def unit_means(maps: Tensor, owner: Tensor) -> Tensor:
    """(R, C) float32 unit means of maps (1, C, h, w) over the regions that ``owner`` (h·w,) tells, on the CPU."""
    members = functional.one_hot(owner).float()  # (h·w, R)
    return functional.normalize(members.T @ maps[0].float().flatten(1).T.cpu(), dim=1)


def difference_hash(pixels: NDArray[np.uint8]) -> int:
    """64 bits: whether each cell of a 9×8 grey thumbnail is brighter than its right neighbour."""
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = (small[:, :-1] > small[:, 1:]).ravel()
    return int(np.packbits(bits).view(">u8")[0])
