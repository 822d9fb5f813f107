"""Recipes of the last block, run on the towers that users run them on, against the authors' code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.golden import Case, open_clip_visual
from torch import Tensor, nn

from ovseg.attention import RecipeConfig
from ovseg.attention.structured import (
    merge_regions,
    pair_cosines,
    region_scope,
    resize_numbers,
    softmax_within,
)
from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.recipe_encoder import RecipeEncoder
from ovseg.encoders.spec import EncoderSpec
from ovseg.encoders.structure import StructureEncoder, renormalise
from ovseg.encoders.timm_vit import TimmViT
from ovseg.models.assemble import CLIP_MEAN, CLIP_STD, assemble
from ovseg.models.config import EncoderConfig, read_model_config

OFFSET = 0.1  # of the resampled positions, in all cases but MaskCLIP's own


def tower_of(case: Case) -> OpenClipViT:
    tower = OpenClipViT(open_clip_visual(case))
    tower.position_offset = OFFSET
    return tower


def spec_of(tower: OpenClipViT) -> EncoderSpec:
    return EncoderSpec("golden", "golden", tower.stride, tower.channels, CLIP_MEAN, CLIP_STD)


class Given(nn.Module):
    """A structure encoder that answers what the case gives."""

    def __init__(self, features: Tensor, stride: int) -> None:
        super().__init__()
        self.features = nn.functional.normalize(features, dim=1)
        self.spec = EncoderSpec("given", "given", stride, features.shape[1], CLIP_MEAN, CLIP_STD)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.features


def patches_of(encoder: RecipeEncoder, pixels: Tensor) -> Tensor:
    """(B, h·w, C) before they are brought to unit length."""
    tokens = encoder.tower.prefix(pixels, keep=encoder._recipe.history)
    structure = encoder._structure_of(pixels)
    block = encoder._last_block(tokens, structure, encoder._regions_of(pixels, structure))
    found = encoder._finish(encoder._recipe.run(block, encoder._config.options), tokens)
    return found.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("clip_plain", "plain"), ("sclip", "sclip"), ("naclip", "naclip"), ("clearclip", "clearclip")],
)
def test_last_blocks_are_those_of_the_released_code(name: str, recipe: str) -> None:
    case = Case(name)
    tower = tower_of(case)
    sigma = case.facts.get("hyper_parameters", {}).get("gaussian_std")
    config = RecipeConfig(name=recipe, options={} if sigma is None else {"sigma": sigma})
    encoder = RecipeEncoder(tower, spec_of(tower), recipe=config)
    for size in case.sizes("input.image"):
        pixels = case[f"input.image_{size}"]
        case.close(patches_of(encoder, pixels)[0], case[f"expected.patches_{size}"])
        if f"expected.class_{size}" in case.tensors:
            case.close(tower.image_vector(pixels)[0], case[f"expected.class_{size}"])


@pytest.mark.parametrize(
    ("form", "encoder"),
    [
        ("released", read_model_config("clip-b16-maskclip-released").encoder),
        ("quickgelu", {"recipe": {"name": "maskclip-released"}, "position_offset": 0.0}),
        ("no_residual", {"recipe": {"name": "maskclip"}, "position_offset": OFFSET}),
    ],
)
def test_maskclip_is_that_of_its_authors_and_that_of_later_comparisons(form: str, encoder: Any) -> None:
    case = Case("maskclip")
    tower = tower_of(case)
    config = read_model_config("clip-b16-maskclip-released")
    if isinstance(encoder, dict):
        encoder = EncoderConfig.model_validate({"kind": "openclip", "name": "any", **encoder})
    built, _ = assemble(tower, spec_of(tower), config.model_copy(update={"encoder": encoder}), None)
    for size in case.sizes("input.image"):
        case.close(patches_of(built, case[f"input.image_{size}"])[0], case[f"expected.{form}_{size}"])


def dino_of(case: Case, feature: str) -> StructureEncoder:
    from ovseg._torchvision import ensure_torchvision

    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    sizes = case.facts["structure_net"]
    network = VisionTransformer(
        img_size=sizes["native_image"],
        patch_size=sizes["patch"],
        embed_dim=sizes["dim"],
        depth=sizes["blocks"],
        num_heads=sizes["heads"],
        mlp_ratio=sizes["mlp_ratio"],
        num_classes=0,
    )
    network.load_state_dict(case.state("dino"))
    tower = TimmViT(network.eval().requires_grad_(False))
    tower.position_offset = OFFSET
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return StructureEncoder(
        tower, EncoderSpec("dino", "dino", tower.stride, sizes["dim"], mean, std), feature=feature
    )


def test_the_structure_network_is_that_of_proxyclip() -> None:
    case = Case("proxyclip")
    tokens, joint = (dino_of(case, feature) for feature in ("tokens", "query+key"))
    clip = EncoderSpec("clip", "clip", 16, 1, CLIP_MEAN, CLIP_STD)
    for size in case.sizes("input.image"):
        pixels = renormalise(case[f"input.image_{size}"], clip, tokens.spec)
        if f"expected.structure_image_{size}" in case.tensors:
            case.close(pixels, case[f"expected.structure_image_{size}"])
        expected = case[f"expected.structure_tokens_{size}"]
        case.close(tokens(pixels), nn.functional.normalize(expected, dim=1))
        torch.testing.assert_close(
            joint(pixels), case[f"expected.structure_query_plus_key_{size}"], atol=1e-3, rtol=1e-3
        )


def test_proxyclip_end_to_end() -> None:
    case = Case("proxyclip")
    tower, constants = tower_of(case), case.facts["hyper_parameters"]
    recipe = RecipeConfig(name="proxyclip", options={"shift": constants["beta"], "sharpness": constants["gamma"]})
    encoder = RecipeEncoder(tower, spec_of(tower), recipe=recipe, structure=dino_of(case, "tokens"))
    for size in case.sizes("expected.patches"):
        case.close(patches_of(encoder, case[f"input.image_{size}"])[0], case[f"expected.patches_{size}"])


@pytest.mark.parametrize(
    ("entry", "features", "beta", "gamma"),
    [
        ("image0", "structure", None, None),
        ("other_grid", "structure_other_grid", None, None),
        ("beta1_gamma10", "structure", 1.0, 10.0),
    ],
)
def test_proxyclip_with_given_structure(entry: str, features: str, beta: float | None, gamma: float | None) -> None:
    case = Case("proxyclip_given")
    tower, constants = tower_of(case), case.facts["hyper_parameters"]
    options = {"shift": beta or constants["beta"], "sharpness": gamma or constants["gamma"]}
    given = Given(case[f"input.{features}"][:1], stride=tower.stride)
    recipe = RecipeConfig(name="proxyclip", options=options)
    encoder = RecipeEncoder(tower, spec_of(tower), recipe=recipe, structure=given)
    case.close(patches_of(encoder, case["input.images"][:1])[0], case[f"expected.patches_{entry}"])


def test_proxyclip_of_a_batch_is_that_of_its_images() -> None:
    """The release multiplies the mean over the whole batch by beta; here no image changes another's features."""
    case = Case("proxyclip_given")
    tower = tower_of(case)
    encoder = RecipeEncoder(
        tower,
        spec_of(tower),
        recipe=RecipeConfig(name="proxyclip"),
        structure=Given(case["input.structure"], stride=tower.stride),
    )
    found = patches_of(encoder, case["input.images"])
    case.close(found[0], case["expected.patches_image0"])
    assert (found[0] - case["expected.patches_batch"][0]).abs().max() > 1e-3


