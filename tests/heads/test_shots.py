"""Heads that read shots, against slow float64 loops, numbers worked out by hand, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.slow_blocks import slow_attention, slow_block, slow_linear, slow_norm
from torch import Tensor
from torch.nn import functional

from ovseg.config import parse_config
from ovseg.errors import ConfigError, ShapeError, SpaceError
from ovseg.examples.shot import Kind, Lesson, Shot, View, Words
from ovseg.heads.base import IdentityHead
from ovseg.heads.blocks import Block
from ovseg.heads.labelanything import LabelAnything, LabelAnythingSettings, TwoWay
from ovseg.heads.maskqueries import sine_positions
from ovseg.heads.multimodal import INSIDE, OUTSIDE, WORDS, MultiModal, MultiModalSettings, best_of, parts_of
from ovseg.heads.registry import HeadConfig, build_head, check_spaces, spaces_of
from ovseg.heads.shots import SeenShot, ShotHead, TrainedSight
from ovseg.regions.clusters import spherical_kmeans
from ovseg.weights import freeze

WIDTH, GRID, CHANNELS = 8, (3, 4), 6
WIDTHS = {"features": CHANNELS, "text": CHANNELS, "joint": CHANNELS}
KINDS: dict[str, tuple[Any, Any]] = {
    "multimodal": (MultiModal, MultiModalSettings),
    "labelanything": (LabelAnything, LabelAnythingSettings),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(kind: str, **values: Any) -> Any:
    """In double precision, with every weight random, so that no part is idle."""
    made, settings = KINDS[kind]
    small = {"widths": WIDTHS, "width": WIDTH, "layers": 1, "attention_heads": 2, "inner": 12}
    built = made(IdentityHead("toy"), parse_config(settings, {**small, **values}, source="test"))
    freeze(built.double())
    for number, parameter in enumerate(built.parameters()):
        parameter.copy_(0.4 * draw(*parameter.shape, seed=number))
    return built


def view(seed: int, classes: int = 3) -> View:
    return View(
        functional.normalize(draw(CHANNELS, *GRID, seed=seed), dim=0),
        draw(classes, *GRID, seed=seed + 50),
        draw(3, *GRID),
    )


def shot(seed: int, label: int, kind: Kind = "mask") -> Shot:
    share = {
        "mask": draw(*GRID, seed=seed).clamp(0, 1),
        "box": functional.pad(torch.ones(2, 2), (1, 1, 0, 1)),
        "point": functional.one_hot(torch.tensor(5), 12).view(GRID),
    }[kind]
    return Shot(view(seed), label, share.double(), kind)


def lesson() -> Lesson:
    """Three labels: shown by mask and box and named; shown by a point without a name; named alone."""
    words = Words(draw(4, CHANNELS, seed=9), torch.tensor([0, 0, 1, 2]))
    shots = [shot(1, 0), shot(2, 0, "box"), shot(3, 1, "point")]
    return Lesson(shots, torch.tensor([2, 0, 1]), torch.tensor([True, False, True]), words)


def mapped(made: ShotHead, cells: Tensor) -> Tensor:
    """(n, C) cells in the head's space, one by one."""
    unit = cells / cells.norm(dim=1, keepdim=True) * CHANNELS**0.5
    mean, spread = unit.mean(1, keepdim=True), unit.var(1, unbiased=False, keepdim=True)
    return torch.stack([slow_linear(row, made.cells_in[1]) for row in (unit - mean) / (spread + 1e-5).sqrt()])


def spoken(made: ShotHead, vectors: Tensor) -> Tensor:
    return torch.stack([slow_linear(slow_norm(row, made.words_in[0]), made.words_in[1]) for row in vectors])


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / one.norm() / other.norm())


def split(each: Shot) -> tuple[Tensor, Tensor]:
    """Positions of the cells that a shot points at, and of the others."""
    inside = (each.inside if each.kind == "mask" else each.share > 0).flatten()
    return inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]


