"""Every model that can be loaded, as ``ovseg models`` lists them."""

from __future__ import annotations

from dataclasses import dataclass

from ovseg.assets import asset_names
from ovseg.models.config import ModelConfig, read_model_config
from ovseg.models.download import is_local


@dataclass(frozen=True)
class ModelInfo:
    """A line of ``ovseg models``.

    Attributes:
        name: what ``ovseg.load`` takes.
        parameters: millions.
        megabytes: size of the download, or in the package.
        license: of the weights.
        commercial: whether that licence allows commercial use.
        gated: whether the weights ask for a login.
        local: whether the weights are on this machine.
        summary: one sentence.
    """

    name: str
    parameters: float
    megabytes: float
    license: str
    commercial: bool
    gated: bool
    local: bool
    summary: str


def list_models() -> list[ModelInfo]:
    """Every model file, the default first, then by name."""
    infos = [_describe(read_model_config(name)) for name in asset_names("configs/models")]
    return sorted(infos, key=lambda info: (info.name != "mini", info.name))


def _describe(config: ModelConfig) -> ModelInfo:
    return ModelInfo(
        name=config.name,
        parameters=config.parameters,
        megabytes=config.megabytes,
        license=config.license,
        commercial=config.commercial,
        gated=config.gated,
        local=config.encoder.kind == "embedded" or is_local(config),
        summary=config.summary,
    )
