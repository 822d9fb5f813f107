"""Random checkpoints of models that answer with masks, as the hub holds them: real keys and layouts, but narrow."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from helpers.checkpoints import CLIP_PREPROCESSING, bpe_files, transformers_files

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


BERT_WORDS = ("a", "the", "cat", "road", "sky", "blue", "tree", "dog", "sofa")


def bert_files() -> dict[str, bytes]:
    """A small vocabulary with BERT's special tokens and stops under their own numbers."""
    letters = [f"{mark}{letter}" for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz"]
    words = [f"[unused{number}]" for number in range(1100)]
    for number, word in {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}.items():
        words[number] = word
    words[1012], words[1029] = ".", "?"
    lines = [*words, *dict.fromkeys([*letters, *BERT_WORDS])]
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    return {"vocab.txt": "\n".join(lines).encode(), "tokenizer_config.json": json.dumps(config).encode()}


def grounding_of_transformers(kind: str) -> Any:
    """A narrow ``GroundingDinoForObjectDetection``, or that of MM Grounding DINO."""
    import transformers

    backbone = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
    backbone |= {"window_size": 4, "out_indices": [2, 3, 4], "image_size": 64}
    text = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"intermediate_size": 32, "vocab_size": 1200}
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 12, "max_text_len": 24}
    name = {"grounding-dino": "GroundingDino", "mm-grounding-dino": "MMGroundingDino"}[kind]
    config = getattr(transformers, f"{name}Config")(backbone_config=backbone, text_config=text, **layers, **sizes)
    return seeded(lambda: getattr(transformers, f"{name}ForObjectDetection")(config))


def grounding_files(kind: str) -> dict[str, bytes]:
    facts = {"image_processor_type": "GroundingDinoImageProcessor", "processor_class": "GroundingDinoProcessor"}
    sizes = {"size": {"shortest_edge": 800, "longest_edge": 1333}}
    return transformers_files(grounding_of_transformers(kind), NORMAL | facts | sizes, bert_files())


SAM3_SIDE = 112


def sam3_of_transformers() -> Any:
    """A narrow ``Sam3Model`` for photos of 112 pixels; its masks have 32 cells a side, 3.5 pixels each."""
    from transformers import Sam3Config, Sam3Model

    backbone = {"model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    backbone |= {"num_attention_heads": 2, "image_size": SAM3_SIDE, "pretrain_image_size": 56, "window_size": 4}
    backbone |= {"global_attn_indexes": [1]}
    layers = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    text = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    config = Sam3Config(
        vision_config={
            "backbone_config": backbone,
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config={**text, **CLIP_TOKENS, "projection_dim": 16, "max_position_embeddings": 32},
        geometry_encoder_config={**layers, "num_layers": 1},
        detr_encoder_config={**layers, "num_layers": 2},
        detr_decoder_config={**layers, "num_layers": 2, "num_queries": 10},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )
    network = seeded(lambda: Sam3Model(config))
    for layer in (network.mask_decoder.semantic_projection, network.mask_decoder.instance_projection):
        layer.weight.data *= 30  # as they are begun, all pixels get one answer
    return network


def sam3_files() -> dict[str, bytes]:
    facts = {"image_processor_type": "Sam3ImageProcessor", "size": {"height": SAM3_SIDE, "width": SAM3_SIDE}}
    halves = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2}
    return transformers_files(sam3_of_transformers(), halves | facts, bpe_files())


def groupvit_of_transformers() -> Any:
    """A narrow ``GroupViTModel`` for photos of 64 pixels."""
    from transformers import GroupViTConfig, GroupViTModel

    text = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "depths": [1, 1, 1]}
    vision |= {"num_group_tokens": [6, 4, 0], "num_output_groups": [6, 4, 4], "image_size": 64, "patch_size": 16}
    vision |= {"num_hidden_layers": 3}
    config = GroupViTConfig(
        text_config={**text, **CLIP_TOKENS}, vision_config=vision, projection_dim=16, projection_intermediate_dim=32
    )
    return seeded(lambda: GroupViTModel(config))


def groupvit_files() -> dict[str, bytes]:
    return transformers_files(groupvit_of_transformers(), CLIP_PREPROCESSING, bpe_files())


def owlv2_of_transformers(side: int = 960) -> Any:
    """A narrow ``Owlv2ForObjectDetection`` for squares of ``side`` pixels."""
    from transformers import Owlv2Config, Owlv2ForObjectDetection

    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    text = {**small, **CLIP_TOKENS, "hidden_size": 16, "max_position_embeddings": 16}
    vision = {**small, "hidden_size": 32, "image_size": side, "patch_size": 16}
    config = Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    return seeded(lambda: Owlv2ForObjectDetection(config))


def owlv2_files(side: int = 960) -> dict[str, bytes]:
    facts = {"image_processor_type": "Owlv2ImageProcessor", "size": {"height": side, "width": side}}
    return transformers_files(owlv2_of_transformers(side), CLIP_PREPROCESSING | facts, bpe_files())


MASK_MODELS: dict[str, Callable[[], dict[str, bytes]]] = {
    "clipseg": clipseg_files,
    "grounding-dino": partial(grounding_files, "grounding-dino"),
    "mm-grounding-dino": partial(grounding_files, "mm-grounding-dino"),
    "owlv2": owlv2_files,
    "sam3": sam3_files,
    "groupvit-gcc-yfcc": groupvit_files,
}


def written(files: dict[str, bytes], folder: Path) -> Path:
    """The folder with these files in it, by name."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def mask_model_files(name: str) -> dict[str, bytes]:
    """Files of the repository of such a model, by ``encoder.name``."""
    return MASK_MODELS[name]()