def test_multimodal_prototypes_are_those_of_a_slow_loop() -> None:
    made, given = head("multimodal", parts=2, others=2), lesson()
    prototypes: list[tuple[int, int, Tensor]] = []
    for each in given.shots:
        cells = mapped(made, each.view.features.flatten(1).T)
        inside, outside = split(each)
        for kind, places in ((INSIDE, inside), (OUTSIDE, outside)):
            if kind == OUTSIDE and each.kind == "point":
                continue  # of the cells around a point nothing is known
            unit = torch.stack([row / row.norm() for row in cells[places]])
            owner = spherical_kmeans(unit.float(), 2)[1].tolist()
            for cluster in sorted(set(owner)):
                weights = [float(each.share.flatten()[p]) if kind == INSIDE else 1.0 for p in places.tolist()]
                rows = [(w, row) for w, row, o in zip(weights, unit, owner, strict=True) if o == cluster]
                total = sum(w for w, _ in rows)
                prototypes.append((each.label, kind, torch.stack([w * row / total for w, row in rows]).sum(0)))
    assert given.words is not None
    for number, vector in zip((0, 0, 2), spoken(made, given.words.vectors[[0, 1, 3]]), strict=True):
        prototypes.append((number, WORDS, vector))
    tokens = torch.stack([v / v.norm() * WIDTH**0.5 + made.marks[kind] for _, kind, v in prototypes])
    (block,) = made.blocks
    tokens = slow_block(tokens, block, lambda a, b: prototypes[a][0] == prototypes[b][0])
    seen = view(99)
    cells = mapped(made, seen.features.flatten(1).T)
    expected = torch.zeros(3, 12, dtype=torch.float64)
    for label in range(3):
        for place, cell in enumerate(cells):
            cosines = [
                (kind, cosine(token, cell))
                for (own, kind, _), token in zip(prototypes, tokens, strict=True)
                if own == label
            ]
            near = max(value for kind, value in cosines if kind != OUTSIDE)
            away = max([value for kind, value in cosines if kind == OUTSIDE] or [float(made.level)])
            gain = float(made.word_gain) if label == 2 else 1.0
            expected[label, place] = gain * float(made.log_scale.exp()) * (near - away)
    sight = made.learn(given)
    found = made.evidence(made.cells(seen), GRID, sight.taught)
    torch.testing.assert_close(found, expected.view(3, *GRID))


def slow_two_way(tokens: Tensor, cells: Tensor, at: Tensor, block: TwoWay) -> tuple[Tensor, Tensor]:
    def keyed(rows: Tensor) -> Tensor:
        return torch.stack([slow_norm(row, block.cell_norm) for row in rows]) + at

    tokens = slow_block(tokens, block.tokens.itself, lambda *_: True, cross=block.tokens, memory=keyed(cells))
    return tokens, cells + slow_attention(keyed(cells), tokens, block.cells, lambda *_: True)


def test_label_anything_is_that_of_a_slow_loop() -> None:
    made, given = head("labelanything", classes=4), lesson()
    positions = sine_positions(GRID, WIDTH).double()
    examples, owner = [made.bank[0]], [0]
    for each in given.shots:
        row, (inside, outside) = 1 + each.label, split(each)
        order = torch.cat([inside, outside])
        weight = torch.cat([each.share.flatten()[inside], torch.zeros(len(outside))])
        cells = mapped(made, each.view.features.flatten(1).T[order])
        tokens = made.kind_marks[["mask", "box", "point"].index(each.kind)] + made.bank[row]
        if each.kind == "mask":
            cells = cells + torch.stack([w * made.cell_marks[0] + (1 - w) * made.cell_marks[1] for w in weight])
        else:  # the box takes the cells from row 0, column 1 to row 1, column 2; the point is in row 1, column 1
            cells = cells + made.cell_marks[2]
            tokens = tokens + positions[[1, 6] if each.kind == "box" else [5, 5]]
        tokens, cells = slow_two_way(tokens, cells, positions[order], made.reading[0])
        pooled = sum(w * cell for w, cell in zip(weight, cells, strict=True)) / weight.sum()
        examples.append(pooled + tokens.mean(0) + made.bank[row]), owner.append(row)
        if each.kind != "point":
            rest = sum((1 - w) * cell for w, cell in zip(weight, cells, strict=True)) / (1 - weight).sum()
            examples.append(rest + made.bank[0]), owner.append(0)
    assert given.words is not None
    for vector in spoken(made, given.words.vectors[:2]):  # the second label has no name, the third no picture
        examples.append(vector + made.word_mark + made.bank[1]), owner.append(1)
    tokens = slow_block(torch.stack(examples), made.comparing[0], lambda *_: True)
    classes = torch.stack(
        [torch.stack([t for t, o in zip(tokens, owner, strict=True) if o == row]).mean(0) for row in range(3)]
    )
    seen = view(99)
    cells = mapped(made, seen.features.flatten(1).T)
    classes, cells = slow_two_way(classes, cells, positions, made.deciding[0])
    around = functional.pad(cells.T.view(WIDTH, *GRID), (1, 1, 1, 1))
    expected = torch.zeros(3, *GRID, dtype=torch.float64)
    for y in range(GRID[0]):
        for x in range(GRID[1]):
            mixed = torch.stack([(weights * around[:, y : y + 3, x : x + 3]).sum() for weights in made.mix.weight])
            cell = around[:, y + 1, x + 1] + mixed
            scores = [float(made.log_scale.exp()) * cosine(cell, row) for row in classes]
            expected[:2, y, x] = torch.tensor(scores[1:]) - scores[0]
    sight = made.learn(given)
    torch.testing.assert_close(made.evidence(made.cells(seen), GRID, sight.taught), expected)
    assert not expected[2].any(), "what no picture shows is left to words"


