"""A second pass over an image, by the labels that the first one gave it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg.encoders.spec import DenseFeatures, LabelledEncoder
from ovseg.errors import ConfigError
from ovseg.models.model import Model
from ovseg.pipeline.decide import DecisionRules
from ovseg.pipeline.encode import encode_image
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.memory import Memory, inputs_within


class SecondPass:
    """Encodes images twice, the second time with each patch knowing its label.

    The first time keeps what enters the last block of the tower; that block alone runs again for each vocabulary.

    Args:
        model: whose file has a section ``again``.
        device: where it is.
        memory: what bounds how many windows run together; None leaves it at the default.

    Raises:
        ConfigError: its recipe cannot read labels.

    Source: Yang et al., ResCLIP, CVPR 2025; its released code labels each window by itself, here it is the image.
    """

    def __init__(self, model: Model, *, device: torch.device, memory: Memory | None = None) -> None:
        if model.config.again is None or not isinstance(model.image, LabelledEncoder):
            raise ConfigError(
                f"'again:' needs an encoder that reads labels, got {type(model.image).__name__}; remove it"
            )
        self._model, self._encoder, self._rule, self._device = model, model.image, model.config.again, device
        self._rules, self._memory = DecisionRules(model.config, memory), memory

    @torch.inference_mode()
    def first(self, image: npt.NDArray[np.uint8]) -> EncodedImage:
        """An (H, W, 3) uint8 image encoded for the first time."""
        kept: list[Any] = []

        def joint(pixels: Tensor) -> DenseFeatures:
            features, entering = self._encoder.dense_resumable(pixels.to(self._device))
            kept.append(entering)
            return self._model.head.pixels(features)

        spec, sizes = self._model.image.spec, self._model.config.input
        features, geometry = encode_image(joint, image, spec, sizes, most=inputs_within(self._memory, [image]))
        return EncodedImage(image, features, geometry, entering=tuple(kept))

    @torch.inference_mode()
    def __call__(self, logits: ClassLogits, encoded: EncodedImage) -> EncodedImage:
        """The image with the features of the second pass; ``logits`` are of the first."""
        kept = iter(encoded.entering)  # the windows come in the same order and batches again

        def joint(pixels: Tensor, labels: Tensor) -> DenseFeatures:
            seen, told = pixels.to(self._device), labels.to(self._device)
            return self._model.head.pixels(self._encoder.dense_labelled(seen, told, next(kept, None)))

        spec, sizes = self._model.image.spec, self._model.config.input
        labels, most = self.labels(logits, encoded), inputs_within(self._memory, [encoded.image])
        features, _ = encode_image(joint, encoded.image, spec, sizes, labels=labels, most=most)
        return replace(encoded, features=features)

    def labels(self, logits: ClassLogits, encoded: EncodedImage) -> Tensor:
        """(H, W) int64 class at each pixel, refined as the model file says; −1 where none is likely enough."""
        decision = self._rules.decide(logits, encoded, background=False, refine=True)
        return torch.where(decision.best < self._rule.least, -1, decision.index).long()
