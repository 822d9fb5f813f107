from __future__ import annotations

import pytest
import torch
from helpers.towers import build_network, huggingface_clip, huggingface_siglip, model_config

from ovseg.attention import RecipeConfig
from ovseg.config import parse_config
from ovseg.encoders.hf_clip import HuggingFaceClip, HuggingFaceSiglip
from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.reduction.registry import WAYS, TokenReduction
from ovseg.encoders.reduction.walk import WayConfig
from ovseg.encoders.spec import EncoderSpec
from ovseg.encoders.timm_eva import TimmEva
from ovseg.encoders.timm_vit import TimmNaFlex, TimmViT
from ovseg.encoders.tower import ViTTower
from ovseg.errors import ConfigError
from ovseg.models.assemble import assemble
from ovseg.models.config import EncoderConfig

OPTIONS = {
    "expedit": {"after": 1, "share": 0.5},
    "tome": {"merged": 0.3},
    "stop": {"after": (1,), "share": 0.4, "context": 2, "groups": 2},
    "transform": {"after": 1, "left": 0.5},
}


def _clip() -> HuggingFaceClip:
    network = huggingface_clip()
    return HuggingFaceClip(network.vision_model, network.visual_projection)


FAMILIES = {
    "openclip": lambda: OpenClipViT(build_network("openclip")),
    "timm-siglip": lambda: TimmViT(build_network("timm-siglip")),
    "timm-dinov2": lambda: TimmViT(build_network("timm-dinov2")),
    "radio": lambda: TimmNaFlex(build_network("radio")),
    "hf-clip": _clip,
    "hf-siglip": lambda: HuggingFaceSiglip(huggingface_siglip().vision_model),
}


def settings(name: str) -> WayConfig:
    return WAYS[name](**OPTIONS[name])  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_towers_run_on_fewer_tokens_each_image_for_itself(family: str, way: str) -> None:
    tower = FAMILIES[family]().double()
    pixels = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain = tower.prefix(pixels)
    tower.walk = TokenReduction(settings(way), len(tower.blocks))
    seen, project = [], tower.block_qkv
    hooks = [
        block.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1])) for block in tower.blocks
    ]
    tower.block_qkv = lambda block, tokens: seen.append(tokens.values.shape[1]) or project(block, tokens)  # type: ignore[method-assign, func-returns-value]
    reduced = tower.prefix(pixels)
    for hook in hooks:
        hook.remove()
    assert seen[0] == plain.values.shape[1] > seen[1] > plain.prefix
    assert reduced.values.shape == plain.values.shape and not torch.allclose(reduced.values, plain.values)
    torch.testing.assert_close(tower.prefix(pixels).values, reduced.values)  # nothing of the first batch is left
    for image in range(2):
        torch.testing.assert_close(tower.prefix(pixels[image : image + 1]).values[0], reduced.values[image])


@pytest.mark.parametrize("way", WAYS)
def test_half_precision_stays_half(way: str) -> None:
    tower = OpenClipViT(build_network("openclip")).bfloat16()
    tower.walk = TokenReduction(settings(way), 3)
    pixels = torch.randn(1, 3, 48, 40, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert tower.prefix(pixels).values.dtype == torch.bfloat16


def encoder(tokens: object, **more: object) -> EncoderConfig:
    given = {"kind": "openclip", "name": "tiny", "random_weights": True, "tokens": tokens, **more}
    return parse_config(EncoderConfig, given, source="tiny.yaml")


def built(tokens: object, **more: object) -> ViTTower:
    tower = OpenClipViT(build_network("openclip"))
    config = model_config("tiny", encoder=encoder(tokens, **more))
    assemble(tower, EncoderSpec("tiny", "tiny", tower.stride, 16), config, None)
    return tower


@pytest.mark.parametrize("way", WAYS)
def test_a_model_file_names_a_way_and_keeps_it(way: str) -> None:
    assert built({"name": way, **OPTIONS[way]}).walk == TokenReduction(settings(way), 3)
    written = encoder({"name": way, **OPTIONS[way]})
    assert parse_config(EncoderConfig, written.model_dump(mode="json"), source="again") == written


def test_without_a_name_it_is_expedit_and_without_a_section_nothing() -> None:
    assert built(OPTIONS["expedit"]).walk == TokenReduction(settings("expedit"), 3)
    assert built(None).walk is None


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"name": "tom", "merged": 0.1}, "unknown way to reduce tokens 'tom'; did you mean 'tome'"),
        ({"name": "tome", "share": 0.1}, "'tome': 'merged': Field required; unknown key 'share'"),
        ({"name": "tome", "merged": 0.6}, "'merged': Input should be less than or equal to 0.5"),
        ({"name": "tome", "merged": 0.1, "after": 2}, "so be at most 1, got 2"),
        ({"after": 1, "merged": 0.1}, "'expedit': unknown key 'merged'"),
        ({"after": 2}, "so be at most 1, got 2"),
        ({"after": 1, "window": 4}, "must be odd, got 4"),
        ({"name": "transform", "after": 2}, "so be at most 1, got 2"),
        ({"name": "transform", "after": 1, "left": 1}, "'left': Input should be less than 1"),
        ({"name": "stop"}, "so be at most 1, got 8"),
        (
            {"name": "stop", "after": [1, 1]},
            r"must be rising numbers of blocks from 1, such as \[6, 8\], got \[1, 1\]",
        ),
        ({"name": "stop", "after": [0, 1]}, "must be rising numbers of blocks from 1"),
        ({"name": "stop", "after": []}, "must be rising numbers of blocks from 1"),
        (4, "expected a way and its options, such as {name: tome, merged: 0.05}, got 4"),
    ],
)
def test_what_cannot_be_is_refused(tokens: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        built(tokens)
    assert "Value error" not in str(raised.value)


def test_shares_that_leave_no_patch_are_refused() -> None:
    config = WAYS["stop"](after=(1, 2), share=0.5)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"share must be below 1 / 2, .* stop 2 times, got 0\.5"):
        TokenReduction(config, 5)


@pytest.mark.parametrize("way", WAYS)
def test_recipes_of_earlier_blocks_and_rotary_towers_are_refused(way: str) -> None:
    with pytest.raises(ConfigError, match="recipe 'resclip' reads what entered earlier blocks"):
        built({"name": way, **OPTIONS[way]}, recipe=RecipeConfig(name="resclip"))
    rotary = TimmEva(build_network("eva-fused"))
    rotary.walk = TokenReduction(settings(way), 3)
    with pytest.raises(ConfigError, match="without rotary positions"):
        rotary.prefix(torch.zeros(1, 3, 32, 32))
