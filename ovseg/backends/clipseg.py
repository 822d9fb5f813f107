"""CLIPSeg of transformers: a decoder on CLIP's activations that a phrase steers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ovseg.backends.answers import as_inputs, in_portions
from ovseg.encoders.spec import DenseFeatures, EncoderSpec
from ovseg.heads.base import SCORES, Phrases

_AT_ONCE = 8  # phrases that the decoder answers together


class ClipSegEncoder(nn.Module):
    """A photo as CLIPSeg's decoder reads it: the activations of some blocks of CLIP, side by side.

    Args:
        network: a ``CLIPSegForImageSegmentation``.
        spec: its preprocessing; the photo is stretched to ``spec.size``.
    """

    def __init__(self, network: Any, spec: EncoderSpec) -> None:
        super().__init__()
        self.vision = network.clip.vision_model
        self.layers = tuple(network.config.extract_layers)
        self.spec = spec

    @torch.inference_mode()
    def dense(self, pixels: Tensor) -> DenseFeatures:
        """(B, n·C, h, w) activations of n blocks; ``whole`` holds those of the class token."""
        tower = self.vision
        # block by block: what transformers records them by cannot be pickled
        hidden = tower.embeddings(pixels.to(next(tower.parameters()).dtype), interpolate_pos_encoding=True)
        hidden = tower.pre_layrnorm(hidden)
        activations = {}
        for number, block in enumerate(tower.encoder.layers):
            activations[number] = hidden = block(hidden, attention_mask=None)
        tokens = torch.cat([activations[layer] for layer in self.layers], dim=-1).float()  # (B, 1 + h·w, n·C)
        grid = tuple(side // self.spec.stride for side in pixels.shape[-2:])
        values = tokens[:, 1:].transpose(1, 2).reshape(len(pixels), -1, *grid)
        return DenseFeatures(values, self.spec.space, self.spec.stride, whole=tokens[:, 0])


class ClipSegHead(nn.Module):
    """A ``FusionHead``: the picture is encoded once, each phrase costs the small decoder alone.

    Args:
        network: a ``CLIPSegForImageSegmentation``.
        space: of the encoder's features.

    Source: Lüddecke and Ecker, Image segmentation using text and image prompts, CVPR 2022.
    """

    reads_tokens = True

    def __init__(self, network: Any, *, space: str) -> None:
        super().__init__()
        self.network = network
        self.feature_space = self.text_space = self.space = space

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """``features`` as they are."""
        return features

    @torch.inference_mode()
    def phrases(self, vectors: Tensor) -> Phrases:
        """(Q, T) tokens to the vectors that steer the decoder; their length counts, so it stays."""
        inputs = as_inputs(vectors, padding=self.network.config.text_config.pad_token_id)
        return Phrases(self.network.clip.get_text_features(**inputs).pooler_output)

    def fuse(self, features: DenseFeatures, phrases: Phrases) -> DenseFeatures:
        """(1, Q, H, W) logits at every pixel that the network saw."""
        assert features.whole is not None
        patches = features.values.flatten(2).transpose(1, 2)
        tokens = torch.cat([features.whole[:, None], patches], 1)  # (1, 1 + h·w, n·C)
        activations = tokens.chunk(len(self.network.config.extract_layers), dim=-1)

        def ask(some: Phrases) -> Tensor:
            given = tuple(each.expand(len(some), -1, -1) for each in activations)
            logits: Tensor = self.network.decoder(given, some.values).logits
            return logits

        maps = in_portions(ask, phrases, size=_AT_ONCE)[None]
        stride = features.stride * features.grid[0] // maps.shape[-2]
        return replace(features, values=maps, space=SCORES, stride=stride, whole=None)
