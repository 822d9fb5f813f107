"""The ways of ``encoder.tokens`` by name. The next one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator
from torch import Tensor

from ovseg.config import choose, parse_config
from ovseg.encoders.reduction.expedit import ExpeditConfig
from ovseg.encoders.reduction.stop import StopConfig
from ovseg.encoders.reduction.tome import ToMeConfig
from ovseg.encoders.reduction.transform import TransformConfig
from ovseg.encoders.reduction.walk import WayConfig
from ovseg.encoders.tower import TowerTokens, ViTTower
from ovseg.errors import ConfigError

WAYS: dict[str, type[WayConfig]] = {
    "expedit": ExpeditConfig,
    "tome": ToMeConfig,
    "stop": StopConfig,
    "transform": TransformConfig,
}


def _chosen(values: Any) -> Any:
    """The settings of the way that ``name`` says, ``expedit`` where it says none."""
    if isinstance(values, WayConfig):
        return values
    if not isinstance(values, Mapping):
        raise ConfigError(f"expected a way and its options, such as {{name: tome, merged: 0.05}}, got {values!r}")
    name = str(values.get("name", "expedit"))
    return parse_config(choose("way to reduce tokens", name, WAYS), dict(values), source=f"'{name}'")


TokensConfig = Annotated[ExpeditConfig | ToMeConfig | StopConfig | TransformConfig, BeforeValidator(_chosen)]


@dataclass(frozen=True)
class TokenReduction:
    """How a tower runs on fewer tokens; holds nothing of an image.

    Args:
        config: the way and its options.
        depth: number of blocks of the tower.

    Raises:
        ConfigError: a tower of so many blocks cannot do that.
    """

    config: WayConfig
    depth: int

    def __post_init__(self) -> None:
        self.config.check(self.depth)

    def __call__(self, tower: ViTTower, tokens: TowerTokens) -> Callable[[int, Tensor], Tensor]:
        """What runs each block before the last, for one batch: its number and (B, N, D) to what leaves it.

        Raises:
            ConfigError: the tokens have rotary positions, which those that stand for several would not have.
        """
        if tokens.rope is not None:
            raise ConfigError("encoder.tokens needs a tower without rotary positions; remove it, or take another")
        return self.config.walk(tower, tokens)
