"""From class logits on cells to a label for every pixel: presence, background, areas, borders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg.config import check_options, choose
from ovseg.errors import ConfigError
from ovseg.images.geometry import Geometry
from ovseg.images.resize import restore
from ovseg.models.config import ModelConfig
from ovseg.models.sections import BackgroundConfig, RefineConfig
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.memory import Asked, Memory
from ovseg.pipeline.pixels import BandRefinement, decide_pixels, enlarged, label_scores, network_image
from ovseg.pipeline.redraw import redraw
from ovseg.pipeline.upsample import Winners, find_winners, row_bands
from ovseg.refine import METHODS, reach_of, refine_maps
from ovseg.regions.holes import fill_holes
from ovseg.regions.sources import build_regions
from ovseg.regions.vote import majority_label

_BAND_PIXELS = 1 << 16  # that are looked at together
_OBJECT = 0.5  # objectness above which a pixel shows an object


@dataclass(frozen=True)
class Decision:
    """What a model says about an image.

    Attributes:
        index: (H, W) int32 label at each pixel, −1 for none.
        best: (H, W) float32 probability of the best class.
        presence: (L,) calibrated presence of each label in [0, 1].
    """

    index: Tensor
    best: Tensor
    presence: Tensor


@dataclass(frozen=True)
class _Asked:
    """What winners are looked for in.

    Attributes:
        logits: on cells.
        probabilities: (K, h, w) of the classes on cells.
        encoded: the image.
        refine: whether borders are pulled to the edges of the image.
        refinement: how, where labels are decided at pixels.
    """

    logits: ClassLogits
    probabilities: Tensor
    encoded: EncodedImage
    refine: bool
    refinement: BandRefinement | None


class DecisionRules:
    """The rules of one model file, from class logits to labels.

    Args:
        config: the model file.
        memory: what bounds how many pixels are decided together; None leaves it at the default.

    Raises:
        ConfigError: an unknown refinement or region source, or one of their options.
    """

    def __init__(self, config: ModelConfig, memory: Memory | None = None) -> None:
        self.config, self._memory = config, memory
        method = choose("refinement", config.refine.method, METHODS)
        check_options(f"refinement '{config.refine.method}'", method, config.refine.options, given=2)
        if config.scoring.at == "pixels":
            reach_of(config.refine.method, config.refine.options)
        if config.refine.borders_only and (config.refine.method != "pamr" or config.scoring.at == "pixels"):
            raise ConfigError("'borders_only' is for 'method: pamr' with 'scoring.at: cells'; remove it")
        self._regions = None if config.correction is None else build_regions(config.correction)

    def decide(self, logits: ClassLogits, encoded: EncodedImage, *, background: bool, refine: bool) -> Decision:
        """A label for every pixel.

        Args:
            logits: of labels and of things that are none of them.
            encoded: the image.
            background: whether a pixel may be none of the labels.
            refine: whether borders are pulled to the edges of the image.
        """
        probabilities = logits.probabilities(logits.values)
        presence = presence_of(probabilities[: logits.labels].flatten(1).amax(1), self.config.background)
        if self.config.scoring.at == "cells":
            probabilities = with_one_rival(probabilities, logits.labels)
        # Presence comes first: a label that the image does not show must not win pixels from one that it does.
        dropped = torch.zeros(len(probabilities), dtype=torch.bool, device=probabilities.device)
        if background:
            dropped[: logits.labels] = presence < self.config.background.presence
        asked = _Asked(logits, probabilities, encoded, refine, self._band_refinement(encoded, refine=refine))
        winners = self._winners(asked, dropped)
        small = self._small(winners.index, logits.labels) if background else None
        if small is not None and bool(small.any()):
            # A label that is too small gives its pixels to the next best, so the pixels are asked again.
            dropped[: logits.labels] |= small
            winners = self._winners(asked, dropped)
        index, best = winners.index, winners.best
        if background:
            index.masked_fill_(self._none(winners, encoded), -1)
        if self.config.redraw is not None:
            rule, stride = self.config.redraw, logits.stride
            index, best = redraw(index, best, probabilities, encoded, stride=stride, rule=rule)
        if background:
            index.masked_fill_(index >= logits.labels, -1)
            if self.config.background.holes:
                index = fill_holes(index, share=self.config.background.holes)
        if self._regions is not None:
            index = self._correct(index, encoded)
        return Decision(index, best, presence)

    def scores(self, logits: ClassLogits, encoded: EncodedImage, *, refine: bool) -> npt.NDArray[np.float16]:
        """(L, H, W) probability of every label at every pixel; refined only where it is decided at pixels."""
        if self.config.scoring.at == "pixels":
            refinement = self._band_refinement(encoded, refine=refine)
            return label_scores(
                logits, encoded.geometry, refinement=refinement, most=self._values(logits, encoded, scores=True)
            )
        probabilities = logits.probabilities(logits.values)[: logits.labels]
        return enlarged(
            probabilities, encoded.geometry, stride=logits.stride, most=self._values(logits, encoded, scores=True)
        )

    def _values(self, logits: ClassLogits, encoded: EncodedImage, *, scores: bool = False) -> int | None:
        """How many values may be made of pixels at once; None leaves it at the default."""
        if self._memory is None:
            return None
        asked = Asked(logits.labels, len(logits.values), keep_scores=scores)
        return self._memory.values(encoded.geometry.original, asked)

    def _winners(self, asked: _Asked, dropped: Tensor) -> Winners:
        encoded, stride, settings = asked.encoded, asked.logits.stride, self.config.refine
        most = self._values(asked.logits, encoded)
        if self.config.scoring.at == "pixels":
            return decide_pixels(
                asked.logits, encoded.geometry, refinement=asked.refinement, dropped=dropped, most=most
            )
        maps = asked.probabilities.masked_fill(dropped[:, None, None], 0)
        if not asked.refine:
            return find_winners(maps, encoded.geometry, stride=stride, most=most)
        return refined_winners(encoded.image, maps, encoded.geometry, stride=stride, settings=settings, most=most)

    def _band_refinement(self, encoded: EncodedImage, *, refine: bool) -> BandRefinement | None:
        """Refinement on the image as the network saw it, at its own size; None where none is decided at pixels."""
        if not refine or self.config.scoring.at != "pixels":
            return None
        settings, interpolation = self.config.refine, self.config.input.resampling or "bilinear"
        size = getattr(encoded.geometry, "resized", encoded.geometry.original)
        image = network_image(encoded.image, size, interpolation=interpolation)
        return BandRefinement(
            image.to(encoded.features.values.device),
            partial(METHODS[settings.method], **settings.options),
            reach=reach_of(settings.method, settings.options),
        )

    def _small(self, index: Tensor, labels: int) -> Tensor | None:
        """(L,) which labels cover too little of all that is labelled.

        Source: the area threshold of SCLIP's evaluation code, Wang et al., ECCV 2024.
        """
        share = self.config.background.area
        if share == 0:
            return None
        areas = torch.bincount(index[index < labels].long(), minlength=labels)
        return (areas > 0) & (areas <= share * areas.sum())

    def _none(self, winners: Winners, encoded: EncodedImage) -> Tensor:
        """(H, W) bool, where the best probability or the margin is too low.

        Where the encoder says which cells show an object, what is unsure and no object is none too (CLIP-DINOiser).
        """
        settings, features = self.config.background, encoded.features
        none = unsure(winners, settings)
        if settings.objectness and features.objectness is not None:
            objectness = restore(features.objectness.float(), encoded.geometry, stride=features.stride)[0, 0]
            none |= (winners.best < settings.objectness) & (objectness.to(none.device) <= _OBJECT)
        return none

    def _correct(self, index: Tensor, encoded: EncodedImage) -> Tensor:
        """Every region of the image in its most frequent label (CorrCLIP's map correction)."""
        assert self.config.correction is not None
        kept_as = f"correction {self.config.correction.model_dump_json()}"
        regions = encoded.once(kept_as, lambda: self._regions_of(encoded))
        spare = self.config.correction.spare_lowest
        return majority_label(index, regions.to(index.device), spare_lowest=spare)

    def _regions_of(self, encoded: EncodedImage) -> Tensor:
        assert self._regions is not None
        structure = encoded.features.structure
        if structure is None:
            structure = encoded.features.values.new_zeros(1, 0, *encoded.features.grid)
        return self._regions(encoded.pixels, structure[0].float().cpu())


def with_one_rival(probabilities: Tensor, labels: int) -> Tensor:
    """Probabilities (K, …) with all that is none of the first L ``labels`` as one class, its likeliest: (L + 1, …).

    Which of the others a pixel shows is never told, and so few maps are refined and enlarged in little time.
    """
    if len(probabilities) <= labels + 1:
        return probabilities
    return torch.cat([probabilities[:labels], probabilities[labels:].amax(0, keepdim=True)])


def presence_of(best: Tensor, settings: BackgroundConfig) -> Tensor:
    """(L,) probability of each label in its best cell to its presence, in [0, 1]: through a logistic."""
    evidence = best.clamp(1e-6, 1 - 1e-6).logit()
    return torch.sigmoid(settings.presence_slope * evidence + settings.presence_offset)


def refined_winners(
    image: npt.NDArray[np.uint8],
    maps: Tensor,
    geometry: Geometry,
    *,
    stride: float,
    settings: RefineConfig,
    most: int | None = None,
) -> Winners:
    """The two best classes of every pixel once the borders of the maps are pulled to edges of the image.

    Args:
        image: (H, W, 3) uint8.
        maps: (K, h, w) probabilities at ``stride``.
        geometry: how the cells lie on the image.
        stride: pixels of the encoder's input per cell.
        settings: how borders are pulled.
        most: see ``find_winners``.
    """
    refined = refine_maps(
        image,
        maps,
        geometry,
        stride=stride,
        long_side=settings.long_side,
        method=settings.method,
        options=settings.options,
        borders_only=settings.borders_only,
    )
    return find_winners(refined.maps, refined.geometry, stride=1, classes=refined.classes, most=most)


def unsure(winners: Winners, settings: BackgroundConfig) -> Tensor:
    """(H, W) bool, where the best probability or the margin is too low for any label.

    Source of the margin: ActiveSAM, 2026: none where s1·sqrt(s1−s2) is under a threshold. Of the plain threshold on
    s1: the papers whose model files set it, as SCLIP, ECCV 2024.
    """
    found = torch.empty_like(winners.best, dtype=torch.bool)
    height, width = found.shape
    # A band at a time what is made on the way stays in a processor's cache; an accelerator does all at once.
    most = _BAND_PIXELS if found.device.type == "cpu" else found.numel()
    for rows in row_bands(slice(0, height), width, most=most):
        best, second = winners.best[rows], winners.second[rows]
        # Two labels that are equally likely say less than one that is alone, whatever their probability.
        margin = best * (best - second).clamp_min(0).sqrt()
        torch.logical_or(margin < settings.margin, best < settings.threshold, out=found[rows])
    return found
