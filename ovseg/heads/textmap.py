"""A sentence encoder brought into the space of a vision encoder by a small map, as Talk2DINO does.

Source: Barsellotti et al., "Talking to DINO", ICCV 2025, section 3: linear, tanh, linear; cosine with the patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures
from ovseg.heads.base import Head, Phrases
from ovseg.heads.stacked import StackedSettings


class TextMapSettings(StackedSettings):
    """A ``TextMap``.

    Attributes:
        temperature: where training starts; the cosine is divided by the learned one.
        hidden: width between the two layers; None is that of the features, as in the paper.
    """

    residual: bool = False
    temperature: float = 0.07
    hidden: int | None = None


class TextMap(nn.Module):
    """Features stay as the vision encoder gives them, centred; phrases are mapped to them.

    The mean that is subtracted from the features is a table, set when training starts: the features of some
    encoders share a large common direction, and with it all their cosines would be nearly the same.
    """

    reads_tokens = False
    mean: Tensor

    def __init__(self, base: Head, settings: TextMapSettings) -> None:
        super().__init__()
        widths = settings.widths
        self.feature_space, self.text_space = base.feature_space, base.text_space
        self.space = f"{base.feature_space}|textmap"
        hidden = settings.hidden or widths.features
        self.inner = nn.Linear(widths.text, hidden)
        self.outer = nn.Linear(hidden, widths.features)
        self.log_scale = nn.Parameter(torch.tensor(1 / settings.temperature).log())
        self.register_buffer("mean", torch.zeros(widths.features))

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """(B, C, h, w) features to unit vectors times the scale."""
        unit = functional.normalize(features.values - self.mean[:, None, None], dim=1) * self.log_scale.exp()
        return DenseFeatures(unit, self.space, features.stride, structure=features.structure)

    def phrases(self, vectors: Tensor) -> Phrases:
        """(Q, C') text vectors to (Q, C) unit vectors: outer(tanh(inner(v)))."""
        return Phrases(functional.normalize(self.outer(torch.tanh(self.inner(vectors))), dim=-1))

    def captions_to_images(self, vectors: Tensor, pooled: Tensor) -> Tensor:
        """Logits of every caption for every image.

        Args:
            vectors: (n, C') caption vectors.
            pooled: (m, heads, C) weighted means of an image's features, one for each attention head.

        Returns:
            (n, m): the best head's cosine, times the scale.
        """
        unit = functional.normalize(pooled - self.mean, dim=-1)
        cosine = torch.einsum("nc,mkc->nmk", self.phrases(vectors).values, unit)
        return cosine.amax(-1) * self.log_scale.exp()