def plain(kind: str) -> Any:
    """A head whose blocks and marks are as before training, and whose space is that of the four channels."""
    made, settings = KINDS[kind]
    widths = {"features": 4, "text": 4, "joint": 4}
    small = {"widths": widths, "width": 4, "layers": 1, "attention_heads": 2, "inner": 4}
    built = freeze(made(IdentityHead("toy"), parse_config(settings, small, source="test")))
    built.cells_in[1].weight.copy_(torch.eye(4)), built.cells_in[1].bias.zero_()
    for name, parameter in built.named_parameters():
        if "mark" in name or name == "bank":
            parameter.zero_()
    return built


@pytest.mark.parametrize("kind", KINDS)
def test_one_shot_by_hand(kind: str) -> None:
    """Cells that are one of four channels have, less their mean, the cosine −1/3 with one another; the scale is
    10."""
    looks = torch.eye(4)
    taught = View(looks[[0, 1]].T[:, None], torch.zeros(2, 1, 2), torch.zeros(3, 1, 2))
    shown = Lesson([Shot(taught, 0, torch.tensor([[1.0, 0.0]]))], torch.tensor([1]), torch.tensor([True]))
    text = torch.tensor([[[0.0, 2, 0]], [[0, 1, 3]]])
    seen = View(looks[[0, 1, 2]].T[:, None], text, torch.zeros(3, 1, 3))
    trust, evidence = plain(kind).learn(shown)(seen)
    assert trust.tolist() == [0.5]  # one shot halves the say of words before training
    common = text.exp().sum(0).log()  # takes the other half
    by_hand = torch.tensor([[[40 / 3, -40 / 3, 0]]]) + 0.5 * common
    torch.testing.assert_close(evidence, by_hand, atol=2e-4, rtol=1e-4)


def test_without_a_name_sight_is_all_and_the_name_is_not_looked_at() -> None:
    taught = View(torch.eye(4)[[0, 1]].T[:, None], torch.zeros(2, 1, 2), torch.zeros(3, 1, 2))
    shown = Lesson([Shot(taught, 0, torch.tensor([[1.0, 0.0]]))], torch.tensor([1]), torch.tensor([False]))
    made = plain("multimodal")
    maps = [View(taught.features, torch.tensor([[[1.0, 4]], [[other, 0]]]), taught.colours) for other in (0.0, 9.0)]
    (trust, first), (_, second) = (made.learn(shown)(each) for each in maps)
    assert trust.tolist() == [0]
    torch.testing.assert_close(first, torch.tensor([[[40 / 3 + 1, -40 / 3 + 4]]]), atol=2e-4, rtol=1e-4)
    assert torch.equal(first, second)


