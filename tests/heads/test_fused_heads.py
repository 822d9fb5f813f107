"""Fusioner and DenseCLIP against slow loops in double precision, written from the papers' formulas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.slow_blocks import slow_block, slow_linear, slow_norm
from torch import Tensor

from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ConfigError, ModelError
from ovseg.heads.base import SCORES, FusionHead, IdentityHead, TrainableHead
from ovseg.heads.denseclip import DenseClip, DenseClipSettings, PhrasePyramid
from ovseg.heads.fusioner import Fusioner, FusionerSettings
from ovseg.weights import load_module

WIDTH, GRID, QUERIES, JOINT = 8, (3, 5), 4, 6
WIDTHS = {"features": JOINT, "text": JOINT, "joint": JOINT}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shaken(head: Any, seed: int = 3) -> Any:
    """The head in double precision with every weight random, so that no part is idle."""
    head = head.double().eval().requires_grad_(False)
    for number, parameter in enumerate(head.parameters()):
        parameter.copy_(draw(*parameter.shape, seed=seed + number) * 0.4)
    return head


def fusioner(**settings: Any) -> Fusioner:
    values = {"width": WIDTH, "layers": 2, "attention_heads": 2, "inner": 12, "inputs": "joint", "residual": False}
    values |= {"pixels": False}
    return shaken(
        Fusioner(IdentityHead("toy"), FusionerSettings.model_validate({"widths": WIDTHS, **values, **settings}))
    )


def denseclip(**settings: Any) -> DenseClip:
    values = {"contexts": 0, "width": WIDTH, "layers": 2, "attention_heads": 2, "pyramid": 0, "residual": False}
    made = DenseClipSettings.model_validate({"widths": WIDTHS, **values, **settings})
    return shaken(DenseClip(IdentityHead("toy"), made, lambda: pytest.fail("the text encoder was asked for")))


def features(batch: int = 2) -> DenseFeatures:
    return DenseFeatures(draw(batch, JOINT, *GRID, seed=1), "toy", 16)


# the slow versions: one cell, one phrase and one attention head at a time


def slow_convolution(maps: Tensor, layer: Any) -> Tensor:
    """3×3 with zeros around, by nine shifts."""
    rows, columns = maps.shape[1:]
    around = torch.zeros(maps.shape[0], rows + 2, columns + 2, dtype=maps.dtype)
    around[:, 1:-1, 1:-1] = maps
    out = torch.zeros(layer.weight.shape[0], rows, columns, dtype=maps.dtype)
    for y in range(rows):
        for x in range(columns):
            out[:, y, x] = (layer.weight * around[None, :, y : y + 3, x : x + 3]).sum((1, 2, 3)) + layer.bias
    return out


def slow_resize(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bilinear, pixel centres aligned, edges repeated; only for growing."""
    out = torch.zeros(maps.shape[0], *grid, dtype=maps.dtype)
    places = []
    for new, old in zip(grid, maps.shape[1:], strict=True):
        centres = [min(max((i + 0.5) * old / new - 0.5, 0), old - 1) for i in range(new)]
        places.append([(int(c), min(int(c) + 1, old - 1), c - int(c)) for c in centres])
    for y, (top, bottom, down) in enumerate(places[0]):
        for x, (left, right, along) in enumerate(places[1]):
            upper = maps[:, top, left] * (1 - along) + maps[:, top, right] * along
            lower = maps[:, bottom, left] * (1 - along) + maps[:, bottom, right] * along
            out[:, y, x] = upper * (1 - down) + lower * down
    return out


def slow_fusioner(head: Fusioner, pixels: Tensor, phrases: Tensor, late: bool, size: Any = None) -> Tensor:
    """Cosines of one image (C, h, w): norm, linear, norm | norm, linear, mark | blocks, norm | decoder | cosine."""
    cells = [pixels[:, y, x] for y in range(GRID[0]) for x in range(GRID[1])]
    norm, linear, after = head.visual_in
    visual = [slow_norm(slow_linear(slow_norm(cell, norm), linear), after) for cell in cells]
    norm, linear = head.text_in
    text = [slow_linear(slow_norm(phrase, norm), linear) + head.text_mark for phrase in phrases]
    tokens = torch.stack([*visual, *text])
    count = len(cells)
    for block in head.blocks:
        tokens = slow_block(tokens, block, lambda a, b: not late or (a < count) == (b < count))
    tokens = torch.stack([slow_norm(row, head.norm) for row in tokens])
    maps = torch.stack([slow_linear(row, head.visual_out) for row in tokens[:count]]).T.view(WIDTH, *GRID)
    for step, layer in enumerate(head.decoder.convolutions):
        if step:
            maps = slow_resize(maps, (2 * maps.shape[1], 2 * maps.shape[2]))
        maps = slow_convolution(maps, layer)
        mean, variance = maps.mean((1, 2), keepdim=True), maps.var((1, 2), unbiased=False, keepdim=True)
        maps = ((maps - mean) / (variance + 1e-5).sqrt()).clamp_min(0)
    last = head.decoder.out
    maps = torch.einsum("oc,chw->ohw", last.weight[:, :, 0, 0], maps) + last.bias[:, None, None]
    if size is not None:
        maps = slow_resize(maps, size)
    words = [slow_linear(row, head.text_out) for row in tokens[count:]]
    out = torch.zeros(len(words), *maps.shape[1:], dtype=maps.dtype)
    for q, word in enumerate(words):
        for y in range(maps.shape[1]):
            for x in range(maps.shape[2]):
                pixel = maps[:, y, x]
                out[q, y, x] = (pixel * word).sum() / pixel.norm() / word.norm()
    return out


