"""Decoded images through the encoder of a model, with all that its file asks to be made of them once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg.encoders.spec import DenseFeatures, run_encoder
from ovseg.heads.base import reads_whole
from ovseg.images.resize import prepare, working_size
from ovseg.models.model import Model
from ovseg.pipeline.again import SecondPass
from ovseg.pipeline.encode import encode_images, whole_image
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.gather import Gathering
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.memory import Memory, inputs_within


class PhotoEncoder:
    """Encodes decoded images, first without words, and again by what the words found where the model file says so.

    Args:
        model: the networks.
        device: where they are.
        memory: what bounds how many inputs run together; None leaves it at the default.
    """

    def __init__(self, model: Model, *, device: torch.device, memory: Memory | None = None) -> None:
        self._model, self._config, self._device, self._memory = model, model.config, device, memory
        gather, unit = model.config.gather, model.config.input.splice == "features"
        self._gather = None if gather is None else Gathering(gather, unit=unit)
        self._again = None if model.config.again is None else SecondPass(model, device=device, memory=memory)

    @property
    def twice(self) -> bool:
        """Whether images are encoded again once they have labels."""
        return self._again is not None

    def first(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[EncodedImage]:
        """Images (H, W, 3) uint8; those of one size run together, but for models with a second pass."""
        if self._again is not None:
            found = [self._again.first(image) for image in images]
        else:
            whole = getattr(self._model.image, "whole_regions", None)
            sizes, spec = self._config.input, self._model.image.spec
            most = inputs_within(self._memory, images)
            encoded = encode_images(self.joint, images, spec, sizes, regions=whole, most=most)
            found = [EncodedImage(image, *each) for image, each in zip(images, encoded, strict=True)]
        if self._config.prune is not None or self._config.whole is not None:
            found = [replace(each, vector=self._whole(each.image)) for each in found]
        return [self._gathered(each) for each in found]

    def second(self, logits: ClassLogits, encoded: EncodedImage) -> EncodedImage:
        """The image with the features of the second pass, by the logits of the first."""
        return encoded if self._again is None else self._gathered(self._again(logits, encoded))

    def _gathered(self, encoded: EncodedImage) -> EncodedImage:
        return encoded if self._gather is None else self._gather(encoded)

    @torch.inference_mode()
    def _whole(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """The image as a whole, at the size of one window, to its unit vector (C,)."""
        spec, sizes = self._model.image.spec, self._config.input
        side = sizes.window or sizes.short_side
        size = working_size(image.shape[:2], short_side=side, max_long_side=2 * side, stride=spec.granularity)
        return whole_image(self._model.image, prepare(image, spec, size=size)[0].to(self._device))

    def joint(self, pixels: Tensor, *regions: Tensor) -> DenseFeatures:
        """Normalised pixels (B, 3, H, W), and (B, H, W) regions, to features in the joint space."""
        head, pixels = self._model.head, pixels.to(self._device)
        seen = run_encoder(self._model.image, pixels, *regions, whole=reads_whole(head))
        return replace(head.pixels(seen), boxes=seen.boxes)
