"""GroupViT of transformers: patches gather in groups, and each group has a vector in the space of words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures, EncoderSpec


class GroupViT(nn.Module):
    """The image side of a ``GroupViTModel``.

    A pixel's logit for a phrase is the sum, over groups, of its share in the group times the group's cosine with
    the phrase. That is linear in the phrase, so shares and vectors of groups make features, and GroupViT is run as
    any encoder is.

    Args:
        network: a ``GroupViTModel``.
        spec: its preprocessing.

    Source: Xu et al., GroupViT, CVPR 2022.
    """

    def __init__(self, network: Any, spec: EncoderSpec) -> None:
        super().__init__()
        self.vision, self.projection = network.vision_model, network.visual_projection
        self.spec = spec

    @torch.inference_mode()
    def dense(self, pixels: Tensor) -> DenseFeatures:
        """(B, D, h, w) mixtures of the unit vectors of groups; positions are resized where sizes ask for it."""
        hidden = self.vision.embeddings(
            pixels.to(next(self.vision.parameters()).dtype), interpolate_pos_encoding=True
        )
        output = self.vision.encoder(hidden_states=hidden, output_attentions=True, return_dict=True)
        groups = self.vision.layernorm(output.last_hidden_state)  # (B, G, C)
        vectors = functional.normalize(self.projection(groups.flatten(0, 1)), dim=-1).view(*groups.shape[:2], -1)
        shares, *later = (stage.transpose(1, 2) for stage in output.attentions)  # (B, h·w, groups)
        for stage in later:
            shares = shares @ stage
        grid = (side // self.spec.stride for side in pixels.shape[-2:])
        values = (shares @ vectors).transpose(1, 2).reshape(len(pixels), -1, *grid)
        return DenseFeatures(values.float(), self.spec.space, self.spec.stride)
