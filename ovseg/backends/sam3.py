"""SAM 3 of transformers: all objects of a phrase, and how sure it is that the photo shows one."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.backends.answers import Answer, BoxPrompts, FoundMask, as_inputs, as_logits, found_mask
from ovseg.encoders.spec import DenseFeatures, EncoderSpec
from ovseg.heads.base import Phrases
from ovseg.images.geometry import Size
from ovseg.images.photo import Photo

LONGEST = 32  # tokens of a phrase, padding included, as its processor has it


class Sam3Encoder(nn.Module):
    """A photo as the rest of SAM 3 reads it: what its large vision transformer gives.

    Args:
        network: a ``Sam3Model``.
        spec: its preprocessing; the photo is stretched to ``spec.size``.
    """

    def __init__(self, network: Any, spec: EncoderSpec) -> None:
        super().__init__()
        self.backbone = network.vision_encoder.backbone
        self.spec = spec

    @torch.inference_mode()
    def dense(self, pixels: Tensor) -> DenseFeatures:
        """(B, C, h, w) features of (B, 3, H, W) pixels."""
        tokens = self.backbone(pixels.to(next(self.backbone.parameters()).dtype)).last_hidden_state.float()
        grid = (side // self.spec.stride for side in pixels.shape[-2:])
        values = tokens.transpose(1, 2).reshape(len(pixels), -1, *grid)
        return DenseFeatures(values, self.spec.space, self.spec.stride)


class Sam3Head(nn.Module):
    """An ``ExemplarHead``: the picture and each phrase are encoded once, then the detector runs for each phrase.

    Args:
        network: a ``Sam3Model``.
        space: of the encoder's features.
        padding: number of the token that fills a phrase up.

    Source: Carion et al., SAM 3, 2025. A pixel's probability is that of the phrase's mask times that of its
    presence; an object's score is its own times that of the presence.
    """

    reads_tokens = True
    unnamed = "visual"  # what the network was trained to be told of an example without a name

    def __init__(self, network: Any, *, space: str, padding: int) -> None:
        super().__init__()
        self.network, self.padding = network, padding
        self.feature_space = self.text_space = self.space = space

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """``features`` as they are."""
        return features

    @torch.inference_mode()
    def phrases(self, vectors: Tensor) -> Phrases:
        """(Q, T) tokens with what the text encoder makes of them, flat."""
        tokens = functional.pad(vectors, (0, LONGEST - vectors.shape[1]), value=-1)
        told = self.network.get_text_features(**as_inputs(tokens, padding=self.padding)).pooler_output
        return Phrases(told.flatten(1), tokens=tokens)

    @torch.inference_mode()
    def answer(
        self, features: DenseFeatures, phrases: Phrases, photo: Photo, *, least_score: float, most: int
    ) -> Answer:
        """See ``AnsweringHead``."""
        nothing = [None] * len(phrases)
        return self.answer_shown(features, phrases, photo, nothing, least_score=least_score, most=most)

    @torch.inference_mode()
    def answer_shown(
        self,
        features: DenseFeatures,
        phrases: Phrases,
        photo: Photo,
        prompts: Sequence[BoxPrompts | None],
        *,
        least_score: float,
        most: int,
    ) -> Answer:
        """See ``ExemplarHead``."""
        assert phrases.tokens is not None
        levels, positions = self.network.vision_encoder.neck(features.values)
        seen = SimpleNamespace(
            fpn_hidden_states=levels, fpn_position_encoding=positions, hidden_states=None, attentions=None
        )
        maps, scores, masks = [], [], []
        for words, tokens, shown in zip(phrases.values, phrases.tokens, prompts, strict=True):
            told = {
                "text_embeds": SimpleNamespace(pooler_output=words.view(1, LONGEST, -1)),
                "attention_mask": (tokens >= 0).long()[None],
            }
            output = self.network(vision_embeds=seen, **told, **({} if shown is None else _as_boxes(shown, words)))
            presence = output.presence_logits[0].sigmoid()
            maps.append(output.semantic_seg[0, 0].sigmoid() * presence)
            sure, kept = _surest(output.pred_logits[0].sigmoid() * presence, least_score=least_score, most=most)
            scores.append(sure)
            masks.append(output.pred_masks[0, kept].sigmoid())
        stacked = torch.stack(maps)
        stride = features.stride * features.grid[0] / stacked.shape[-2]
        height, width = photo.image.shape[:2]
        return Answer(as_logits(stacked), stride, _cut(scores, masks, most=most, size=(height, width)))


def _as_boxes(shown: BoxPrompts, like: Tensor) -> dict[str, Tensor]:
    """Boxes as the network takes them: x, y of the middle, width and height."""
    corner, end = torch.split(shown.corners.to(like), 2, dim=1)
    boxes = torch.cat([(corner + end) / 2, end - corner], 1)
    return {"input_boxes": boxes[None], "input_boxes_labels": shown.shows.to(like.device)[None]}


def _surest(scores: Tensor, *, least_score: float, most: int) -> tuple[Tensor, Tensor]:
    """The ``most`` highest of (n,) scores that are over ``least_score``, and where they are."""
    values, rows = scores.sort(descending=True, stable=True)
    count = min(most, int((values > least_score).sum()))
    return values[:count], rows[:count]


def _cut(scores: list[Tensor], masks: list[Tensor], *, most: int, size: Size) -> tuple[FoundMask, ...]:
    """The surest objects of all phrases, at the size of the photo.

    Args:
        scores: (n,) for each phrase.
        masks: (n, h, w) probabilities for each phrase.
        most: objects.
        size: (H, W) of the photo.
    """
    owners = torch.cat([torch.full((len(each),), number) for number, each in enumerate(scores)])
    rows = torch.cat([torch.arange(len(each)) for each in scores])
    together = torch.cat(scores).cpu()
    found: list[FoundMask] = []
    for place in together.argsort(descending=True, stable=True)[:most].tolist():
        phrase = int(owners[place])
        mask = masks[phrase][rows[place]][None, None]
        enlarged = functional.interpolate(mask, size, mode="bilinear", align_corners=False)[0, 0]
        found += found_mask(enlarged > 0.5, phrase, float(together[place]))
    return tuple(found)
