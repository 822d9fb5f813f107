"""The fully connected CRF, by the library pydensecrf (an optional extra)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ovseg.errors import require
from ovseg.tensors import check_shape


def dense_crf(
    image: Tensor,
    maps: Tensor,
    *,
    iterations: int = 10,
    position: float = 1.0,
    smoothness: float = 3.0,
    bilateral_position: float = 67.0,
    bilateral_colour: float = 3.0,
    appearance: float = 4.0,
) -> Tensor:
    """Probabilities after mean-field inference in a CRF that connects every two pixels.

    Args:
        image: (1, 3, H, W) float in [0, 1].
        maps: (1, K, H, W) probabilities; where they do not add to 1, the rest is one more class.
        iterations: mean-field updates.
        position, smoothness: width in pixels, and weight, of the kernel on position.
        bilateral_position, bilateral_colour, appearance: widths in pixels and in steps of colour out of 255,
            and weight, of the kernel on position and colour.

    Returns:
        (1, K, H, W).

    Raises:
        MissingDependencyError: the extra ``crf`` is not installed.
        ShapeError: the sizes of image and maps differ.

    Source: Krähenbühl and Koltun, NeurIPS 2011; constants of Shin et al., ReCo, NeurIPS 2022.
    """
    check_shape("image", image, "B C H W", B=1, C=3)
    check_shape("maps", maps, "B K H W", B=1, H=image.shape[2], W=image.shape[3])
    library = require("pydensecrf.densecrf", extra="crf")
    height, width = image.shape[2:]
    rest = (1 - maps.sum(1, keepdim=True)).clamp_min(0)
    everything = torch.cat([maps, rest], 1)[0].clamp_min(1e-6).flatten(1)
    field = library.DenseCRF2D(width, height, len(everything))
    field.setUnaryEnergy(np.ascontiguousarray(-everything.log().float().cpu().numpy()))
    field.addPairwiseGaussian(sxy=position, compat=smoothness)
    colours = (image[0] * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    field.addPairwiseBilateral(
        sxy=bilateral_position, srgb=bilateral_colour, rgbim=np.ascontiguousarray(colours), compat=appearance
    )
    found = np.asarray(field.inference(iterations))[: maps.shape[1]]
    return torch.from_numpy(found).to(maps).view_as(maps)
