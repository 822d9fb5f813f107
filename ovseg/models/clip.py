"""Builds models from open_clip and Hugging Face towers: tower, recipe, structure encoder, regions, text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ovseg.encoders.convolutional import (
    ConvolutionalEncoder,
    convolutional_channels,
    convolutional_stride,
    is_convolutional,
)
from ovseg.encoders.openclip_text import OpenClipText
from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.recipe_encoder import RecipeEncoder
from ovseg.encoders.spec import EncoderSpec
from ovseg.encoders.timm_eva import TimmEva
from ovseg.encoders.timm_vit import TimmViT
from ovseg.encoders.tower import ViTTower
from ovseg.errors import ConfigError, ModelError, did_you_mean
from ovseg.heads.base import IdentityHead
from ovseg.hub import find_weights
from ovseg.models.assemble import CLIP_MEAN, CLIP_STD, assemble, mark_of
from ovseg.models.config import ModelConfig
from ovseg.models.download import checksum, describe
from ovseg.models.model import MadeOnce, Model
from ovseg.weights import freeze

_SEED = 0  # of random weights, so that image and text tower come from the same model


def build_openclip(config: ModelConfig, device: torch.device, dtype: torch.dtype, weights: Path | None) -> Model:
    """A model made of the two towers of an open_clip model; the text tower is read when first asked for.

    Args:
        config: the model file; ``encoder.name`` is open_clip's name, ``encoder.weights`` its tag.
        device: where to run.
        dtype: what the image side computes in; text stays in float32.
        weights: file, or folder laid out as ``ovseg models fetch`` says; None takes the hub.

    Raises:
        ModelError: weights are missing or of another architecture, or the tower cannot be opened.
        ConfigError: the recipe is unknown or does not fit the tower.
    """
    encoder = config.encoder
    space = f"openclip:{encoder.name}/{encoder.weights or 'random'}"
    path = None if encoder.random_weights else _openclip_weights(config, weights)
    visual = create_openclip(encoder.name, path).visual
    image, marks = _image_encoder(visual, _openclip_spec(config, visual, space), config, weights)
    text = openclip_text(encoder.name, path, space=space, device=device)
    freeze(image)
    # one file holds both towers
    return Model(config, image.to(device, dtype), text, IdentityHead(space), {"image": mark_of(path), **marks})


def openclip_text(name: str, path: Path | None, *, space: str, device: torch.device) -> Callable[[], OpenClipText]:
    """A function that reads the text tower of an open_clip model when it is first called."""

    @MadeOnce
    def text() -> OpenClipText:
        import open_clip

        model = create_openclip(name, path)
        del model.visual
        return OpenClipText(freeze(model).to(device), open_clip.get_tokenizer(name), space=space)

    return text


def _openclip_weights(config: ModelConfig, weights: Path | None) -> Path:
    return find_weights(
        config.encoder.repo,
        weights,
        what=f"model '{config.name}'",
        sha256=checksum(config),
        facts=describe(config),
    )


def create_openclip(name: str, path: Path | None) -> Any:
    """The open_clip model ``name`` with the weights of ``path``; None gives reproducible random ones.

    Raises:
        ModelError: open_clip has no such model, or the file is of another one.
    """
    from ovseg._torchvision import ensure_torchvision

    ensure_torchvision()
    import open_clip

    if name not in open_clip.list_models():
        raise ModelError(
            f"open_clip has no model '{name}'{did_you_mean(name, open_clip.list_models())} "
            "open_clip.list_models() shows all"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            return open_clip.create_model(name, pretrained=None if path is None else str(path))
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"'{path}' does not hold the weights of open_clip's '{name}': {reason}") from error


def _openclip_spec(config: ModelConfig, visual: Any, space: str) -> EncoderSpec:
    from open_clip.pretrained import get_pretrained_cfg

    facts = get_pretrained_cfg(config.encoder.name, config.encoder.weights)
    return EncoderSpec(
        name=config.name,
        space=space,
        stride=0,  # the tower sets stride and channels
        channels=0,
        mean=facts.get("mean", CLIP_MEAN),
        std=facts.get("std", CLIP_STD),
        interpolation=facts.get("interpolation", "bicubic"),
    )


def _image_encoder(
    visual: Any, spec: EncoderSpec, config: ModelConfig, weights: Path | None
) -> tuple[ConvolutionalEncoder | RecipeEncoder, dict[str, str]]:
    if is_convolutional(visual):
        if config.encoder.recipe is not None:
            raise ConfigError(
                f"model '{config.name}': '{config.encoder.name}' has no attention for the recipe "
                f"'{config.encoder.recipe.name}' to change; remove 'recipe:' to get its dense features"
            )
        stride, channels = convolutional_stride(visual), convolutional_channels(visual)
        return ConvolutionalEncoder(visual, replace(spec, stride=stride, channels=channels)), {}
    tower = open_tower(visual)
    return assemble(tower, replace(spec, stride=tower.stride, channels=tower.channels), config, weights)


def open_tower(visual: Any) -> ViTTower:
    """The image side of an open_clip model as a tower.

    Raises:
        ModelError: it is a network that cannot be opened before its last block.
    """
    openers: dict[str, Callable[[Any], ViTTower]] = {
        "VisionTransformer": lambda found: TimmViT(found.trunk, found.head),
        "Eva": lambda found: TimmEva(found.trunk, found.head),
    }
    if not hasattr(visual, "trunk"):
        return OpenClipViT(visual)
    kind = type(visual.trunk).__name__
    if kind not in openers:
        raise ModelError(f"expected a tower on a timm {' or '.join(openers)}, got {kind}; choose another tower")
    return openers[kind](visual)