def corrclip_inputs(case: Case, size: str) -> tuple[Tensor, Tensor]:
    """(1, S, h, w) structure features and (1, H, W) regions, −1 outside where the map has zeros."""
    height, width = (int(side) for side in size.split("x"))
    regions = case[f"input.regions_{size}"].long()
    cells = case[f"input.structure_{size}"]
    stride = int((height * width / len(cells)) ** 0.5)
    structure = cells.T.reshape(1, -1, height // stride, width // stride)
    return structure, (regions - int((regions == 0).any()))[None]


def test_the_scope_of_corrclip() -> None:
    case = Case("corrclip_scope")
    for size in case.sizes("input.structure"):
        structure, regions = corrclip_inputs(case, size)
        sampled = resize_numbers(regions, (structure.shape[-2], structure.shape[-1]))
        shift = int(case[f"input.regions_{size}"].min() == 0)
        assert torch.equal(sampled[0] + shift, case[f"expected.sampled_{size}"].long())
        merged = merge_regions(structure, sampled, distance=case.facts["hyper_parameters"]["dbscan_eps"])
        theirs = case[f"expected.merged_{size}"].flatten()
        ours = merged.flatten()
        assert torch.equal(ours[:, None] == ours, theirs[:, None] == theirs)
        cosines = pair_cosines(structure)
        scope = region_scope(cosines, merged.flatten(1))
        assert torch.equal(scope[0].long(), case[f"expected.scope_{size}"].long())
        weights = softmax_within(cosines * case.facts["hyper_parameters"]["temperature"], scope)
        atol = case.facts["tolerance_float32"]["weights_atol"]
        torch.testing.assert_close(weights[0], case[f"expected.weights_{size}"], atol=atol, rtol=0)


def test_the_features_of_corrclip() -> None:
    case = Case("corrclip_features")
    tower, constants = tower_of(case), case.facts["hyper_parameters"]
    recipe = RecipeConfig(
        name="corrclip",
        layers=constants["spatial_layers"],
        options={
            "sharpness": constants["temperature"],
            "spatial": constants["alpha"],
            "semantic": constants["beta"],
            "merge": constants["dbscan_eps"],
        },
    )
    for size in case.sizes("input.image"):
        structure, regions = corrclip_inputs(case, size)
        given = Given(structure, stride=regions.shape[-1] // structure.shape[-1])
        given.features = structure
        encoder = RecipeEncoder(
            tower, spec_of(tower), recipe=recipe, structure=given, regions=lambda image, cells, r=regions: r[0]
        )
        pixels = case[f"input.image_{size}"]
        sampled = encoder._regions_of(pixels, structure)
        block = encoder._last_block(tower.prefix(pixels, keep=True), structure, sampled)
        attended = encoder._recipe.run(block, recipe.options)
        spatial, semantic = attended.branches
        apart = {
            "main": tower.merge(attended.values),
            "spatial": tower.merge(spatial.values),
            "semantic": semantic.values,
        }
        for branch, found in apart.items():
            expected = case[f"expected.{branch}_before_ln_post_{size}"]
            atol = case.facts["tolerance_float32"]["float16_entries_atol"]
            torch.testing.assert_close(found[0], expected, atol=atol, rtol=1e-3)
        case.close(patches_of(encoder, pixels)[0], case[f"expected.patches_{size}"])
