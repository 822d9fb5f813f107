"""What the masks of a SAM say of labels, with a SAM that draws squares around the points it is asked by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers.toy import make_segmenter
from torch import Tensor

from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ConfigError, ShapeError
from ovseg.images.geometry import ImageGeometry
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.prompted import drawn_by_sam, odds_of
from ovseg.sam import PromptedSam, SamEmbedding
from ovseg.sam.protocol import Prompts
from ovseg.vocabulary.labels import Concept

SIZE = (24, 32)


class SquareSam(PromptedSam):
    """Of a lone point, squares that reach 1, 2 and 30 cells of its masks; with a box, the box a cell larger."""

    def __init__(self) -> None:
        self.asked: list[Prompts] = []

    def encode(self, image: Tensor) -> SamEmbedding:
        return SamEmbedding(ImageGeometry(SIZE, SIZE, (32, 32)), None)

    def _answers(
        self, embedding: SamEmbedding, parts: Iterator[Prompts], *, multimask: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for part in parts:
            self.asked.append(part)
            assert part.points is not None
            x, y = (part.points[0, 0] / 4).int().tolist()
            squares = [(y - r, y + r + 1, x - r, x + r + 1) for r in (1, 2, 30)]
            if part.boxes is not None:
                left, top, right, bottom = (part.boxes[0] / 4).int().tolist()
                squares = [(top - 1, bottom + 1, left - 1, right + 1)]
            logits = torch.full((1, len(squares), 8, 8), -2.0)
            for mask, (top, bottom, left, right) in zip(logits[0], squares, strict=True):
                mask[max(top, 0) : bottom, max(left, 0) : right] = 2
            yield logits, torch.ones(1, len(squares))


@pytest.fixture
def sam(monkeypatch: pytest.MonkeyPatch) -> SquareSam:
    network = SquareSam()
    seen = network.encode(torch.empty(0))
    monkeypatch.setattr("ovseg.pipeline.prompted.ask_sam", lambda photo, model: (network, seen))
    return network


def photo() -> EncodedImage:
    """Six by eight cells of four pixels, as large as those of the SAM's masks."""
    features = DenseFeatures(torch.zeros(1, 1, 6, 8), "toy", 4)
    return EncodedImage(np.zeros((*SIZE, 3), np.uint8), features, ImageGeometry(SIZE, SIZE, SIZE))


def blocks(*places: tuple[int, int], low: float = -1.0) -> Tensor:
    """(6, 8) log odds: 1 in the 3 x 3 cells around some places, 2 at each, ``low`` elsewhere, lowest at the end."""
    odds = torch.full((6, 8), low)
    for row, column in places:
        odds[row - 1 : row + 2, column - 1 : column + 2] = 1
        odds[row, column] = 2
    odds[5, 7] -= 1
    return odds


def test_the_mask_with_the_largest_sum_of_log_odds_is_added(sam: SquareSam) -> None:
    """By hand: the 3 x 3 square holds 10; the 5 x 5 one, also its box grown, and the whole map hold less."""
    said = drawn_by_sam(blocks((2, 2))[None], photo(), model="mobile-sam", stride=4)
    expected = torch.full((6, 8), -3.0)
    expected[1:4, 1:4] = 3
    assert said[0].tolist() == expected.tolist()
    assert len(sam.asked) == 2


def test_prompts_are_the_likeliest_and_the_least_likely_place_and_then_the_box(sam: SquareSam) -> None:
    drawn_by_sam(blocks((2, 2))[None], photo(), model="mobile-sam", stride=4)
    first, second = sam.asked
    assert first.boxes is None
    assert first.points is not None
    assert first.points.tolist() == [[[10, 10], [30, 22]]]
    assert first.labels is not None
    assert first.labels.tolist() == [[1, 0]]
    assert second.boxes is not None
    assert second.boxes.tolist() == [[4, 4, 16, 16]]


