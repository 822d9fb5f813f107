"""OWLv2 of transformers with a SAM: every cell of the photo may be an object, masks by its box."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.backends.answers import Answer, as_inputs
from ovseg.backends.boxes import FoundBoxes, answer_of, cut_boxes
from ovseg.encoders.spec import DenseFeatures, EncoderSpec
from ovseg.heads.base import Phrases
from ovseg.images.photo import Photo


class Owlv2Encoder(nn.Module):
    """A photo as OWLv2's heads read it. The network knows squares of one size; the rest of one is black.

    Args:
        network: an ``Owlv2ForObjectDetection``.
        spec: its preprocessing.
    """

    def __init__(self, network: Any, spec: EncoderSpec) -> None:
        super().__init__()
        self.vision, self.norm = network.owlv2.vision_model, network.layer_norm
        self.side = int(network.config.vision_config.image_size)
        self.spec = spec

    @torch.inference_mode()
    def dense(self, pixels: Tensor) -> DenseFeatures:
        """(B, C, h, w) features of (B, 3, H, W) pixels, whose sides are at most those of the square."""
        height, width = pixels.shape[-2:]
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (self.spec.mean, self.spec.std))
        square = (-mean / std).to(pixels).expand(len(pixels), 3, self.side, self.side).clone()
        square[:, :, :height, :width] = pixels
        tokens = self.vision(square.to(self.norm.weight.dtype)).last_hidden_state
        tokens = self.vision.post_layernorm(tokens)
        merged = self.norm(tokens[:, 1:] * tokens[:, :1])
        cells = self.side // self.spec.stride
        values = merged.transpose(1, 2).reshape(len(pixels), -1, cells, cells).float()
        seen = values[:, :, : height // self.spec.stride, : width // self.spec.stride]
        return DenseFeatures(seen.contiguous(), self.spec.space, self.spec.stride)


class Owlv2Head(nn.Module):
    """An ``AnsweringHead``: each cell that shows the photo is an object of the phrase that it is most like.

    Args:
        network: an ``Owlv2ForObjectDetection``.
        space: of the encoder's features.
        padding: number of the token that fills a phrase up.
        sam: what draws the masks; see ``load_sam``.

    Source: Minderer et al., Scaling Open-Vocabulary Object Detection, NeurIPS 2023. As in transformers, all boxes
    of an object stay.
    """

    reads_tokens = True

    def __init__(self, network: Any, *, space: str, padding: int, sam: str) -> None:
        super().__init__()
        self.network, self.padding, self.sam = network, padding, sam
        self.feature_space = self.text_space = self.space = space

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """``features`` as they are."""
        return features

    @torch.inference_mode()
    def phrases(self, vectors: Tensor) -> Phrases:
        """(Q, T) tokens to unit vectors."""
        told = self.network.owlv2.get_text_features(**as_inputs(vectors, padding=self.padding)).pooler_output
        return Phrases(functional.normalize(told, dim=-1))

    @torch.inference_mode()
    def answer(
        self, features: DenseFeatures, phrases: Phrases, photo: Photo, *, least_score: float, most: int
    ) -> Answer:
        """See ``AnsweringHead``."""
        cells = features.values.flatten(2).transpose(1, 2)  # (1, h·w, C)
        logits, _ = self.network.class_predictor(cells, phrases.values[None])
        best, owners = logits[0].max(-1)
        scores = best.sigmoid()
        sure = scores > least_score
        boxes = self._boxes(features)
        kept = FoundBoxes(boxes[sure].cpu(), scores[sure].cpu(), owners[sure].cpu()).surest(most)
        height, width = photo.image.shape[:2]
        return answer_of(cut_boxes(kept, photo, sam=self.sam), features, len(phrases), size=(height, width))

    def _boxes(self, features: DenseFeatures) -> Tensor:
        """(h·w, 4) left, top, right, bottom of each cell's box as shares of the photo."""
        (h, w), side = features.grid, self.network.num_patches_width
        bias = self.network.box_bias.to(features.values).view(side, side, 4)[:h, :w].reshape(-1, 4)
        cells = features.values[0].flatten(1).T
        x, y, width, height = (self.network.box_head(cells) + bias).sigmoid().unbind(-1)
        corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)
        return corners * torch.tensor([side / w, side / h] * 2, device=corners.device)