@pytest.mark.parametrize(("fusion", "steps"), [("early", 0), ("early", 1), ("late", 1)])
def test_fusioner_equals_loops_over_cells_phrases_and_heads(fusion: str, steps: int) -> None:
    head = fusioner(fusion=fusion, upsamplings=steps)
    phrases = draw(QUERIES, JOINT, seed=2)
    found = head.fuse(head.pixels(features()), head.phrases(phrases))
    assert found.space == SCORES and found.stride == 16 // 2**steps
    for image in range(2):
        slow = slow_fusioner(head, features().values[image], phrases, fusion == "late") / 0.07
        torch.testing.assert_close(found.values[image], slow, atol=1e-8, rtol=1e-8)


def test_fusioner_compares_at_the_pixels_of_the_encoder_input() -> None:
    head = fusioner(upsamplings=1, pixels=True)
    phrases = draw(QUERIES, JOINT, seed=2)
    coarse = DenseFeatures(features().values, "toy", 3)  # 9 × 15 pixels, no multiple of the decoder's 6 × 10
    found = head.fuse(head.pixels(coarse), head.phrases(phrases))
    assert found.stride == 1 and found.structure is None
    slow = slow_fusioner(head, coarse.values[0], phrases, False, (9, 15)) / 0.07
    torch.testing.assert_close(found.values[0], slow, atol=1e-8, rtol=1e-8)


def test_fusioner_refuses_a_grid_that_does_not_fall_on_whole_pixels() -> None:
    head = fusioner(upsamplings=2)
    odd = DenseFeatures(features().values, "toy", 14)
    message = "must part cells of 14 pixels into whole pixels, got 4 parts to a side; set head.settings.pixels"
    with pytest.raises(ConfigError, match=message):
        head.fuse(head.pixels(odd), head.phrases(draw(QUERIES, JOINT, seed=2)))


def test_fusioner_takes_an_image_of_one_cell() -> None:
    """Its normalised map is zero, so every cosine is that of the last bias."""
    head = fusioner(upsamplings=0)
    one = DenseFeatures(draw(1, JOINT, 1, 1, seed=1), "toy", 16)
    phrases = draw(QUERIES, JOINT, seed=2)
    found = head.fuse(head.pixels(one), head.phrases(phrases)).values[0, :, 0, 0]
    _, words = head.fused(one.values, phrases)
    expected = torch.nn.functional.cosine_similarity(words[0], head.decoder.out.bias[None], dim=1) / 0.07
    torch.testing.assert_close(found, expected)


def test_the_head_below_moves_with_the_head_and_its_weights_stay_its_own() -> None:
    class Below(IdentityHead, torch.nn.Module):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            IdentityHead.__init__(self, "toy")
            self.weight = torch.nn.Parameter(torch.ones(2))

    below = Below()
    values = {"widths": WIDTHS, "width": WIDTH, "layers": 1, "attention_heads": 2, "inner": 12, "residual": False}
    head = Fusioner(below, FusionerSettings.model_validate({**values, "pixels": False}))
    torch.nn.Sequential(head).to("meta")
    assert below.weight.device.type == "meta"
    assert not any(value is below.weight for value in head.parameters())


def test_gain_and_offset_belong_to_the_scores_of_the_head_below() -> None:
    own = set(fusioner(residual=True).state_dict()) - set(fusioner(residual=False).state_dict())
    assert own == {"gain", "offset"}


