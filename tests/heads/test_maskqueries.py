"""Mask queries against slow loops and numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ovseg.config import parse_config
from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ConfigError, ShapeError
from ovseg.heads.base import IdentityHead, Phrases
from ovseg.heads.blocks import Block
from ovseg.heads.maskqueries import (
    SAM_CHANNELS,
    MaskQueries,
    MaskQueriesSettings,
    class_trust,
    open_cells,
    sine_positions,
)
from ovseg.weights import freeze

WIDTHS = {"features": 6, "text": 6, "joint": 6}
GRID = (3, 5)


def settings(**values: Any) -> MaskQueriesSettings:
    small = {"widths": WIDTHS, "queries": 4, "width": 8, "layers": 2, "attention_heads": 2, "inner": 12, "names": 3}
    return parse_config(MaskQueriesSettings, {**small, **values}, source="test")


def head(**values: Any) -> MaskQueries:
    torch.manual_seed(0)
    made = MaskQueries(IdentityHead("toy"), settings(**values))
    made.remember(torch.eye(6)[:3])
    freeze(made)
    return made


def features(batch: int = 1, seed: int = 1) -> DenseFeatures:
    maps = torch.randn(batch, 6, *GRID, generator=torch.Generator().manual_seed(seed))
    return DenseFeatures(maps, "toy", 16)


def test_two_images_together_answer_as_each_alone_on_a_grid_twice_as_fine() -> None:
    made, both = head(), features(2)
    (answer,) = made.answers(made.pixels(both))
    assert answer.masks.shape == (2, 4, 6, 10) and answer.vectors.shape == (2, 4, 6)
    torch.testing.assert_close(answer.vectors.norm(dim=-1), torch.ones(2, 4))
    for row in range(2):
        (alone,) = made.answers(made.pixels(both.of_image(row)))
        torch.testing.assert_close(alone.masks[0], answer.masks[row], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.vectors[0], answer.vectors[row], atol=1e-5, rtol=1e-4)


def test_open_blocks_in_training_end_as_at_test_with_an_answer_before_each_block() -> None:
    made = head()
    for number, weights in enumerate(made.parameters()):
        weights.copy_(torch.randn(weights.shape, generator=torch.Generator().manual_seed(number)))
    given = made.pixels(features())
    answers = made.answers(given, closed=[False, False])
    assert len(answers) == 3
    torch.testing.assert_close(answers[-1].masks, made.answers(given)[-1].masks)
    closed = made.answers(given, closed=[True, True])
    torch.testing.assert_close(closed[0].masks, answers[0].masks)
    assert not torch.allclose(closed[-1].masks, answers[-1].masks)


def test_masks_that_cover_everything_leave_attention_as_it_is() -> None:
    block = freeze(Block(8, heads=2, inner=12))
    tokens = torch.randn(2, 2 + 15, 8, generator=torch.Generator().manual_seed(0))
    allowed = open_cells(torch.ones(2, 2, *GRID), GRID)
    torch.testing.assert_close(block(tokens, allowed), block(tokens))


def slow_block(block: Any, tokens: Tensor, allowed: Tensor) -> Tensor:
    """One image, one head and one token at a time."""
    normed, attention = block.norm(tokens), block.attention
    query, width = attention.query(normed), tokens.shape[1]
    key, value = attention.key_value(normed).split(width, dim=1)
    size = width // attention.heads
    mixed = torch.zeros_like(tokens)
    for part in range(attention.heads):
        own = slice(part * size, (part + 1) * size)
        for row in range(len(tokens)):
            seen = [other for other in range(len(tokens)) if allowed[row, other]]
            weights = [math.exp(float(query[row, own] @ key[other, own]) / size**0.5) for other in seen]
            for weight, other in zip(weights, seen, strict=True):
                mixed[row, own] += weight / sum(weights) * value[other, own]
    tokens = tokens + attention.out(mixed)
    result: Tensor = tokens + block.inner(block.inner_norm(tokens))
    return result


def test_masked_attention_equals_a_loop_over_the_cells_that_are_open() -> None:
    torch.manual_seed(1)
    block: Any = freeze(Block(8, heads=2, inner=12))
    tokens = torch.randn(2, 2 + 6, 8)
    allowed = open_cells(torch.randn(2, 2, 2, 3), (2, 3))
    found = block(tokens, allowed)
    for row in range(2):
        torch.testing.assert_close(found[row], slow_block(block, tokens[row], allowed[row, 0]))


def test_a_query_sees_the_cells_of_its_mask_and_with_an_empty_one_all() -> None:
    masks = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    allowed = open_cells(masks, (2, 2))[0, 0]
    assert allowed.shape == (6, 6)
    assert allowed[0].tolist() == [True, True, True, False, False, True]
    assert allowed[1:].all()


def test_positions_differ_from_cell_to_cell() -> None:
    found = sine_positions((3, 5), 8)
    assert found.shape == (15, 8) and len(torch.unique(found, dim=0)) == 15
    row, column = 1, 3  # half a wave down the image is the first of two rates of the rows
    assert found[row * 5 + column, 0] == pytest.approx(math.sin(2 * math.pi * 1.5 / 3 * 0.5), abs=1e-6)
    assert found[row * 5 + column, 4] == pytest.approx(math.sin(2 * math.pi * 3.5 / 5 * 0.5), abs=1e-6)


def test_names_are_compared_by_cosine_and_nothing_is_one_of_them() -> None:
    made = head()
    made.log_scale.fill_(math.log(10))
    made.marks.copy_(torch.eye(6)[5:] * 7)
    vector = torch.tensor([0.6, 0.0, 0.0, 0.0, 0.0, 0.8])
    torch.testing.assert_close(made.class_logits(vector, torch.eye(6)[:2] * 3), torch.tensor([6.0, 0.0]))
    torch.testing.assert_close(made.training_logits(vector), torch.tensor([6.0, 0.0, 0.0, 8.0]))
    nothing = math.exp(8) / (math.exp(6) + 2 + math.exp(8))
    assert float(made.objectness(vector)) == pytest.approx(1 - nothing, rel=1e-5)


def test_things_without_names_are_told_from_nothing_alone() -> None:
    made = head(agnostic=True)
    made.log_scale.fill_(math.log(10))
    made.marks.copy_(torch.eye(6)[4:])  # void, any thing
    vector = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.6, 0.8])
    torch.testing.assert_close(made.training_logits(vector), torch.tensor([8.0, 6.0]))
    assert float(made.objectness(vector)) == pytest.approx(1 / (1 + math.exp(-2)), rel=1e-5)


def test_a_class_near_the_names_trained_on_takes_more_of_the_querys_own_answer() -> None:
    own, below = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.3, 0.7]])
    found = head(own=0.5).fused(own, below, torch.tensor([1.0, 0.4]))
    first, second = 0.5 * 0.8 + 0.5 * 0.3, 0.2 * 0.2 + 0.8 * 0.7
    torch.testing.assert_close(found, torch.tensor([[first, second]]) / (first + second))
    torch.testing.assert_close(head(own=0.5).fused(own, below, torch.zeros(2)), below)
    torch.testing.assert_close(head(residual=False).fused(own, below, torch.ones(2)), own)


def test_geometric_fusion_has_the_powers_of_its_paper_and_only_by_name() -> None:
    assert settings().fusion == "nearness"
    own, below = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.3, 0.7]])
    found = head(fusion="geometric").fused(own, below, torch.tensor([1.0, 0.4]))
    first, second = 0.8**0.6 * 0.3**0.4, 0.2**0.2 * 0.7**0.8
    torch.testing.assert_close(found, torch.tensor([[first, second]]) / (first + second))


def test_trust_grows_with_the_cosine_to_the_nearest_name() -> None:
    made = head(trust=0.5)
    vectors = torch.tensor([[1.0, 0, 0, 0, 0, 0], [0.8, 0, 0, 0, 0, 0.6], [0.0, 0, 0, 0, 0, 1]])
    trust = made.phrases(vectors).trust
    assert trust is not None and trust.tolist() == pytest.approx([1.0, 0.6, 0.0])
    phrases = Phrases(vectors, trust=trust)
    assert class_trust(phrases, torch.tensor([1, 0, 1]), classes=2).tolist() == pytest.approx([0.6, 1.0])
    assert class_trust(Phrases(vectors), torch.tensor([0, 0, 1]), classes=2).tolist() == [1.0, 1.0]


def test_the_dense_map_below_keeps_its_scale() -> None:
    given = features()
    torch.testing.assert_close(head(base_scale=3.0).pixels(given).values, 3 * given.values)


def test_a_sam_changes_the_answer_and_is_refused_or_asked_for() -> None:
    made, plain = head(sam="mobile-sam"), head()
    given = made.pixels(features())
    sam = torch.randn(1, SAM_CHANNELS, 4, 6, generator=torch.Generator().manual_seed(2))
    one, other = made.answers(given, sam)[-1], made.answers(given, sam.flip(-1))[-1]
    assert one.masks.shape == (1, 4, 6, 10) and not torch.allclose(one.masks, other.masks)
    with pytest.raises(ShapeError, match="reads the embedding of 'mobile-sam', got sam=None"):
        made.answers(given)
    with pytest.raises(ShapeError, match=r"sam must be \(B=1, C=256, a, b\)"):
        made.answers(given, sam[:, :5])
    with pytest.raises(ShapeError, match="reads no SAM"):
        plain.answers(plain.pixels(features()), sam)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be trained before"):
        MaskQueries(IdentityHead("toy"), settings(names=0)).objectness(torch.ones(6))
    with pytest.raises(ShapeError, match="a flag for each of 2 blocks, got 1"):
        head().answers(head().pixels(features()), closed=[True])
    with pytest.raises(ConfigError, match="multiple of attention_heads"):
        settings(attention_heads=3)
    for values in ({"trust": None}, {"residual": False}):
        with pytest.raises(ConfigError, match="geometric needs trust and residual"):
            settings(fusion="geometric", **values)
