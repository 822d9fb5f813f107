"""Random checkpoints of models that answer with masks, as the hub holds them: real keys and layouts, but narrow."""

from __future__ import annotations

from typing import Any

import torch

from helpers.checkpoints import bpe_files, transformers_files

CLIP_TOKENS = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407, "vocab_size": 49408}
NORMAL = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 2}
CLIPSEG_SIDE = 64


def seeded(make: Any, seed: int = 0) -> Any:
    """What ``make`` builds with random weights of a fixed seed, to evaluate with."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


def clipseg_of_transformers() -> Any:
    """A narrow ``CLIPSegForImageSegmentation`` for photos of 64 pixels."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    small = {"num_hidden_layers": 3, "num_attention_heads": 2}
    text = {**small, **CLIP_TOKENS, "hidden_size": 16, "intermediate_size": 32}
    vision = {**small, "hidden_size": 32, "intermediate_size": 64, "image_size": CLIPSEG_SIDE, "patch_size": 16}
    config = CLIPSegConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0, 1, 2],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        use_complex_transposed_convolution=True,
    )
    network = seeded(lambda: CLIPSegForImageSegmentation(config))
    for layer, factor in ((network.clip.text_projection, 20.0), (network.decoder.transposed_convolution[-1], 0.1)):
        layer.weight.data *= factor  # as they are begun, all phrases get one answer
    return network


def clipseg_files() -> dict[str, bytes]:
    facts = {"image_processor_type": "ViTImageProcessor", "size": {"height": CLIPSEG_SIDE, "width": CLIPSEG_SIDE}}
    return transformers_files(clipseg_of_transformers(), NORMAL | facts, bpe_files())


MASK_MODELS = {"clipseg": clipseg_files}


def mask_model_files(name: str) -> dict[str, bytes]:
    """Files of the repository of a model of kind "masks", by ``encoder.name``."""
    return MASK_MODELS[name]()
