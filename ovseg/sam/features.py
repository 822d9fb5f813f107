"""The embedding of a SAM as a map, for networks that read it beside their own features."""

from __future__ import annotations

import torch
from torch import Tensor

from ovseg.errors import ModelError
from ovseg.sam.protocol import PromptedSam, SamEmbedding


@torch.inference_mode()
def sam_map(network: PromptedSam, image: Tensor) -> Tensor:
    """What a SAM keeps of a photo.

    Args:
        network: SAM itself, or the embedded one.
        image: (H, W, 3) uint8 RGB.

    Returns:
        (1, C, h, w) float32, the cells that show the photo; C is 256 and the longer side 64 cells.

    Raises:
        ModelError: the network keeps something else, as SAM 2 does.
        ShapeError: the image has another form.
    """
    return embedding_map(network.encode(image))


def embedding_map(embedding: SamEmbedding) -> Tensor:
    """The same of a photo that is encoded already."""
    features = embedding.features
    if isinstance(features, Tensor) and features.ndim == 2:  # cells of the square frame, row by row
        side = round(len(features) ** 0.5)
        features = features.T.reshape(1, -1, side, side)
    if not isinstance(features, Tensor) or features.ndim != 4:
        raise ModelError(
            "only the embedding of SAM can be read as a map, got that of another network; use 'mobile-sam'"
        )
    return embedding.inside(features).float()
