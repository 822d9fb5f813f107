"""Tiny networks of every family, with random weights large enough to matter."""

from __future__ import annotations

import pytest
import torch

from ovseg._torchvision import ensure_torchvision
from ovseg.models.config import ModelConfig

SIDE, PATCH = 32, 8
ensure_torchvision()


def model_config(name, *, encoder, head=None):
    """A model file of a tiny model: what it runs, and facts that no test reads."""
    return ModelConfig(
        name=name,
        summary="",
        encoder=encoder,
        head=head,
        parameters=0.1,
        megabytes=1,
        license="MIT",
        commercial=True,
        source="",
    )


def shake(module: torch.nn.Module, *, seed: int = 0) -> torch.nn.Module:
    """``module`` in eval mode, every weight drawn anew, so that no layer is nearly the identity."""
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        scale = 0.5 if parameter.ndim < 2 else 1.5 * parameter[0].numel() ** -0.5
        values = torch.randn(parameter.shape, generator=draw) * scale
        offset = 1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) else 0.0
        parameter.data.copy_(values + offset)
    return module.eval().requires_grad_(False)


def _openclip(**options):
    from open_clip.transformer import VisionTransformer

    return VisionTransformer(SIDE, PATCH, width=32, layers=3, heads=4, mlp_ratio=2, output_dim=16, **options)


def _timm(**options):
    from timm.models.vision_transformer import VisionTransformer

    settings = {"num_classes": 16, **options}
    return VisionTransformer(
        img_size=SIDE, patch_size=PATCH, embed_dim=32, depth=3, num_heads=4, mlp_ratio=2, **settings
    )


def _eva(**options):
    from timm.models.eva import Eva

    settings = {"num_classes": 16, "use_rot_pos_emb": True, **options}
    return Eva(img_size=SIDE, patch_size=PATCH, embed_dim=32, depth=3, num_heads=2, mlp_ratio=2, **settings)


def _dinov3(**options):
    return _eva(
        rope_type="dinov3",
        use_abs_pos_emb=False,
        num_reg_tokens=4,
        init_values=0.1,
        rope_rotate_half=True,
        rope_temperature=100,
        num_classes=0,
        **options,
    )


def _stemmed():
    from timm.layers import HybridEmbed
    from timm.models.vision_transformer import VisionTransformer

    stem = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 4, 4), torch.nn.ReLU())

    def embed(img_size, patch_size, in_chans, embed_dim, **rest):
        return HybridEmbed(stem, img_size=img_size, patch_size=2, in_chans=in_chans, embed_dim=embed_dim)

    return VisionTransformer(
        img_size=SIDE, patch_size=PATCH, embed_dim=32, depth=2, num_heads=4, num_classes=16, embed_layer=embed
    )


def _radio():
    from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

    positions = {"pos_embed_interp_mode": "bilinear", "pos_embed_ar_preserving": True, "pos_embed_antialias": False}
    cfg = NaFlexVitCfg(
        patch_size=PATCH,
        embed_dim=32,
        depth=3,
        num_heads=4,
        mlp_ratio=2,
        init_values=0.1,
        class_token=True,
        reg_tokens=7,
        global_pool="token",
        final_norm=False,
        pos_embed_grid_size=(16, 16),
        pos_embed_align_corners=True,
        **positions,
    )
    return NaFlexVit(cfg, num_classes=0)


NETWORKS = {
    "openclip": _openclip,
    "openclip-average": lambda: _openclip(pool_type="avg", ls_init_value=0.1),
    "openclip-late-norm": lambda: _openclip(final_ln_after_pool=True, no_ln_pre=True),
    "timm-clip": lambda: _timm(pre_norm=True),
    "timm-siglip": lambda: _timm(class_token=False, global_pool="map", num_classes=0),
    "timm-dinov2": lambda: _timm(reg_tokens=4, no_embed_class=True, init_values=0.1, num_classes=0),
    "timm-qknorm": lambda: _timm(qk_norm=True, scale_attn_norm=True, global_pool="avg"),
    "timm-stem": _stemmed,
    "radio": _radio,
    "eva02": lambda: _eva(qkv_fused=False, swiglu_mlp=True, scale_mlp=True, ref_feat_shape=4),
    "eva-fused": lambda: _eva(qkv_fused=True, scale_attn_inner=True, init_values=0.1, global_pool="avg"),
    "pe-core": lambda: _eva(
        attn_type="rope",
        global_pool="map",
        use_pre_transformer_norm=True,
        ref_feat_shape=4,
        rope_grid_offset=1.0,
    ),
    "dinov3": _dinov3,
    "dinov3-any-size": lambda: _dinov3(dynamic_img_size=True),  # as timm makes it
    "eva-mixed": lambda: _eva(attn_type="rope", rope_type="mixed", use_abs_pos_emb=False),
}


def build_network(name: str) -> torch.nn.Module:
    return shake(NETWORKS[name]())


def _parts() -> dict[str, dict[str, object]]:
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"vocab_size": 99, "bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 98}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    return {"text_config": text, "vision_config": {**vision, "image_size": SIDE, "patch_size": PATCH}}


def huggingface_clip() -> torch.nn.Module:
    from transformers import CLIPConfig, CLIPModel

    return shake(CLIPModel(CLIPConfig(**_parts(), projection_dim=16)))


def huggingface_siglip() -> torch.nn.Module:
    from transformers import SiglipConfig, SiglipModel

    return shake(SiglipModel(SiglipConfig(**_parts())))


@pytest.fixture
def pixels():
    """(2, 3, 32, 32): the size that the tiny networks were made for."""
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def wide():
    """(2, 3, 24, 48): another size, not square."""
    return torch.randn(2, 3, 24, 48, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def networks():
    """Names and a builder of the tiny networks."""
    return {name: lambda name=name: build_network(name) for name in NETWORKS}


@pytest.fixture
def clip_model():
    return huggingface_clip()


@pytest.fixture
def siglip_model():
    return huggingface_siglip()


def twelve_blocks() -> torch.nn.Module:
    """An open_clip tower of 12 small blocks, so that papers' numbers of blocks are what they are."""
    from open_clip.transformer import VisionTransformer

    return shake(VisionTransformer(SIDE, PATCH, width=16, layers=12, heads=4, mlp_ratio=2, output_dim=16))
