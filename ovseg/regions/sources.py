"""The region sources by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pydantic import Field
from torch import Tensor

from ovseg.config import Config, check_options, choose
from ovseg.regions.clusters import kmeans, linked
from ovseg.regions.cuts import ncut
from ovseg.regions.sam import sam
from ovseg.regions.sam2 import SAM2_REPO, sam2
from ovseg.regions.superpixels import felzenszwalb, slic
from ovseg.sam.load import sam_repo
from ovseg.sam.mobile import MOBILE_SAM

RegionSource = Callable[[Tensor, Tensor], Tensor]
"""From (H, W, 3) uint8 and (S, h, w) unit features to (H, W) int32 regions, −1 outside every one."""

SOURCES: dict[str, Callable[..., Tensor]] = {
    "slic": slic,
    "felzenszwalb": felzenszwalb,
    "kmeans": kmeans,
    "linked": linked,
    "normalized_cut": ncut,
    "sam": sam,
    "sam2": sam2,
}
FROM_IMAGE = frozenset({"slic", "felzenszwalb", "sam", "sam2"})  # those that look at the image alone


class RegionsConfig(Config):
    """The regions of a model file.

    Attributes:
        source: a name of ``SOURCES``.
        options: keyword arguments of its function.
    """

    source: str
    options: dict[str, float | str] = Field(default={})

    @property
    def model(self) -> str:
        """The SAM that it asks, as of ``load_sam``; empty where it asks none."""
        default = {"sam": MOBILE_SAM, "sam2": SAM2_REPO}.get(self.source, "")
        return str(self.options.get("model", default)) if default else ""

    @property
    def repo(self) -> str:
        """Repository or folder of its weights; empty where it needs none, or has them in the package."""
        return sam_repo(self.model)

    @property
    def from_image(self) -> bool:
        """Whether the regions come from the image alone, so that windows can be cut from those of the whole."""
        return self.source in FROM_IMAGE


def build_regions(config: RegionsConfig) -> RegionSource:
    """The region source that ``config`` names, with its options.

    Raises:
        ConfigError: the name or an option is unknown; the nearest is offered.
    """
    source = choose("region source", config.source, SOURCES)
    check_options(f"region source '{config.source}'", source, config.options, given=2)
    return partial(source, **config.options)
