"""Phrases as what was seen under words like them: FreeDA's prototypes, in the space of a vision encoder.

Source: Barsellotti et al., Training-Free Open-Vocabulary Segmentation with Offline Diffusion-Augmented Prototype
Generation (FreeDA), CVPR 2024.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ovseg.config import Config
from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ModelError
from ovseg.heads.base import SCORES, Head, Phrases
from ovseg.tensors import check_shape
from ovseg.weights import save_weights

_AT_ONCE = 16  # phrases whose neighbours are averaged together


class PrototypesSettings(Config):
    """A head ``Prototypes``.

    Attributes:
        neighbours: entries of the file whose mean stands for a phrase.
        scale: factor from scores to logits; ``logit_scale`` of a model file that has a section ``whole``.
    """

    neighbours: int = Field(default=350, gt=0)
    scale: float = Field(default=40.0, gt=0)


class Prototypes(nn.Module):
    """A phrase is the mean of the prototypes whose words are most like it; a cell is compared with that.

    Its file holds ``keys`` (n, C), text vectors of words, and ``values`` (n, S), for each of these the mean feature
    of what shows it; ``save_prototypes`` writes one. The logit of a phrase at a cell is scale · sigmoid(cosine).

    Args:
        base: the model's own head; image and text need no space in common.
        settings: how many entries stand for a phrase.
    """

    keys: Tensor
    values: Tensor
    reads_tokens = False

    def __init__(self, base: Head, settings: PrototypesSettings) -> None:
        super().__init__()
        self.feature_space, self.text_space = base.feature_space, base.text_space
        self.space = f"{base.feature_space}|prototypes"
        self._settings = settings
        self.register_buffer("keys", torch.zeros(0, 0))
        self.register_buffer("values", torch.zeros(0, 0))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, local: Any, strict: bool, *reports: list[str]
    ) -> None:
        """Take the sizes of the file, which says how many entries there are."""
        keys, values = (state_dict.get(prefix + name) for name in ("keys", "values"))
        if keys is not None and values is not None:
            if keys.ndim != 2 or values.ndim != 2 or len(keys) != len(values) or not len(keys):
                shapes = f"{tuple(keys.shape)} and {tuple(values.shape)}"
                reports[-1].append(f"keys and values must be (n, C) and (n, S) with n of at least 1, got {shapes}")
                return
            self.keys, self.values = torch.empty_like(keys), torch.empty_like(values)
        super()._load_from_state_dict(state_dict, prefix, local, strict, *reports)

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """(B, S, h, w) features as they are.

        Raises:
            ModelError: there are no prototypes.
            ShapeError: they have other channels.
        """
        self._check_there()
        check_shape("features", features.values, "B S h w", S=self.values.shape[1])
        return replace(features, space=self.space)

    def phrases(self, vectors: Tensor) -> Phrases:
        """(Q, C) text vectors to (Q, S) unit vectors, the text vectors beside them.

        Raises:
            ModelError: there are no prototypes.
            ShapeError: they have other channels.
        """
        self._check_there()
        check_shape("vectors", vectors, "Q C", C=self.keys.shape[1])
        keys = functional.normalize(self.keys, dim=1)
        count = min(self._settings.neighbours, len(keys))
        means = [
            self.values[(functional.normalize(some.to(keys), dim=1) @ keys.T).topk(count).indices].mean(1)
            for some in torch.split(vectors, _AT_ONCE)
        ]
        return Phrases(functional.normalize(torch.cat(means), dim=1), inputs=vectors)

    def fuse(self, features: DenseFeatures, phrases: Phrases) -> DenseFeatures:
        """(B, Q, h, w) logits of every phrase at every cell."""
        unit = functional.normalize(features.values.float(), dim=1)
        cosines = torch.einsum("bshw,qs->bqhw", unit, phrases.values.to(unit))
        logits = self._settings.scale * cosines.sigmoid()
        return DenseFeatures(logits, SCORES, features.stride, structure=features.structure)

    def _check_there(self) -> None:
        if not len(self.keys):
            raise ModelError("the head 'prototypes' has no prototypes; write a file for it under 'weights:'")


def save_prototypes(path: str | Path, keys: Tensor, values: Tensor) -> str:
    """Write a file of prototypes, in half precision, and return its SHA-256.

    Args:
        path: safetensors file.
        keys: (n, C) text vectors of words, by the text encoder of the model that will read the file.
        values: (n, S) for each the mean feature of regions that show it, by its image encoder.

    Raises:
        ShapeError: their numbers differ.
    """
    check_shape("keys", keys, "n C")
    check_shape("values", values, "n S", n=len(keys))
    return save_weights({"keys": keys, "values": values}, path)
