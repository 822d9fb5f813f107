"""A second pass over an image, by the labels that the first one gave it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ovseg.encoders.spec import DenseFeatures, LabelledEncoder
from ovseg.errors import ConfigError
from ovseg.models.model import Model
from ovseg.pipeline.decide import DecisionRules
from ovseg.pipeline.encode import encode_image
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits


class SecondPass:
    """Encodes images again, each patch knowing its label.

    Every vocabulary has labels of its own, so the tower runs once more for each.

    Args:
        model: whose file has a section ``again``.
        device: where it is.

    Raises:
        ConfigError: its recipe cannot read labels.

    Source: Yang et al., ResCLIP, CVPR 2025; its released code labels each window by itself, here it is the image.
    """

    def __init__(self, model: Model, *, device: torch.device) -> None:
        if model.config.again is None or not isinstance(model.image, LabelledEncoder):
            raise ConfigError(
                f"'again:' needs an encoder that reads labels, got {type(model.image).__name__}; remove it"
            )
        self._model, self._encoder, self._rule, self._device = model, model.image, model.config.again, device
        self._rules = DecisionRules(model.config)

    @torch.inference_mode()
    def __call__(self, logits: ClassLogits, encoded: EncodedImage) -> EncodedImage:
        """The image with the features of the second pass; ``logits`` are of the first."""
        features, _ = encode_image(
            self._joint,
            encoded.image,
            self._model.image.spec,
            self._model.config.input,
            labels=self.labels(logits, encoded),
        )
        return replace(encoded, features=features)

    def labels(self, logits: ClassLogits, encoded: EncodedImage) -> Tensor:
        """(H, W) int64 class at each pixel, refined as the model file says; −1 where none is likely enough."""
        decision = self._rules.decide(logits, encoded, background=False, refine=True)
        return torch.where(decision.best < self._rule.least, -1, decision.index).long()

    def _joint(self, pixels: Tensor, labels: Tensor) -> DenseFeatures:
        read = self._encoder.dense_labelled(pixels.to(self._device), labels.to(self._device))
        return self._model.head.pixels(read)
