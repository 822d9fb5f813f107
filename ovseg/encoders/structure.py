"""Vision-only encoders that say which cells belong together: DINO, DINOv2, DINOv3, RADIO, SAM, from timm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ovseg.config import Config
from ovseg.encoders.spec import EncoderSpec, Triple
from ovseg.encoders.tower import TowerTokens, ViTTower, as_maps, check_pixels, join_heads
from ovseg.errors import ModelError, did_you_mean
from ovseg.hub import read_state
from ovseg.weights import freeze, load_module

if TYPE_CHECKING:
    from pathlib import Path

FeatureKind = Literal["tokens", "key", "query+key"]


class StructureConfig(Config):
    """A structure encoder.

    Attributes:
        name: name of the timm architecture, such as ``vit_base_patch8_224``.
        repo: repository of its weights on the hub.
        feature: what stands for a cell: the last tokens, or keys, or queries plus keys of the last block.
        sha256: checksum of the weights file, if known.
        position_offset: how positions are resized to another grid: None as timm does it (with antialiasing), 0.1 as
            the code of DINO.
    """

    name: str
    repo: str = ""
    feature: FeatureKind = "tokens"
    sha256: str = ""
    position_offset: float | None = Field(default=None, ge=0, lt=1)


class StructureEncoder(nn.Module):
    """A frozen vision-only network as unit vectors per cell.

    Args:
        network: the timm network.
        spec: preprocessing and stride.
        feature: what stands for a cell.
    """

    def __init__(self, network: nn.Module, spec: EncoderSpec, *, feature: FeatureKind = "tokens") -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self._reader = _READERS[feature]

    def forward(self, pixels: Tensor) -> Tensor:
        """Unit vectors per cell.

        Args:
            pixels: (B, 3, H, W) normalised with the spec's mean and std; H and W multiples of its stride.

        Returns:
            (B, S, H/stride, W/stride), unit length over S.
        """
        return functional.normalize(self.read(pixels), dim=1)

    def read(self, pixels: Tensor) -> Tensor:
        """What ``forward`` returns, with the lengths that the network gives the vectors."""
        check_pixels(pixels, self.spec.stride)
        return self._reader(self.network, pixels)


def build_structure(config: StructureConfig, path: Path | None) -> StructureEncoder:
    """The structure encoder of a model file, frozen.

    Args:
        config: what the file says.
        path: file with its weights; None leaves them random, for tests and timing.

    Raises:
        ModelError: the architecture is unknown, its blocks are of another kind, or the file is of another one.
    """
    network = create_timm(config.name)
    if path is not None:
        load_timm(network, path)
    opened = open_network(network)
    if config.position_offset is not None:
        _tower(opened).position_offset = config.position_offset
    spec = replace(timm_spec(network, config.name), stride=int(opened.stride))
    return StructureEncoder(freeze(opened), spec, feature=config.feature)


def create_timm(name: str) -> Any:
    """A timm network without classifier and with random weights.

    Raises:
        ModelError: timm has no such architecture; the nearest is offered.
    """
    from ovseg._torchvision import ensure_torchvision

    ensure_torchvision()
    import timm

    if not timm.is_model(name):
        raise ModelError(
            f"timm has no architecture '{name}'{did_you_mean(name, timm.list_models())} "
            "timm.list_models() shows all"
        )
    return timm.create_model(name, pretrained=False, num_classes=0)


def open_network(network: Any) -> ViTTower | SamEncoder:
    """A timm transformer as a tower, or a SAM encoder as it is.

    Raises:
        ModelError: it is neither.
    """
    from ovseg.encoders.timm_eva import TimmEva
    from ovseg.encoders.timm_vit import TimmNaFlex, TimmViT

    kinds: dict[str, Callable[[Any], ViTTower | SamEncoder]] = {
        "VisionTransformer": TimmViT,
        "NaFlexVit": TimmNaFlex,
        "Eva": TimmEva,
        "VisionTransformerSAM": lambda found: SamEncoder(found),
    }
    kind = type(network).__name__
    if kind not in kinds:
        raise ModelError(f"expected a timm {', '.join(kinds)}, got {kind}; choose another structure encoder")
    return kinds[kind](network)


class SamEncoder(nn.Module):
    """The image encoder of SAM up to its neck; its windows leave no single last block to open."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.stride = int(network.patch_embed.patch_size[0])

    def last_tokens(self, pixels: Tensor) -> Tensor:
        """(B, D, h, w) leaving the last block."""
        maps: Tensor = self.network.forward_intermediates(pixels, indices=1, intermediates_only=True)[0]
        return maps


