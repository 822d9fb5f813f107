"""Random checkpoints of universal segmenters, as the hub holds them: real keys and layouts, but narrow."""

from __future__ import annotations

from typing import Any

from helpers.checkpoints import bpe_files, transformers_files
from helpers.mask_models import NORMAL, seeded

SWIN = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
SWIN |= {"image_size": 64, "out_features": ["stage1", "stage2", "stage3", "stage4"]}
QUERIES = 12


def mask2former() -> Any:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    sizes = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32}
    sizes |= {"encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 2, "dim_feedforward": 32}
    config = Mask2FormerConfig(backbone_config=dict(SWIN), num_queries=QUERIES, num_labels=5, **sizes)
    return seeded(lambda: Mask2FormerForUniversalSegmentation(config))


def oneformer() -> Any:
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation

    sizes = {"conv_dim": 32, "mask_dim": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32, "dim_feedforward": 32}
    sizes |= {"encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 2, "query_dec_layers": 1}
    sizes |= {"text_encoder_width": 32, "text_encoder_num_layers": 1}
    config = OneFormerConfig(backbone_config=dict(SWIN), num_queries=QUERIES, num_labels=5, **sizes)
    return seeded(lambda: OneFormerForUniversalSegmentation(config))


def _eomt(kind: str) -> Any:
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "num_blocks": 1}
    sizes |= {"image_size": 64, "patch_size": 8, "num_upscale_blocks": 1, "num_queries": QUERIES, "num_labels": 5}
    sizes |= {"intermediate_size": 64} if kind == "EomtDinov3" else {}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    network = seeded(lambda: getattr(transformers, f"{kind}ForUniversalSegmentation")(config))
    network.attn_mask_probs.fill_(0)  # as a trained one has it
    network.query.weight.data *= 3
    return network


_FACTS = {
    "mask2former": {"image_processor_type": "Mask2FormerImageProcessor", "ignore_index": 255},
    "oneformer": {"image_processor_type": "OneFormerImageProcessor", "class_info_file": "coco_panoptic.json"},
    "eomt": {"image_processor_type": "EomtImageProcessorFast", "do_pad": True, "do_split_image": False},
}
_MAKERS = {
    "mask2former": mask2former,
    "oneformer": oneformer,
    "eomt": lambda: _eomt("Eomt"),
    "eomt_dinov3": lambda: _eomt("EomtDinov3"),
}
KINDS = tuple(_MAKERS)


def universal_network(kind: str) -> Any:
    """The narrow network, whose masks differ from query to query."""
    network = _MAKERS[kind]()
    if kind in {"mask2former", "oneformer"}:
        for name, weight in network.named_parameters():
            if "class_predictor" in name or "class_embed" in name or "queries_" in name:
                weight.data *= 5
    return network


def universal_files(kind: str, **facts: Any) -> dict[str, bytes]:
    """Files of its repository; ``facts`` go over those of the preprocessing."""
    sides = {"eomt": (64, 64), "eomt_dinov3": (64, 64)}.get(kind, (64, 96))
    stated = NORMAL | _FACTS["eomt" if kind.startswith("eomt") else kind]
    stated |= {"size": {"shortest_edge": sides[0], "longest_edge": sides[1]}} | facts
    return transformers_files(universal_network(kind), stated, bpe_files() if kind == "oneformer" else {})
