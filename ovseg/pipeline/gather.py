"""Features of a whole image gathered over cells that belong together, once its windows have been put together."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.attention.structured import above_mean, pair_cosines, resize_numbers
from ovseg.models.sections import GatherConfig
from ovseg.pipeline.encoded import EncodedImage
from ovseg.regions.sources import build_regions
from ovseg.regions.vote import mean_of_regions
from ovseg.sam.affinity import cell_affinity


class Gathering:
    """What a model file's section ``gather`` makes of an encoded image; padding is left alone.

    Args:
        config: the section.
        unit: whether features are brought to unit length afterwards.

    Raises:
        ConfigError: an unknown region source, or one of its options.
    """

    def __init__(self, config: GatherConfig, *, unit: bool) -> None:
        self._config = config
        self._unit = unit
        self._regions = None if config.regions is None else build_regions(config.regions)

    @torch.inference_mode()
    def __call__(self, encoded: EncodedImage) -> EncodedImage:
        """The image with gathered features."""
        features = encoded.features
        height, width = encoded.image.shape[:2]
        block = encoded.geometry.block((0, 0, height, width), stride=features.stride)
        shown = features.values[0][:, *block]
        if self._config.attention is not None:
            found = self._attended(encoded, shown)
        elif self._regions is not None:
            found = mean_of_regions(shown, self._cells(encoded, block))
        else:
            found = self._alike(shown)
        values = features.values.clone()
        values[0][:, *block] = functional.normalize(found, dim=0) if self._unit else found
        return replace(encoded, features=replace(features, values=values))

    def _cells(self, encoded: EncodedImage, block: tuple[slice, slice]) -> Tensor:
        """(h, w) regions of the cells that show the image.

        Sources that look at features get those of the structure, or the values where there is none.
        """
        assert self._regions is not None and self._config.regions is not None
        features = encoded.features
        looked_at = features.likeness[0][:, *block]
        grid = (looked_at.shape[1], looked_at.shape[2])
        if self._config.regions.from_image:
            return resize_numbers(self._regions(encoded.pixels, looked_at.float().cpu()), grid)
        cells = torch.zeros(*grid, 3, dtype=torch.uint8)  # an image of the cells' own size
        return self._regions(cells, functional.normalize(looked_at.float().cpu(), dim=0))

    def _attended(self, encoded: EncodedImage, shown: Tensor) -> Tensor:
        """Each cell a mean over those that a SAM's last attention looks at, on SAM's own grid and back.

        Source: Shi et al., Trident, ICCV 2025, section 3, which stays on SAM's grid.
        """
        config = self._config.attention
        assert config is not None
        weights, grid = cell_affinity(config.model, encoded.pixels, above=config.above)
        finer = functional.interpolate(shown[None].float(), grid, mode="bilinear", align_corners=False)[0]
        means = (finer.flatten(1) @ weights.to(finer).T).view_as(finer)
        back = functional.interpolate(means[None], shown.shape[1:], mode="bilinear", align_corners=False)[0]
        return back.to(shown.dtype)

    def _alike(self, shown: Tensor) -> Tensor:
        """Each cell the mean over those that are more alike to it than cells are on average.

        Source: Alama et al., RADSeg, 2025, self-correlating global aggregation.
        """
        assert self._config.sharpness is not None
        cosines = pair_cosines(functional.normalize(shown.float(), dim=0)[None])
        weights = above_mean(cosines, sharpness=self._config.sharpness)[0]
        means: Tensor = (shown.float().flatten(1) @ weights.T).view_as(shown).to(shown.dtype)
        return means