@pytest.mark.parametrize(
    ("head", "gone", "message"),
    [
        (fusioner, {"decoder.0.weight": (WIDTH, WIDTH, 3, 3)}, "weights of Fusioner: .*decoder.0.weight"),
        (denseclip, {"decoder.0.memory_norm.weight": (WIDTH,)}, "weights of DenseClip: .*memory_norm"),
    ],
)
def test_weights_of_an_earlier_form_are_refused(head: Any, gone: Any, message: str) -> None:
    made = head()
    state = {**made.state_dict(), **{name: torch.zeros(shape) for name, shape in gone.items()}}
    with pytest.raises(ModelError, match=message):
        load_module(made, state, source="head.safetensors")


def slow_delta(head: DenseClip, pixels: Tensor, queries: Tensor, whole: Tensor | None = None) -> Tensor:
    """Queries look at [whole; cells] in a decoder, the mean of the cells where there is no whole."""
    cells = [pixels[:, y, x] for y in range(GRID[0]) for x in range(GRID[1])]
    norm, linear, after = head.memory_in
    first = sum(cells) / len(cells) if whole is None else whole
    memory = torch.stack([slow_norm(slow_linear(slow_norm(c, norm), linear), after) for c in [first, *cells]])
    norm, linear = head.query_in
    tokens = torch.stack([slow_linear(slow_norm(query, norm), linear) for query in queries])
    for block in head.decoder:
        tokens = slow_block(tokens, block.itself, lambda *_: True, cross=block, memory=memory)
    norm, linear = head.delta_out
    return torch.stack([slow_linear(slow_norm(row, norm), linear) for row in tokens])


@pytest.mark.parametrize("whole", [None, draw(2, JOINT, seed=8)])
def test_post_model_prompting_equals_loops(whole: Tensor | None) -> None:
    head = denseclip()
    phrases = draw(QUERIES, JOINT, seed=2)
    found = head.fuse(head.pixels(replace(features(), whole=whole)), head.phrases(phrases))
    assert found.space == SCORES and found.stride == 16 and found.values.shape == (2, QUERIES, *GRID)
    for image in range(2):
        pixels = features().values[image]
        text = phrases + head.gamma * slow_delta(head, pixels, phrases, None if whole is None else whole[image])
        for q, word in enumerate(text):
            for y in range(GRID[0]):
                for x in range(GRID[1]):
                    pixel = pixels[:, y, x]
                    cosine = float((pixel * word).sum() / pixel.norm() / word.norm())
                    assert float(found.values[image, q, y, x]) == pytest.approx(cosine / 0.07, abs=1e-8)


def test_the_pyramid_equals_convolving_features_and_score_map_put_together() -> None:
    """One level with resampling left out: relu([features; score] · w), 3×3, relu, 3×3, relu, 1×1."""
    pyramid = shaken(PhrasePyramid(JOINT, WIDTH, finest=2))
    pyramid.factors, pyramid.lateral = (2.0,), pyramid.lateral[:1]
    maps, scores = draw(1, JOINT, *GRID, seed=1), draw(1, 2, *GRID, seed=4)
    found = pyramid(maps, scores)
    for q in range(2):
        both = torch.cat([maps[0], scores[0, q][None]])
        weight = torch.cat([pyramid.reduce.weight[:, :, 0, 0], pyramid.score[:, None]], 1)
        joined = (torch.einsum("oc,chw->ohw", weight, both) + pyramid.reduce.bias[:, None, None]).clamp_min(0)
        level = slow_convolution(slow_resize(joined, (6, 10)), pyramid.lateral[0]).clamp_min(0)
        smooth = slow_convolution(level, pyramid.smooth).clamp_min(0)
        slow = (pyramid.out.weight[0] * smooth).sum(0)
        torch.testing.assert_close(found[0, q], slow, atol=1e-9, rtol=1e-9)


def test_the_pyramid_decodes_each_phrase_by_itself() -> None:
    head = denseclip(pyramid=4, residual=True, temperature=None)
    pixels, scores = features(1).values, draw(1, 130, *GRID, seed=4)
    assert head.pyramid is not None
    whole = head.pyramid(pixels, scores)  # in chunks
    alone = head.pyramid(pixels, scores[:, 70:71])
    torch.testing.assert_close(whole[:, 70:71], alone)
    assert whole.shape == (1, 130, 6, 10)


@pytest.mark.parametrize("kind", ["fusioner", "denseclip"])
def test_a_residual_head_starts_at_the_scores_of_the_head_below(kind: str) -> None:
    settings = {"widths": WIDTHS, "residual": True, "base_scale": 3.0}
    head: Any
    if kind == "fusioner":
        values = {"width": WIDTH, "layers": 1, "attention_heads": 2, "upsamplings": 0, "inputs": "encoder"}
        values |= {"pixels": False}
        head = Fusioner(IdentityHead("toy"), FusionerSettings.model_validate({**settings, **values}))
    else:
        values = {"width": WIDTH, "contexts": 0, "temperature": None, "gamma": 0.0, "pyramid": 4, "finest": 1}
        head = DenseClip(
            IdentityHead("toy"), DenseClipSettings.model_validate({**settings, **values}), lambda: pytest.fail("")
        )
    head = head.eval()
    assert isinstance(head, FusionHead) and isinstance(head, TrainableHead)
    dense = DenseFeatures(features().values.float(), "toy", 16)
    phrases = draw(QUERIES, JOINT, seed=2).float()
    found = head.fuse(head.pixels(dense), head.phrases(phrases))
    torch.testing.assert_close(found.values, 3 * torch.einsum("bchw,qc->bqhw", dense.values, phrases))


