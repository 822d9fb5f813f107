"""From class logits on cells to a label for every pixel: presence, background, areas, borders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.config import check_options, choose
from ovseg.models.config import ModelConfig
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.upsample import Winners, find_winners
from ovseg.refine import METHODS, refine_maps
from ovseg.regions.sources import build_regions
from ovseg.regions.vote import majority_label


@dataclass(frozen=True)
class Decision:
    """What a model says about an image.

    Attributes:
        index: (H, W) int32 label at each pixel, −1 for none.
        best: (H, W) float32 probability of the best class.
        presence: (L,) calibrated presence of each label in [0, 1].
        probabilities: (L, h, w) of the labels at each cell.
        stride: pixels of the encoder's input per cell.
    """

    index: Tensor
    best: Tensor
    presence: Tensor
    probabilities: Tensor
    stride: int


class DecisionRules:
    """The rules of one model file, from class logits to labels.

    Raises:
        ConfigError: an unknown refinement or region source, or one of their options.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        method = choose("refinement", config.refine.method, METHODS)
        check_options(f"refinement '{config.refine.method}'", method, config.refine.options, given=2)
        self._regions = None if config.correction is None else build_regions(config.correction)

    def decide(self, logits: ClassLogits, encoded: EncodedImage, *, background: bool, refine: bool) -> Decision:
        """A label for every pixel.

        Args:
            logits: of labels and of things that are none of them.
            encoded: the image.
            background: whether a pixel may be none of the labels.
            refine: whether borders are pulled to the edges of the image.
        """
        labels, stride = logits.labels, logits.stride
        probabilities = logits.values.softmax(0)
        presence = self._presence(probabilities[:labels])
        # Presence comes first: a label that the image does not show must not win pixels from one that it does.
        candidates = self._drop_absent(probabilities, presence) if background else probabilities
        winners = self._winners(encoded, candidates, stride=stride, refine=refine)
        small = self._small(winners.index, labels) if background else None
        if small is not None and bool(small.any()):
            # A label that is too small gives its pixels to the next best, so the pixels are asked again.
            candidates = candidates.clone()
            candidates[:labels][small] = 0
            winners = self._winners(encoded, candidates, stride=stride, refine=refine)
        index = self._reject(winners, labels) if background else winners.index
        if self._regions is not None:
            index = self._correct(index, encoded)
        return Decision(index, winners.best, presence, probabilities[:labels], stride)

    def _presence(self, probabilities: Tensor) -> Tensor:
        """(L, h, w) probabilities to (L,): the best cell, through a logistic."""
        settings = self.config.background
        evidence = probabilities.flatten(1).amax(1).clamp(1e-6, 1 - 1e-6).logit()
        return torch.sigmoid(settings.presence_slope * evidence + settings.presence_offset)

    def _drop_absent(self, probabilities: Tensor, presence: Tensor) -> Tensor:
        absent = presence < self.config.background.presence
        if not bool(absent.any()):
            return probabilities
        probabilities = probabilities.clone()
        probabilities[: len(presence)][absent] = 0
        return probabilities

    def _winners(self, encoded: EncodedImage, maps: Tensor, *, stride: int, refine: bool) -> Winners:
        if not refine:
            return find_winners(maps, encoded.geometry, stride=stride)
        settings = self.config.refine
        refined = refine_maps(
            encoded.image,
            maps,
            encoded.geometry,
            stride=stride,
            long_side=settings.long_side,
            method=settings.method,
            options=settings.options,
        )
        winners = find_winners(refined.maps, refined.geometry, stride=1)
        index = refined.classes[winners.index.long()].to(torch.int32)
        return Winners(index, winners.best, winners.second)

    def _small(self, index: Tensor, labels: int) -> Tensor | None:
        """(L,) which labels cover too little of all that is labelled.

        Source: the area threshold of SCLIP's evaluation code, Wang et al., ECCV 2024.
        """
        share = self.config.background.area
        if share == 0:
            return None
        areas = torch.bincount(index[index < labels].long(), minlength=labels)
        return (areas > 0) & (areas <= share * areas.sum())

    def _reject(self, winners: Winners, labels: int) -> Tensor:
        """Index map with −1 where a background phrase wins, or the best probability or the margin is too low.

        Source of the margin: ActiveSAM, 2026: none where s1·sqrt(s1−s2) is under a threshold. Of the plain
        threshold on s1: the papers whose model files set it, as SCLIP, ECCV 2024.
        """
        settings = self.config.background
        # Two labels that are equally likely say less than one that is alone, whatever their probability.
        margin = winners.best * (winners.best - winners.second).clamp_min(0).sqrt()
        none = (winners.index >= labels) | (margin < settings.margin) | (winners.best < settings.threshold)
        return torch.where(none, -1, winners.index)

    def _correct(self, index: Tensor, encoded: EncodedImage) -> Tensor:
        """Every region of the image in its most frequent label (CorrCLIP's map correction)."""
        assert self._regions is not None
        structure = encoded.features.structure
        if structure is None:
            structure = encoded.features.values.new_zeros(1, 0, *encoded.features.grid)
        regions = self._regions(torch.from_numpy(encoded.image), structure[0].float().cpu())
        return majority_label(index, regions.to(index.device))
