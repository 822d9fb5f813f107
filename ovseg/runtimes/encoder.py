"""An exported image encoder in the place of the network that it was made from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ovseg.encoders.spec import DenseFeatures, EncoderSpec, as_features
from ovseg.errors import ModelError
from ovseg.runtimes.engines import Engine


class EngineEncoder:
    """An image encoder whose features an engine computes on the CPU.

    Args:
        engine: runs the graph "image".
        spec: of the network that was exported.
        outputs: names of what the graph returns, in order; see ``as_features``.
    """

    def __init__(self, engine: Engine, spec: EncoderSpec, outputs: tuple[str, ...]) -> None:
        self._engine, self._spec, self._outputs = engine, spec, outputs

    @property
    def spec(self) -> EncoderSpec:
        """Preprocessing, space and licence."""
        return self._spec

    def dense(self, pixels: Tensor) -> DenseFeatures:
        """Features of ``pixels`` (B, 3, H, W), normalised, float32."""
        given = np.ascontiguousarray(pixels.float().cpu().numpy())
        maps = tuple(torch.from_numpy(found) for found in self._engine.run([given]))
        return as_features(maps, pixels, self._spec.space, names=self._outputs)

    def to(self, device: torch.device, dtype: torch.dtype) -> EngineEncoder:
        """The same encoder; it computes on the CPU and gives single precision.

        Raises:
            ModelError: another device is asked for.
        """
        if device.type != "cpu":
            raise ModelError(f"an exported model runs on the CPU, got '{device}'; leave out runtime=")
        return self
