"""Builds models that answer with masks from networks of transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ovseg.backends.answers import TokenReader
from ovseg.backends.clipseg import ClipSegEncoder, ClipSegHead
from ovseg.backends.grounding import GroundingEncoder, GroundingHead
from ovseg.backends.owlv2 import Owlv2Encoder, Owlv2Head
from ovseg.backends.sam3 import LONGEST, Sam3Encoder, Sam3Head
from ovseg.checkpoints import kind_of, open_network, told_kind
from ovseg.config import choose
from ovseg.encoders.spec import EncoderSpec
from ovseg.errors import ConfigError, ModelError
from ovseg.hub import download_folder
from ovseg.models.config import ModelConfig
from ovseg.models.download import describe
from ovseg.models.huggingface import mark_of_folder, processor_facts, spec_of
from ovseg.models.model import MadeOnce, Model

_HOLDERS = {"sam3_video": "sam3"}  # kinds of repositories that hold a network of another kind, too
_SAM3_FACTS = {  # of its processor
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
    "size": {"height": 1008, "width": 1008},
}
_GROUNDING_STRIDE = 32  # pixels per cell of the coarsest map of a Swin backbone


@dataclass(frozen=True)
class Opened:
    """What an opener is given and made of.

    Attributes:
        config: the model file.
        folder: with the files of the repository.
        facts: of its ``preprocessor_config.json``.
        space: of everything that the network makes.
        device: where to run.
        dtype: what the image side computes in.
    """

    config: ModelConfig
    folder: Path
    facts: dict[str, Any]
    space: str
    device: torch.device
    dtype: torch.dtype

    def network(self, name: str) -> Any:
        """The frozen network of a class of transformers, on the device."""
        return open_network(self.folder, name).to(self.device)

    def tokenizer(self) -> Any:
        """The tokenizer in the folder."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)

    @property
    def sam(self) -> str:
        """The SAM that the section ``objects`` names, for networks that answer with boxes.

        Raises:
            ConfigError: it names none, or two.
        """
        named = {part.masks for part in (self.config.objects.fast, self.config.objects.best)}
        if len(named) != 1 or named == {"map"}:
            raise ConfigError(
                f"model '{self.config.name}': a network that answers with boxes needs one SAM for their masks, got "
                f"{' and '.join(sorted(named))}; write masks: mobile-sam in objects.fast and in objects.best"
            )
        return named.pop()

    def spec(self, *, stride: int, channels: int, size: tuple[int, int] | None = None) -> EncoderSpec:
        """The preprocessing that the folder states."""
        facts = {"resample": 2} | self.facts  # bilinear, unless stated
        return spec_of(self.config, self.space, facts, stride=stride, channels=channels, size=size)

    def model(self, image: Any, head: Any, *, longest: int) -> Model:
        """The model of an encoder and a head around one network that reads tokens itself."""
        text = TokenReader(self.tokenizer(), space=self.space, longest=longest)
        marks = {"image": mark_of_folder(self.folder)}
        return Model(self.config, image.to(self.device, self.dtype), MadeOnce(lambda: text), head, marks)


def build_masks(config: ModelConfig, device: torch.device, dtype: torch.dtype, weights: Path | None) -> Model:
    """A model around a network of transformers that answers phrases with masks.

    Args:
        config: the model file; ``encoder.name`` says which kind of network, ``encoder.repo`` whose weights.
        device: where to run.
        dtype: what the image side computes in.
        weights: folder with the files of the repository; None takes the hub.

    Raises:
        ModelError: weights are missing, or of another kind of network.
        ConfigError: there is no such kind, or the scoring does not fit it.
    """
    if config.scoring.over != "each":
        raise ConfigError(
            f"model '{config.name}': networks that answer with masks judge each label by itself, got scoring.over "
            f"'{config.scoring.over}'; write 'each'"
        )
    opener = choose(f"network in model '{config.name}':", config.encoder.name, OPENERS)
    what = f"model '{config.name}'"
    folder = weights or download_folder(config.encoder.repo, what=what, facts=describe(config))
    _check_kind(folder, config.encoder.name)
    space = f"hf:{config.encoder.repo or config.encoder.name}"
    return opener(Opened(config, folder, processor_facts(folder), space, device, dtype))


def _check_kind(folder: Path, name: str) -> None:
    kind = kind_of(folder)
    if kind is None or _HOLDERS.get(kind, kind) != name:
        raise ModelError(
            f"expected the files of a transformers model of type '{name}' in the folder '{folder}', got "
            f"{told_kind(kind)}; check --weights"
        )


def _side(facts: dict[str, Any]) -> tuple[int, int]:
    """(H, W) that a processor stretches photos to."""
    size = facts["size"]
    return (size, size) if isinstance(size, int) else (int(size["height"]), int(size["width"]))


def _open_clipseg(opened: Opened) -> Model:
    network = opened.network("CLIPSegForImageSegmentation")
    vision = network.config.vision_config
    channels = vision.hidden_size * len(network.config.extract_layers)
    spec = opened.spec(stride=vision.patch_size, channels=channels, size=_side(opened.facts))
    head = ClipSegHead(network, space=opened.space)
    longest = network.config.text_config.max_position_embeddings
    return opened.model(ClipSegEncoder(network, spec), head, longest=longest)


def _open_grounding(opened: Opened, name: str) -> Model:
    network = opened.network(name)
    channels = network.model.backbone.conv_encoder.model.channels
    packed = sum(count * 4**step for step, count in enumerate(reversed(channels)))
    spec = opened.spec(stride=_GROUNDING_STRIDE, channels=packed)
    image = GroundingEncoder(network, spec)
    head = GroundingHead(network, space=opened.space, sam=opened.sam)
    return opened.model(image, head, longest=network.config.max_text_len - 1)  # a stop comes after each phrase


def _open_owlv2(opened: Opened) -> Model:
    network = opened.network("Owlv2ForObjectDetection")
    vision = network.config.vision_config
    if opened.config.input.max_long_side > vision.image_size:
        raise ConfigError(
            f"model '{opened.config.name}': the network sees {vision.image_size} pixels at most, got "
            f"input.max_long_side {opened.config.input.max_long_side}; write {vision.image_size}"
        )
    tokenizer = opened.tokenizer()
    spec = opened.spec(stride=vision.patch_size, channels=vision.hidden_size)
    head = Owlv2Head(network, space=opened.space, padding=tokenizer.pad_token_id, sam=opened.sam)
    longest = network.config.text_config.max_position_embeddings
    return opened.model(Owlv2Encoder(network, spec), head, longest=longest)


def _open_sam3(opened: Opened) -> Model:
    opened = replace(opened, facts=_SAM3_FACTS | opened.facts)
    network = opened.network("Sam3Model")
    backbone = network.config.vision_config.backbone_config
    spec = opened.spec(stride=backbone.patch_size, channels=backbone.hidden_size, size=_side(opened.facts))
    tokenizer = opened.tokenizer()
    head = Sam3Head(network, space=opened.space, padding=tokenizer.pad_token_id)
    return opened.model(Sam3Encoder(network, spec), head, longest=LONGEST)


OPENERS: dict[str, Callable[[Opened], Model]] = {  # by the "model_type" of config.json
    "clipseg": _open_clipseg,
    "grounding-dino": partial(_open_grounding, name="GroundingDinoForObjectDetection"),
    "mm-grounding-dino": partial(_open_grounding, name="MMGroundingDinoForObjectDetection"),
    "owlv2": _open_owlv2,
    "sam3": _open_sam3,
}
