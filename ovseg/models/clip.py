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
from ovseg.encoders.structure import as_triple
from ovseg.encoders.timm_eva import TimmEva
from ovseg.encoders.timm_vit import TimmViT
from ovseg.encoders.tower import ViTTower
from ovseg.errors import ConfigError, ModelError, did_you_mean
from ovseg.files import read_json
from ovseg.heads.base import IdentityHead
from ovseg.hub import download_file, download_tokenizer, find_weights, has_tokenizer
from ovseg.models.assemble import CLIP_MEAN, CLIP_STD, assemble, mark_of
from ovseg.models.config import ModelConfig
from ovseg.models.download import checksum, describe, tokenizer_repo
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
    image, marks = _image_encoder(visual, _openclip_spec(config, space, path, weights), config, weights)
    text = openclip_text(encoder.name, path, space=space, device=device, place=weights)
    freeze(image)
    # one file holds both towers
    return Model(config, image.to(device, dtype), text, IdentityHead(space), {"image": mark_of(path), **marks})


def openclip_text(
    name: str, path: Path | None, *, space: str, device: torch.device, place: Path | None = None
) -> Callable[[], OpenClipText]:
    """A function that reads the text tower of an open_clip model when it is first called.

    Args:
        name: open_clip's name of the model.
        path: file with its weights; None gives random ones.
        space: of the vectors.
        device: where to run.
        place: folder that may hold the files of its tokenizer; the hub has them otherwise.
    """

    @MadeOnce
    def text() -> OpenClipText:
        model = create_openclip(name, path)
        del model.visual
        return OpenClipText(freeze(model).to(device), openclip_tokenizer(name, place), space=space)

    return text


def openclip_tokenizer(name: str, place: Path | None) -> Any:
    """The tokenizer of an open_clip model: open_clip's own, or one of the hub, from ``place`` if it is there.

    Raises:
        ModelError: it cannot be downloaded, or read.
    """
    import open_clip
    from open_clip.tokenizer import HFTokenizer

    repo = tokenizer_repo(name)
    if not repo:
        return open_clip.get_tokenizer(name)
    here = place is not None and has_tokenizer(place)
    folder = place if here else download_tokenizer(repo, what=f"the tokenizer of open_clip's '{name}'")
    facts = open_clip.get_model_config(name)["text_cfg"]
    settings = {"context_length": facts["context_length"], "tokenizer_mode": facts.get("tokenizer_mode")}
    try:
        return HFTokenizer(str(folder), **settings, **facts.get("tokenizer_kwargs", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"expected the files of a tokenizer of transformers in '{folder}': {reason}") from error


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


def _openclip_spec(config: ModelConfig, space: str, path: Path | None, place: Path | None) -> EncoderSpec:
    from open_clip.pretrained import get_pretrained_cfg

    facts = get_pretrained_cfg(config.encoder.name, config.encoder.weights)
    if not facts and path is not None:
        facts = _stated_preprocessing(config, path, place)
    return EncoderSpec(
        name=config.name,
        space=space,
        stride=0,  # the tower sets stride and channels
        channels=0,
        mean=as_triple(facts.get("mean", CLIP_MEAN)),
        std=as_triple(facts.get("std", CLIP_STD)),
        interpolation=facts.get("interpolation", "bicubic"),
    )


def _stated_preprocessing(config: ModelConfig, path: Path, place: Path | None) -> dict[str, Any]:
    """What lies beside weights that open_clip has no tag for; empty where there is no such file."""
    name = "open_clip_config.json"
    beside = path.parent / name
    if place is None and not beside.is_file():
        download_file(config.encoder.repo, name, what=f"model '{config.name}'")  # into the folder of the weights
    if not beside.is_file():
        return {}
    stated = read_json(beside, what="file", advice="fetch the model again", error=ModelError)
    return dict(stated.get("preprocess_cfg", {}))


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
