"""An image that has been through an encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg.encoders.spec import DenseFeatures
from ovseg.images.geometry import Geometry

MadeT = TypeVar("MadeT")


@dataclass(frozen=True)
class EncodedImage:
    """An image encoded once, to be asked for many vocabularies.

    Attributes:
        image: (H, W, 3) uint8, upright.
        features: (1, D, h, w) in the model's joint space.
        geometry: how the cells lie on the pixels of the image.
        vector: (C,) unit vector of the whole image, for models that leave out unlikely labels; or None.
        source: the path that the image was read from; empty for what is no file.
        entering: of each batch of windows, what a second pass need not compute again; empty without one.
        note: what was decided about the values or bands of the file; see ``images.load.Picture``.
    """

    image: npt.NDArray[np.uint8]
    features: DenseFeatures
    geometry: Geometry
    vector: Tensor | None = None
    source: str = ""
    note: str = ""
    entering: tuple[Any, ...] = ()
    _made: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def pixels(self) -> Tensor:
        """(H, W, 3) uint8, the image; a copy, as the array may be read-only."""
        return torch.tensor(self.image)

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.features.values.device

    def once(self, name: str, make: Callable[[], MadeT]) -> MadeT:
        """What ``make`` gives, made when it is first asked for and kept with the image for further vocabularies.

        ``name`` says everything that decides what is made, besides the image.
        """
        if name not in self._made:
            self._made[name] = make()
        made: MadeT = self._made[name]
        return made

    def unpadded(self, maps: Tensor) -> Tensor:
        """The cells of (…, h, w) maps that show the image, without the padding."""
        height, width = self.image.shape[:2]
        rows, columns = self.geometry.block((0, 0, height, width), stride=self.features.stride)
        return maps[..., rows, columns]