def test_the_auxiliary_loss_of_denseclip_weighs_0_4() -> None:
    head = denseclip(pyramid=4)
    graded = head.graded(head.pixels(features()), head.phrases(draw(QUERIES, JOINT, seed=2)))
    assert [weight for weight, _ in graded] == [1.0, 0.4]
    assert graded[0][1].shape == (2, QUERIES, 6, 10) and graded[1][1].shape == (2, QUERIES, *GRID)


def test_the_order_of_phrases_does_not_matter() -> None:
    phrases = draw(QUERIES, JOINT, seed=2)
    turned = torch.tensor([2, 0, 3, 1])
    for head in (fusioner(upsamplings=1), denseclip(pyramid=4)):
        one = head.fuse(head.pixels(features()), head.phrases(phrases)).values
        other = head.fuse(head.pixels(features()), head.phrases(phrases[turned])).values
        torch.testing.assert_close(one[:, turned], other)


def test_two_images_at_once_are_the_two_alone() -> None:
    phrases = draw(QUERIES, JOINT, seed=2)
    for head in (fusioner(upsamplings=1), denseclip(pyramid=4)):
        both = head.fuse(head.pixels(features()), head.phrases(phrases)).values
        for image in range(2):
            alone = DenseFeatures(features().values[image : image + 1], "toy", 16)
            torch.testing.assert_close(
                both[image : image + 1], head.fuse(head.pixels(alone), head.phrases(phrases)).values
            )


def test_names_unlike_all_trained_ones_keep_the_scores_of_the_head_below() -> None:
    """Trust is (cosine to the nearest trained name − 0.5) / 0.5 within [0, 1]."""
    head = fusioner(upsamplings=0, residual=True, trust=0.5, names=2)
    known = torch.eye(JOINT, dtype=torch.float64)[:2]
    head.remember(known)
    between = torch.zeros(JOINT, dtype=torch.float64)
    between[0], between[3] = 0.8, 0.6  # cosine 0.8 to the first
    phrases = torch.stack([known[0], torch.eye(JOINT, dtype=torch.float64)[4], between])
    assert head.phrases(phrases).trust.tolist() == pytest.approx([1.0, 0.0, 0.6])
    found = head.fuse(head.pixels(features()), head.phrases(phrases)).values
    below = torch.einsum("bchw,qc->bqhw", features().values, phrases)
    torch.testing.assert_close(found[:, 1], below[:, 1])
    assert not torch.allclose(found[:, 0], below[:, 0])


@pytest.mark.parametrize("head", [fusioner, denseclip])
def test_trained_names_win_no_cell_from_the_others(head: Any) -> None:
    made = head(residual=True, trust=0.98, names=2, **({"upsamplings": 0} if head is fusioner else {}))
    unit = torch.eye(JOINT, dtype=torch.float64)
    made.remember(unit[:2])
    found = made.fuse(made.pixels(features()), made.phrases(unit)).values
    below = features().values * made.base_scale
    if head is denseclip:  # its scores are cosines
        below = torch.nn.functional.normalize(features().values, dim=1) / made.settings.temperature
    torch.testing.assert_close(found[:, 2:], below[:, 2:])
    torch.testing.assert_close(found[:, :2].amax(1), below[:, :2].amax(1))
    assert not torch.allclose(found[:, :2], below[:, :2])
    assert torch.equal(found.argmax(1) < 2, below.argmax(1) < 2)


def test_contrast_takes_a_share_of_the_mean_over_the_image_off_the_score_below() -> None:
    head = fusioner(upsamplings=0, residual=True, contrast=0.4)
    head.gain.zero_(), head.offset.zero_()
    phrases = draw(QUERIES, JOINT, seed=2)
    found = head.fuse(head.pixels(features()), head.phrases(phrases)).values
    below = torch.einsum("bchw,qc->bqhw", features().values, phrases)
    for image in range(2):
        for query in range(QUERIES):
            mean = sum(below[image, query].flatten().tolist()) / (GRID[0] * GRID[1])
            torch.testing.assert_close(found[image, query], below[image, query] - 0.4 * mean)
