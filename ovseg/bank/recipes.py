"""Recipes of banks and concept sets: YAML files in ``retrieval/``."""

from __future__ import annotations

from pydantic import Field

from ovseg.assets import find_asset
from ovseg.bank.index import Kind
from ovseg.bank.options import BankOptions, Keys
from ovseg.config import Config, load_config


class BankRecipe(Config):
    """How a bank is built (``retrieval/banks/*.yaml``).

    Attributes:
        summary: one sentence.
        source: where the images are; see ``sources.iterate``.
        model: name of the model that encodes.
        index: kind of the index.
        recall: recall@10 that it is tuned to.
        regions: region vectors per image.
        keys: what regions are found again by; see ``BankOptions``.
        value_range: the values of the images that are black and white; see ``images.reading.Reading``.
        bands: of the images, which are red, green and blue, or grey.
    """

    summary: str
    source: str
    model: str = "mini"
    index: Kind = "auto"
    recall: float = Field(default=0.95, ge=0, le=1)
    regions: int = Field(default=8, ge=0)
    keys: Keys = "joint"
    value_range: tuple[float, float] | None = None
    bands: tuple[int, ...] | None = None

    @classmethod
    def named(cls, name: str) -> BankRecipe:
        """The recipe ``name``, or that of a YAML file.

        Raises:
            ConfigError: there is no such file, or a key is wrong.
        """
        return load_config(cls, find_asset("retrieval/banks", name))

    def options(self) -> BankOptions:
        """As ``ImageBank.build`` takes them."""
        return BankOptions(
            kind=self.index,
            recall=self.recall,
            regions=self.regions,
            keys=self.keys,
            value_range=self.value_range,
            bands=self.bands,
        )