def _last_tokens(network: nn.Module, pixels: Tensor) -> Tensor:
    if isinstance(network, SamEncoder):
        return network.last_tokens(pixels)
    tower = _tower(network)
    tokens = tower.prefix(pixels)
    return _maps(tower.normalise(tower.whole_block(tokens)), tokens)


def _last_keys(network: nn.Module, pixels: Tensor) -> Tensor:
    tokens = _tower(network).prefix(pixels)
    _, keys, _ = _tower(network).last_block_qkv(tokens)
    return _maps(join_heads(keys), tokens)


def _last_queries_and_keys(network: nn.Module, pixels: Tensor) -> Tensor:
    tokens = _tower(network).prefix(pixels)
    queries, keys, _ = _tower(network).last_block_qkv(tokens)
    return _maps(join_heads(queries + keys), tokens)


_READERS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "tokens": _last_tokens,
    "key": _last_keys,
    "query+key": _last_queries_and_keys,
}


def _tower(network: nn.Module) -> ViTTower:
    if not isinstance(network, ViTTower):
        raise ModelError(
            f"expected a transformer whose last block can be opened, got {type(network).__name__}; use feature: "
            "tokens and no position_offset"
        )
    return network


def _maps(values: Tensor, tokens: TowerTokens) -> Tensor:
    """(B, N, D) to (B, D, h, w) without the prefix."""
    return as_maps(values[:, tokens.prefix :], tokens.grid)


def timm_spec(network: Any, name: str) -> EncoderSpec:
    """Preprocessing and space of a timm network; the tower sets the stride."""
    facts = network.pretrained_cfg
    return EncoderSpec(
        name=name,
        space=f"timm:{name}",
        stride=0,
        channels=int(network.embed_dim),
        mean=as_triple(facts["mean"]),
        std=as_triple(facts["std"]),
    )


def as_triple(values: Any) -> Triple:
    """Three floats, from any sequence of three numbers."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def load_timm(network: Any, path: Path) -> None:
    """Fill a timm network without classifier from a file; RADIO's own layout is turned into timm's.

    Raises:
        ModelError: the file is damaged, or of another architecture.
    """
    known, found = network.state_dict(), read_state(path)
    if type(network).__name__ == "NaFlexVit":
        from timm.models.naflexvit import checkpoint_filter_fn

        found = checkpoint_filter_fn(found, network)
    state = {name: value for name, value in found.items() if not name.startswith("head.")}
    buffers = {name: value for name, value in known.items() if name.startswith("head.")}
    load_module(network, {**buffers, **state}, source=str(path))


@torch.no_grad()
def renormalise(pixels: Tensor, old: EncoderSpec, new: EncoderSpec) -> Tensor:
    """Pixels (B, 3, H, W) normalised for ``old``, normalised for ``new`` instead."""
    if (old.mean, old.std) == (new.mean, new.std):
        return pixels
    scale = torch.tensor(old.std) / torch.tensor(new.std)
    shift = (torch.tensor(old.mean) - torch.tensor(new.mean)) / torch.tensor(new.std)
    return pixels * scale.to(pixels)[:, None, None] + shift.to(pixels)[:, None, None]