def test_a_mask_grows_by_its_box_while_its_sum_does(sam: SquareSam) -> None:
    """The 5 x 5 square grows to all columns but the last, which costs more than it brings."""
    odds = blocks((2, 3), low=0.5)
    odds[:, 7] = -6
    said = drawn_by_sam(odds[None], photo(), model="mobile-sam", stride=4)
    expected = torch.full((6, 8), 3.0)
    expected[:, 7] = -3
    assert said[0].tolist() == expected.tolist()
    assert len(sam.asked) == 3


def test_each_object_of_a_label_has_its_mask(sam: SquareSam) -> None:
    odds = torch.stack([blocks((1, 1), (4, 5), low=-2), blocks((1, 6), low=-2)])
    said = drawn_by_sam(odds, photo(), model="mobile-sam", stride=4)
    assert torch.equal(said > 0, odds > 0)


def test_labels_that_are_likely_nowhere_are_left_alone(sam: SquareSam) -> None:
    said = drawn_by_sam(torch.full((1, 6, 8), -0.5), photo(), model="mobile-sam", stride=4)
    assert not said.any()
    assert not sam.asked


def test_masks_that_the_map_does_not_bear_out_do_not_count(sam: SquareSam) -> None:
    odds = torch.full((1, 6, 8), -4.0)
    odds[0, 2, 2] = 1  # a lone cell: the smallest mask holds eight others
    assert not drawn_by_sam(odds, photo(), model="mobile-sam", stride=4).any()
    assert len(sam.asked) == 2


def test_log_odds_by_hand() -> None:
    logits = torch.tensor([1.0, 2.0, 0.5])[:, None, None]
    others = torch.tensor([1.0, 0.5]).exp().sum().log()
    torch.testing.assert_close(odds_of(logits, torch.tensor([1])), (2 - others)[None, None, None])
    assert bool(odds_of(torch.tensor([100.0, 0.0])[:, None, None], torch.tensor([0])).isfinite())


def test_a_lone_map_is_refused() -> None:
    with pytest.raises(ShapeError, match="odds"):
        drawn_by_sam(torch.zeros(6, 8), photo(), model="mobile-sam", stride=4)


def test_a_model_file_may_ask_for_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a SAM says is added to the labels that are shown by pictures, and only where it is asked."""
    image = np.full((64, 96, 3), 120, np.uint8)
    image[21:43, 35:61] = (255, 0, 0)
    shown = np.zeros((64, 96), bool)
    shown[21:43, 35:61] = True
    plain = make_segmenter()
    concept = Concept("thing", images=[image], masks=[shown], use_name=False)
    asked: list[Tensor] = []

    def drawn(odds: Tensor, encoded: EncodedImage, *, model: str, stride: float) -> Tensor:
        asked.append(odds)
        assert model == "mobile-sam"
        return torch.full_like(odds, 50.0)

    monkeypatch.setattr("ovseg.pipeline.examples.drawn_by_sam", drawn)
    assert not bool(plain.segment(image, [concept, "blue"]).mask("thing").all())
    assert not asked
    found = plain.with_examples(masks="mobile-sam").segment(image, [concept, "blue"])
    assert bool(found.mask("thing").all())
    assert asked[0].shape[0] == 1
    assert plain.with_examples(masks="mobile-sam").config.examples.method == "auto"


def test_how_is_learned_is_part_of_what_a_result_is_known_by() -> None:
    plain, image = make_segmenter(), np.full((64, 96, 3), 120, np.uint8)
    ways = ({}, {"method": "insid3"}, {"masks": "mobile-sam"})
    shown = [plain.with_examples(**way).identity([Concept("thing", images=[image])])["asked"] for way in ways]
    words = [plain.with_examples(**way).identity(["thing"])["asked"] for way in ways]
    assert (len(set(shown)), len(set(words))) == (3, 1)


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="mask"):
        make_segmenter().with_examples(mask="mobile-sam")
