"""An image that has been through an encoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ovseg.encoders.spec import DenseFeatures
from ovseg.images.geometry import ImageGeometry


@dataclass(frozen=True)
class EncodedImage:
    """An image encoded once, to be asked for many vocabularies.

    Attributes:
        image: (H, W, 3) uint8, upright.
        features: (1, D, h, w) in the model's joint space.
        geometry: sizes on the way.
        vector: (C,) unit vector of the whole image, for models that leave out unlikely labels; or None.
    """

    image: npt.NDArray[np.uint8]
    features: DenseFeatures
    geometry: ImageGeometry
    vector: Tensor | None = None
