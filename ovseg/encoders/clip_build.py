"""Builds models from open_clip and Hugging Face towers: tower, recipe, structure encoder, regions, text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ovseg.attention import RecipeConfig
from ovseg.encoders.convolutional import (
    ConvolutionalEncoder,
    convolutional_channels,
    convolutional_stride,
    is_convolutional,
)
from ovseg.encoders.hf_clip import HuggingFaceClip, HuggingFaceSiglip
from ovseg.encoders.hf_text import HuggingFaceText
from ovseg.encoders.hub import STRUCTURE_FOLDER, checksum, describe, download_folder, find_weights, identity
from ovseg.encoders.openclip_text import OpenClipText
from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.recipe_encoder import RecipeEncoder
from ovseg.encoders.spec import EncoderSpec, Triple
from ovseg.encoders.structure import as_triple, build_structure
from ovseg.encoders.timm_eva import TimmEva
from ovseg.encoders.timm_vit import TimmViT
from ovseg.encoders.tower import ViTTower
from ovseg.encoders.weights import freeze
from ovseg.errors import ConfigError, ModelError, did_you_mean
from ovseg.heads.base import IdentityHead
from ovseg.regions import build_regions

if TYPE_CHECKING:
    from ovseg.encoders.registry import Model, ModelConfig

_SEED = 0  # of random weights, so that image and text tower come from the same model
CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)


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
    from ovseg.encoders.registry import Model

    encoder = config.encoder
    space = f"openclip:{encoder.name}/{encoder.weights or 'random'}"
    path = None if encoder.random_weights else _openclip_weights(config, weights)
    visual = create_openclip(encoder.name, path).visual
    image = _image_encoder(visual, _openclip_spec(config, visual, space), config, weights)
    text = openclip_text(encoder.name, path, space=space, device=device)
    mark = "random" if path is None else identity(path)
    freeze(image)
    return Model(config, image.to(device, dtype), text, IdentityHead(space), f"{space}@{mark}")


def openclip_text(name: str, path: Path | None, *, space: str, device: torch.device) -> Callable[[], OpenClipText]:
    """A function that reads the text tower of an open_clip model when it is first called."""

    @lru_cache(maxsize=1)
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
        license=config.license,
        source=config.source,
        paper=config.paper,
    )


def _image_encoder(
    visual: Any, spec: EncoderSpec, config: ModelConfig, weights: Path | None
) -> ConvolutionalEncoder | RecipeEncoder:
    if is_convolutional(visual):
        if config.encoder.recipe is not None:
            raise ConfigError(
                f"model '{config.name}': '{config.encoder.name}' has no attention for the recipe "
                f"'{config.encoder.recipe.name}' to change; remove 'recipe:' to get its dense features"
            )
        stride, channels = convolutional_stride(visual), convolutional_channels(visual)
        return ConvolutionalEncoder(visual, replace(spec, stride=stride, channels=channels))
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


def assemble(tower: ViTTower, spec: EncoderSpec, config: ModelConfig, weights: Path | None) -> RecipeEncoder:
    """A tower with the recipe, the structure encoder and the regions of a model file."""
    encoder = config.encoder
    structure = None
    if encoder.structure is not None:
        folder = weights / STRUCTURE_FOLDER if weights is not None else None
        structure = build_structure(encoder.structure, weights=folder, random_weights=encoder.random_weights)
    regions = None if encoder.regions is None else build_regions(encoder.regions)
    recipe = encoder.recipe or RecipeConfig(name="plain")
    return RecipeEncoder(tower, spec, recipe=recipe, structure=structure, regions=regions)


def build_huggingface(config: ModelConfig, device: torch.device, dtype: torch.dtype, weights: Path | None) -> Model:
    """A model made of the two towers of a transformers CLIP, MetaCLIP 2 or SigLIP.

    Args:
        config: the model file; ``encoder.repo`` is the repository on the hub.
        device: where to run.
        dtype: what the image side computes in; text stays in float32.
        weights: folder with the files of the repository; None takes the hub.

    Raises:
        ModelError: weights are missing, or the architecture is another one.
    """
    from ovseg.encoders.registry import Model

    encoder = config.encoder
    space = f"hf:{encoder.repo or encoder.name}"
    folder = weights or download_folder(encoder.repo, what=f"model '{config.name}'", facts=describe(config))
    tower, facts = open_huggingface(load_huggingface(folder)), _processor(folder)
    spec = EncoderSpec(
        name=config.name,
        space=space,
        stride=tower.stride,
        channels=tower.channels,
        mean=as_triple(facts.get("image_mean", CLIP_MEAN)),
        std=as_triple(facts.get("image_std", CLIP_STD)),
        license=config.license,
        source=config.source,
        paper=config.paper,
    )
    image = assemble(tower, spec, config, weights)

    @lru_cache(maxsize=1)
    def text() -> HuggingFaceText:
        from transformers import AutoTokenizer

        model = load_huggingface(folder)
        del model.vision_model
        return HuggingFaceText(
            freeze(model).to(device),
            AutoTokenizer.from_pretrained(folder),
            space=space,
            pad_to_length=model.config.model_type == "siglip",
        )

    mark = identity(next(iter(sorted(folder.glob("*.safetensors"))), folder))
    freeze(image)
    return Model(config, image.to(device, dtype), text, IdentityHead(space), f"{space}@{mark}")


def load_huggingface(folder: Path) -> Any:
    """The transformers model in a folder, from safetensors alone.

    Raises:
        ModelError: the folder holds no such model.
    """
    from ovseg._torchvision import ensure_torchvision

    ensure_torchvision()
    from transformers import AutoModel

    if not (folder / "config.json").is_file():
        raise ModelError(
            "expected a transformers model (config.json, model.safetensors and the files of its tokenizer) in the "
            f"folder '{folder}', got no config.json; check --weights"
        )
    try:
        return AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"expected a transformers model with safetensors in '{folder}': {reason}") from error


def open_huggingface(model: Any) -> HuggingFaceClip | HuggingFaceSiglip:
    """The image side of a transformers model as a tower.

    Raises:
        ModelError: the model is none of CLIP, MetaCLIP 2, SigLIP.
    """
    openers: dict[str, Callable[[Any], HuggingFaceClip | HuggingFaceSiglip]] = {
        "clip": lambda found: HuggingFaceClip(found.vision_model, found.visual_projection),
        "metaclip_2": lambda found: HuggingFaceClip(found.vision_model, found.visual_projection),
        "siglip": lambda found: HuggingFaceSiglip(found.vision_model),
    }
    kind = model.config.model_type
    if kind not in openers:
        raise ModelError(f"expected a transformers model of type {', '.join(openers)}, got '{kind}'")
    return openers[kind](model)


def _processor(folder: Path) -> dict[str, Any]:
    """Preprocessing facts of a transformers folder; empty where there is no such file."""
    import json

    path = folder / "preprocessor_config.json"
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return facts
