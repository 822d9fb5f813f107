"""Grounding DINO and MM Grounding DINO of transformers with a SAM: boxes by words, masks by boxes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.backends.answers import Answer
from ovseg.backends.boxes import FoundBoxes, answer_of, cut_boxes
from ovseg.encoders.spec import DenseFeatures, EncoderSpec
from ovseg.heads.base import Phrases
from ovseg.images.photo import Photo

_START, _END, _STOP, _QUESTION = 101, 102, 1012, 1029  # of BERT's tokenizer, as the network itself has them


class GroundingEncoder(nn.Module):
    """A photo as the rest of the network reads it: the feature maps of the backbone, packed into one.

    Args:
        network: a ``GroundingDinoForObjectDetection`` or ``MMGroundingDinoForObjectDetection``. From then on it
            takes packed maps in place of pixels.
        spec: its preprocessing; the stride is that of the coarsest map.
    """

    def __init__(self, network: Any, spec: EncoderSpec) -> None:
        super().__init__()
        place = network.model.backbone.conv_encoder
        self.backbone = place.model
        place.model = Unpacked(tuple(self.backbone.channels))
        self.spec = spec

    @torch.inference_mode()
    def dense(self, pixels: Tensor) -> DenseFeatures:
        """(B, C, h, w) maps of (B, 3, H, W) pixels, whose sides are multiples of the stride."""
        maps = self.backbone(pixels.to(next(self.backbone.parameters()).dtype), return_dict=True).feature_maps
        return DenseFeatures(packed(maps).float(), self.spec.space, self.spec.stride)


def packed(maps: Any) -> Tensor:
    """Maps of one photo, each with half the rows and columns of the one before, as one with those of the last."""
    rows = maps[-1].shape[-2]
    return torch.cat([functional.pixel_unshuffle(each, each.shape[-2] // rows) for each in maps], 1)


class Unpacked(nn.Module):
    """In the place of a backbone: gives the maps that ``packed`` put into one.

    Args:
        channels: of each map, the finest first.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, maps: Tensor, **options: Any) -> Any:
        """An object whose ``feature_maps`` are the maps, as of a backbone of transformers."""
        factors = [2**step for step in reversed(range(len(self.channels)))]
        sizes = [count * factor**2 for count, factor in zip(self.channels, factors, strict=True)]
        parts = zip(torch.split(maps, sizes, dim=1), factors, strict=True)
        return SimpleNamespace(feature_maps=[functional.pixel_shuffle(part, factor) for part, factor in parts])


class GroundingHead(nn.Module):
    """An ``AnsweringHead``: phrases are asked together in a caption, as many as the network reads at once.

    Args:
        network: whose backbone ``GroundingEncoder`` has taken.
        space: of the encoder's features.
        sam: what draws the masks; see ``load_sam``.

    Source: Liu et al., Grounding DINO, ECCV 2024. The score of a box is that of its surest token, as in the
    release; its phrase is the one that holds the surest of their tokens, where the release lists all over a limit.
    """

    reads_tokens = True

    def __init__(self, network: Any, *, space: str, sam: str) -> None:
        super().__init__()
        self.network, self.sam = network, sam
        self.feature_space = self.text_space = self.space = space

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """``features`` as they are."""
        return features

    def phrases(self, vectors: Tensor) -> Phrases:
        """(Q, T) tokens as they are."""
        return Phrases(vectors.float(), tokens=vectors)

    @torch.inference_mode()
    def answer(
        self, features: DenseFeatures, phrases: Phrases, photo: Photo, *, least_score: float, most: int
    ) -> Answer:
        """See ``AnsweringHead``."""
        assert phrases.tokens is not None
        longest = self.network.config.max_text_len
        found = [self._ask(features, *each) for each in captions(phrases.tokens, longest=longest)]
        boxes, scores, owners = (torch.cat(part).cpu() for part in zip(*found, strict=True))
        sure = scores > least_score
        kept = FoundBoxes(boxes[sure], scores[sure], owners[sure]).surest(most)
        objects = cut_boxes(kept, photo, sam=self.sam)
        height, width = photo.image.shape[:2]
        return answer_of(objects, features, len(phrases), size=(height, width))

    def _ask(self, features: DenseFeatures, ids: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and phrases for one caption."""
        shown = features.values.new_ones(1, *(side * features.stride for side in features.grid))
        output = self.network(pixel_values=features.values, input_ids=ids[None], pixel_mask=shown.long())
        probabilities = output.logits[0, :, : len(ids)].sigmoid()  # (n, T)
        named = probabilities.masked_fill(owner < 0, -1)
        x, y, width, height = output.pred_boxes[0].unbind(-1)
        corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)
        return corners, probabilities.amax(1), owner[named.argmax(1)]


def captions(tokens: Tensor, *, longest: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Phrases one after the other, a full stop after each, in as few captions as they fit in.

    Args:
        tokens: (Q, T) with start and end, −1 after the end. Stops inside a phrase would cut it and are left out.
        longest: tokens of a caption.

    Yields:
        (n,) numbers of tokens, and (n,) the phrase that each is of, −1 for start, stops and end.
    """
    special = torch.tensor([_START, _END, _STOP, _QUESTION], device=tokens.device)
    words = [row[(row >= 0) & ~torch.isin(row, special)].tolist() for row in tokens]
    ids, owner = [_START], [-1]
    for number, row in enumerate(words):
        if len(ids) > 1 and len(ids) + len(row) + 2 > longest:
            yield torch.tensor([*ids, _END], device=tokens.device), torch.tensor([*owner, -1], device=tokens.device)
            ids, owner = [_START], [-1]
        ids += [*row, _STOP]
        owner += [number] * len(row) + [-1]
    yield torch.tensor([*ids, _END], device=tokens.device), torch.tensor([*owner, -1], device=tokens.device)
