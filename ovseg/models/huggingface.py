"""Builds models from the CLIP, MetaCLIP 2 and SigLIP towers of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ovseg.encoders.groupvit import GroupViT
from ovseg.encoders.hf_clip import HuggingFaceClip, HuggingFaceSiglip
from ovseg.encoders.hf_text import HuggingFaceText
from ovseg.encoders.spec import EncoderSpec
from ovseg.encoders.structure import as_triple
from ovseg.errors import ModelError
from ovseg.files import read_json
from ovseg.heads.base import IdentityHead
from ovseg.hub import content_of, download_folder
from ovseg.models.assemble import CLIP_MEAN, CLIP_STD, assemble
from ovseg.models.config import ModelConfig
from ovseg.models.download import describe
from ovseg.models.model import MadeOnce, Model
from ovseg.weights import freeze

RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, as preprocessor_config.json states them


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
    encoder = config.encoder
    space = f"hf:{encoder.repo or encoder.name}"
    folder = weights or download_folder(encoder.repo, what=f"model '{config.name}'", facts=describe(config))
    tower, facts = open_huggingface(load_huggingface(folder)), processor_facts(folder)
    spec = spec_of(config, space, facts, stride=tower.stride, channels=tower.channels)
    image, marks = assemble(tower, spec, config, weights)

    marks["image"] = mark_of_folder(folder)  # both towers
    freeze(image)
    return Model(config, image.to(device, dtype), _text_of(folder, space, device), IdentityHead(space), marks)


def build_groupvit(config: ModelConfig, device: torch.device, dtype: torch.dtype, weights: Path | None) -> Model:
    """A model made of the two sides of a transformers GroupViT; the rest as of ``build_huggingface``."""
    space = f"hf:{config.encoder.repo or config.encoder.name}"
    folder = weights or download_folder(config.encoder.repo, what=f"model '{config.name}'", facts=describe(config))
    network, facts = load_huggingface(folder), processor_facts(folder)
    if network.config.model_type != "groupvit":
        raise ModelError(f"expected a transformers model of type groupvit, got '{network.config.model_type}'")
    sides = network.config
    spec = spec_of(config, space, facts, stride=sides.vision_config.patch_size, channels=sides.projection_dim)
    image = GroupViT(network, spec)
    freeze(image)
    marks = {"image": mark_of_folder(folder)}
    return Model(config, image.to(device, dtype), _text_of(folder, space, device), IdentityHead(space), marks)


def _text_of(folder: Path, space: str, device: torch.device) -> MadeOnce[HuggingFaceText]:
    """A function that reads the text side of a transformers model when it is first called."""

    @MadeOnce
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

    return text


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def spec_of(
    config: ModelConfig,
    space: str,
    facts: dict[str, Any],
    *,
    stride: int,
    channels: int,
    size: tuple[int, int] | None = None,
) -> EncoderSpec:
    """The preprocessing that a transformers folder states, CLIP's where it states none.

    Args:
        config: the model file.
        space: of the features.
        facts: of ``processor_facts``.
        stride, channels, size: see ``EncoderSpec``.
    """
    return EncoderSpec(
        name=config.name,
        space=space,
        stride=stride,
        channels=channels,
        mean=as_triple(facts.get("image_mean", CLIP_MEAN)),
        std=as_triple(facts.get("image_std", CLIP_STD)),
        interpolation=RESAMPLING.get(facts.get("resample", 3), "bicubic"),
        size=size,
    )


def mark_of_folder(folder: Path) -> str:
    """What the weights in a transformers folder are known by."""
    return "+".join(content_of(file)[:16] for file in _weight_files(folder))


def load_huggingface(folder: Path) -> Any:
    """The transformers model in a folder, from safetensors, or from torch files read without running code in them.

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
        safe = any(folder.glob("*.safetensors")) or None  # None also takes torch files
        return AutoModel.from_pretrained(folder, use_safetensors=safe, weights_only=True, local_files_only=True)
    except Exception as error:  # torch raises whatever the bytes of its files lead to
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


def processor_facts(folder: Path) -> dict[str, Any]:
    """Preprocessing facts of a transformers folder; empty where there is no such file."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    return read_json(path, what="file", advice="fetch the model again", error=ModelError)
