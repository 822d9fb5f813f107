"""The recipes by name. The next one is a function, a line here and a model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import Field

from ovseg.attention.block import Attended, LastBlock
from ovseg.attention.feedback import resclip
from ovseg.attention.purified import scclip, sfp
from ovseg.attention.self_attention import clearclip, maskclip, naclip, plain, radseg, resclip_rcs, sclip
from ovseg.attention.spectral import cass
from ovseg.attention.structured import corrclip, proxyclip
from ovseg.config import Config, check_options, choose


class RecipeConfig(Config):
    """The recipe of a model file.

    Attributes:
        name: a name of ``RECIPES``.
        options: keyword arguments of the recipe's function; the rest keep the constants of the paper.
        layers: how many blocks the spatial branch of CorrCLIP averages; they end two before the last.
    """

    name: str
    options: dict[str, float] = Field(default={})
    layers: int = 0


@dataclass(frozen=True)
class Recipe:
    """A way to run the last block.

    Attributes:
        attend: from the last block to attended values.
        residual: whether the output is added to the tokens that entered the block.
        feed_forward: whether the block's feed-forward layer follows.
        structure: whether it needs a structure encoder.
        lengths: whether structure features keep their lengths, in place of being unit vectors.
        fine: whether it answers on the grid of the structure encoder.
        regions: whether it needs regions.
        history: whether it needs what entered the other blocks.
        labels: whether a second pass may give it the labels of the first.
    """

    attend: Callable[..., Attended]
    residual: bool = False
    feed_forward: bool = False
    structure: bool = False
    lengths: bool = False
    fine: bool = False
    regions: bool = False
    history: bool = False
    labels: bool = False

    def run(self, block: LastBlock, options: Mapping[str, float]) -> Attended:
        """The attended values of ``block``."""
        return self.attend(block, **options)


RECIPES: dict[str, Recipe] = {
    "plain": Recipe(plain, residual=True, feed_forward=True),
    "maskclip": Recipe(maskclip),  # as later papers compare with it
    "maskclip-released": Recipe(maskclip, residual=True, feed_forward=True),  # as its authors run it
    "sclip": Recipe(sclip, residual=True, feed_forward=True),
    "clearclip": Recipe(clearclip),
    "naclip": Recipe(naclip),
    "resclip-rcs": Recipe(resclip_rcs, history=True),
    "resclip": Recipe(resclip, history=True, labels=True),
    "radseg": Recipe(radseg, residual=True, feed_forward=True),
    "scclip": Recipe(scclip, history=True),
    "sfp": Recipe(sfp, history=True),
    "cass": Recipe(cass, structure=True, lengths=True),
    "proxyclip": Recipe(proxyclip, structure=True, fine=True),
    "corrclip": Recipe(corrclip, structure=True, fine=True, regions=True, history=True),
}


def find_recipe(config: RecipeConfig) -> Recipe:
    """The recipe that ``config`` names, its options checked.

    Raises:
        ConfigError: the name or an option is unknown; the nearest is offered.
    """
    recipe = choose("recipe", config.name, RECIPES)
    check_options(f"recipe '{config.name}'", recipe.attend, config.options, given=1)
    return recipe