def test_more_shots_leave_words_less_say() -> None:
    made, given = head("multimodal"), lesson()
    assert isinstance(sight := made.learn(given), TrainedSight)
    kept = float(made.log_shots.exp())
    assert sight.trust.tolist() == pytest.approx([kept / (kept + 2), 0, 1])


def test_parts_are_weighted_means_of_what_looks_alike() -> None:
    cells = torch.tensor([[2.0, 0], [4, 0], [0, 1], [0, 3]], dtype=torch.float64)
    weights = torch.tensor([1.0, 1, 0.5, 0.5], dtype=torch.float64)
    assert sorted(parts_of(cells, weights, count=2).tolist()) == [[0, 1], [1, 0]]
    ((x, y),) = parts_of(cells, weights, count=1).tolist()
    assert (x, y) == pytest.approx((2 / 3, 1 / 3))
    best = best_of(
        torch.tensor([[1.0], [3], [2]]), torch.tensor([0, 0, 1]), torch.tensor([True, False, True]), count=3
    )
    assert best[:, 0].tolist() == [1, 2, -torch.inf]


@pytest.mark.parametrize("kind", KINDS)
def test_before_training_blocks_change_nothing(kind: str) -> None:
    made = plain(kind)
    tokens, cells, at = torch.randn(1, 2, 4), torch.randn(1, 5, 4), torch.randn(1, 5, 4)
    for block in made.modules():
        if isinstance(block, TwoWay):
            assert all(torch.equal(a, b) for a, b in zip(block(tokens, cells, at), (tokens, cells), strict=True))
    for block in [*getattr(made, "blocks", []), *getattr(made, "comparing", [])]:
        assert isinstance(block, Block) and torch.equal(block(tokens), tokens)


def test_the_space_begins_as_whitened_principal_axes() -> None:
    made = head("multimodal", width=4).float()
    cells = made.read(View(draw(CHANNELS, 20, 30, seed=5), draw(1, 20, 30), draw(3, 20, 30)))
    made.start_from(cells)
    mapped = made.cells_in(cells)
    torch.testing.assert_close(mapped.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(mapped.T @ mapped / len(mapped), torch.eye(4), atol=1e-3, rtol=0)


def test_fewer_cells_of_a_shot_are_evenly_taken() -> None:
    made = head("multimodal", cells=2)
    seen: SeenShot = made._look(shot(2, 0, "box"))
    places = (seen.places[:, 0] * GRID[1] + seen.places[:, 1]).tolist()
    assert places == [1, 6, 0, 11] and seen.inside.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_shot_that_shows_nothing_is_refused_without_words(kind: str) -> None:
    empty = Shot(view(1), 0, torch.zeros(GRID, dtype=torch.float64))
    with pytest.raises(ShapeError, match="label 0 of 1 has neither: give another picture, or its name"):
        head(kind).learn(Lesson([empty], torch.tensor([0]), torch.tensor([True])))
    nameless = Words(draw(1, CHANNELS), torch.tensor([0]))
    with pytest.raises(ShapeError, match="has neither"):
        head(kind).learn(Lesson([empty], torch.tensor([0]), torch.tensor([False]), nameless))


def test_more_labels_than_the_bank_has_rows_are_refused() -> None:
    shots = [shot(number, number) for number in range(4)]
    many = Lesson(shots, torch.arange(4), torch.ones(4, dtype=torch.bool))
    with pytest.raises(ShapeError, match="at most 3 labels with pictures at once, got 4; show fewer"):
        head("labelanything", classes=4).learn(many)
    head("multimodal").learn(many)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_settings_and_weights_of_another_encoder_are_refused(kind: str) -> None:
    for wrong in ({"width": 12, "attention_heads": 5}, {"residual": False}, {"trust": 0.9}, {"width": 6}):
        with pytest.raises(ConfigError):
            head(kind, **wrong)
    made = build_head(
        HeadConfig(kind=kind, settings={"widths": WIDTHS}), IdentityHead("toy"), lambda: pytest.fail()
    )
    with pytest.raises(SpaceError, match="trained with feature space 'other', but this model has 'toy'"):
        check_spaces({**spaces_of(made), "feature_space": "other"}, made, source="head.safetensors")
    assert sum(p.numel() for p in made.parameters()) < 2_000_000
