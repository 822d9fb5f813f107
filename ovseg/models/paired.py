"""An image network of timm beside the text tower of another model: what Talk2DINO's map is trained between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.recipe_encoder import RecipeEncoder
from ovseg.encoders.spec import DenseFeatures, EncoderSpec
from ovseg.encoders.structure import as_triple, create_timm, load_timm, open_network, renormalise, timm_spec
from ovseg.encoders.tower import ViTTower
from ovseg.errors import ConfigError, ModelError
from ovseg.heads.base import Phrases
from ovseg.hub import find_weights
from ovseg.models.assemble import CLIP_MEAN, CLIP_STD, assemble, mark_of
from ovseg.models.clip import create_openclip, open_tower, openclip_text
from ovseg.models.config import ModelConfig, TextConfig
from ovseg.models.download import TEXT_FOLDER, checksum, describe
from ovseg.models.model import Model
from ovseg.weights import freeze


class Unjoined:
    """The head of encoders that share no space: it names the two, for a trained head to stand on.

    Args:
        feature_space: of the image encoder.
        text_space: of the text encoder.
        name: of the model, for messages.
    """

    reads_tokens = False

    def __init__(self, feature_space: str, text_space: str, *, name: str) -> None:
        self.feature_space, self.text_space = feature_space, text_space
        self.space = f"{feature_space}|none"
        self._name = name

    def pixels(self, features: DenseFeatures) -> NoReturn:
        """Refuses.

        Raises:
            ModelError: says how to get a head.
        """
        raise ModelError(
            f"expected a head that joins '{self.feature_space}' and '{self.text_space}', but model '{self._name}' "
            "has none; train one with the recipe 'captions' and load the folder of that run"
        )

    def phrases(self, vectors: Tensor) -> Phrases:
        """``vectors`` as they are."""
        return Phrases(vectors)


def build_paired(config: ModelConfig, device: torch.device, dtype: torch.dtype, weights: Path | None) -> Model:
    """A model made of a timm network and the text tower of an open_clip model.

    Args:
        config: the model file; ``encoder.name`` is timm's name, ``encoder.text`` the text tower.
        device: where to run.
        dtype: what the image side computes in; text stays in float32.
        weights: folder with the image weights, and those of the text in its folder ``text``; None takes the hub.

    Raises:
        ModelError: weights are missing or of another architecture, or the network cannot be opened.
        ConfigError: the text tower is missing, or the recipe does not fit.
    """
    encoder = config.encoder
    if encoder.text is None:
        raise ConfigError(f"model '{config.name}': kind 'paired' needs a section 'text:' in 'encoder:', got none")
    path, text_path = (None, None) if encoder.random_weights else _weights(config, weights)
    network = create_timm(encoder.name)
    if path is not None:
        load_timm(network, path)
    tower: Any = open_network(network)
    if not isinstance(tower, ViTTower):
        raise ModelError(f"expected a transformer with a last block to open, got {type(network).__name__}")
    spec = replace(
        timm_spec(network, encoder.name),
        stride=tower.stride,
        channels=tower.channels,
    )
    image: RecipeEncoder | WithWhole
    image, marks = assemble(tower, spec, config, weights)
    text_space = f"openclip:{encoder.text.name}/{encoder.text.weights or 'random'}"
    if encoder.text.whole:
        image = _with_whole(image, encoder.text, text_path, space=text_space)
    freeze(image)
    place = None if weights is None else weights / TEXT_FOLDER
    text = openclip_text(encoder.text.name, text_path, space=text_space, device=device, place=place)
    marks |= {"image": mark_of(path), "text": mark_of(text_path)}
    head = Unjoined(spec.space, text_space, name=config.name)
    return Model(config, image.to(device, dtype), text, head, marks)


class WithWhole(nn.Module):
    """An image encoder whose vector of the whole image is made by another tower, in another space.

    Args:
        dense: makes the features.
        whole: makes the vector.
        spec: preprocessing and space of ``whole``.
        size: (H, W) that it sees every image at, as its authors squeeze images.
    """

    def __init__(self, dense: RecipeEncoder, whole: ViTTower, spec: EncoderSpec, *, size: tuple[int, int]) -> None:
        super().__init__()
        self.encoder, self.whole = dense, whole
        self._whole_spec, self._size = spec, size

    @property
    def spec(self) -> EncoderSpec:
        """That of the features."""
        return self.encoder.spec

    @property
    def whole_space(self) -> str:
        """That of the vectors of whole images."""
        return self._whole_spec.space

    def dense(self, pixels: Tensor) -> DenseFeatures:
        """See ``RecipeEncoder.dense``."""
        return self.encoder.dense(pixels)

    def image_vector(self, pixels: Tensor) -> Tensor:
        """Unit vectors (B, C) of ``pixels`` (B, 3, H, W), normalised as ``spec`` says."""
        seen = renormalise(pixels, self.spec, self._whole_spec)
        squeezed = functional.interpolate(seen.float(), self._size, mode="bicubic", antialias=True)
        return functional.normalize(self.whole.image_vector(squeezed.to(self.encoder.dtype)), dim=-1)


def _with_whole(image: RecipeEncoder, text: TextConfig, path: Path | None, *, space: str) -> WithWhole:
    visual = create_openclip(text.name, path).visual
    from open_clip.pretrained import get_pretrained_cfg

    facts = get_pretrained_cfg(text.name, text.weights)
    mean, std = as_triple(facts.get("mean", CLIP_MEAN)), as_triple(facts.get("std", CLIP_STD))
    tower = open_tower(visual)
    spec = EncoderSpec(text.name, space, tower.stride, tower.channels, mean=mean, std=std)
    height, width = visual.image_size
    return WithWhole(image, tower, spec, size=(int(height), int(width)))


def _weights(config: ModelConfig, weights: Path | None) -> tuple[Path, Path]:
    """Files of the image network and of the text tower."""
    assert config.encoder.text is not None
    what, facts = f"model '{config.name}'", describe(config)
    image = find_weights(config.encoder.repo, weights, what=what, sha256=checksum(config), facts=facts)
    place = None if weights is None else weights / TEXT_FOLDER
    text = find_weights(
        config.encoder.text.repo, place, what=f"the text side of {what}", facts=facts, folder=TEXT_FOLDER
    )
    return image, text
