"""Selecting by clicks, boxes, scribbles, masks and words: by the toy's features, and by a SAM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy import COLOURS, make_segmenter
from torch import Tensor

from ovseg.errors import ConfigError, ImageError, ShapeError, VocabularyError
from ovseg.images.geometry import ImageGeometry
from ovseg.pipeline.segmenter import Segmenter
from ovseg.pipeline.selection import by_sam
from ovseg.pipeline.selection.prompts import SCRIBBLE_POINTS, join_prompts, sample_scribble
from ovseg.pipeline.selection.select import sam_of
from ovseg.result import Selection, SelectionPrompts
from ovseg.sam import PromptedSam, SamEmbedding
from ovseg.sam.decoder import Multimask
from ovseg.sam.protocol import Prompts
from ovseg.vocabulary.labels import Concept

SIZE = (64, 128)


def picture() -> np.ndarray:
    """Two red squares, the left one above a green one, on grey; all borders lie on cells of 8 pixels."""
    image = np.full((*SIZE, 3), 120, np.uint8)
    image[8:32, 16:40] = COLOURS["red"]
    image[8:32, 80:104] = COLOURS["red"]
    image[32:56, 16:40] = COLOURS["green"]
    return image


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


LEFT, RIGHT, GREEN = rectangle(16, 8, 40, 32), rectangle(80, 8, 104, 32), rectangle(16, 32, 40, 56)


def share(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.fixture(scope="module")
def toy() -> Segmenter:
    """The toy, whose objects are connected parts of the label map; what selects by a SAM takes the embedded one."""
    return make_segmenter().with_objects(masks="map", sharpen=None)


# by features


def test_a_click_selects_what_looks_alike_and_hangs_together(toy: Segmenter) -> None:
    found = toy.select(picture(), positive=[(28, 20)], using="features")
    assert share(found.mask, LEFT) > 0.75 and not found.mask[20, 90]
    assert found.using == "features" and found.level == "whole" and 0 < found.score <= 1
    areas = [found.at(level).area for level in ("whole", "part", "subpart")]
    assert areas == sorted(areas, reverse=True)


def test_a_positive_click_outside_grows_and_a_negative_one_inside_cuts_away(toy: Segmenter) -> None:
    encoded = toy.encode(picture())
    first = toy.select(encoded, positive=[(28, 20)], using="features")
    both = toy.select(encoded, positive=[(92, 20)], previous=first, using="features")
    assert share(both.mask, LEFT | RIGHT) > 0.75
    assert both.prompts.positive == ((28, 20), (92, 20))
    green = toy.select(encoded, positive=[(28, 44)], previous=first, using="features")
    assert share(green.mask, LEFT | GREEN) > 0.75
    less = toy.select(encoded, negative=[(36, 28)], previous=green, using="features")
    assert not less.mask[28, 36] and less.mask[44, 28] and less.area < green.area


def test_a_box_a_mask_and_a_scribble_select_by_features_too(toy: Segmenter) -> None:
    encoded = toy.encode(picture())
    boxed = toy.select(encoded, box=(14, 6, 42, 34), using="features")
    assert share(boxed.mask, LEFT) > 0.75
    x0, y0, x1, y1 = boxed.box or (0, 0, 0, 0)
    assert x0 >= 14 and y0 >= 6 and x1 <= 42 and y1 <= 34
    rough = toy.select(encoded, mask=rectangle(18, 10, 36, 30), using="features")
    assert share(rough.mask, LEFT) > 0.6 and not rough.mask[20, 92]
    drawn = toy.select(encoded, scribble=[(20, 20), (36, 20)], using="features")
    assert share(drawn.mask, LEFT) > 0.75 and len(drawn.prompts.positive) == SCRIBBLE_POINTS


def test_words_select_their_surest_region_and_a_click_says_which(toy: Segmenter) -> None:
    encoded = toy.encode(picture())
    alone = toy.select(encoded, text="green", using="features")
    (region,) = toy.segment(encoded, ["green"], instances=["green"]).instances or ()
    assert np.array_equal(alone.mask, region.mask()) and region.mask()[44, 28] and not region.mask()[20, 92]
    assert alone.score == region.score and alone.prompts.label == "green"
    other = toy.select(encoded, text="red", negative=[(28, 20)], using="features")
    assert other.mask[20, 92] and not other.mask[20, 28]  # the left one is ruled out
    clicked = toy.select(encoded, text=Concept("red"), positive=[(92, 20)], using="features")
    assert share(clicked.mask, RIGHT) > 0.75
    nothing = toy.select(encoded, text="blue", using="features")
    assert nothing.area == 0 and nothing.score == 0 and nothing.box is None


# by a SAM


class Told(PromptedSam):
    """Answers with squares around the last point, the larger the later in the list, and notes what it was asked."""

    def __init__(self, *, reads: bool) -> None:
        self.reads = reads
        self.asked: list[Prompts] = []
        self.encoded = 0
        self.halves = (16, 4, 8)  # pixels: the order of the three is not that of their size

    @property
    def reads_masks(self) -> bool:
        return self.reads

    def encode(self, image: Tensor) -> SamEmbedding:
        self.encoded += 1
        return SamEmbedding(ImageGeometry(SIZE, SIZE, (128, 128)), None)

    def _answers(
        self, embedding: SamEmbedding, parts: Iterator[Prompts], *, multimask: Multimask
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for part in parts:
            self.asked.append(part)
            on = torch.tensor([[64.0, 32.0]]) if part.points is None else part.points[0][part.labels[0] == 1]
            rows, columns = torch.meshgrid(torch.arange(32) * 4 + 2, torch.arange(32) * 4 + 2, indexing="ij")
            x, y = on[0].tolist() if len(on) else (64.0, 32.0)
            maps = [
                torch.where(torch.maximum((columns - x).abs(), (rows - y).abs()) < half, 5.0, -5.0)
                for half in (self.halves[0], *self.halves)
            ]
            quality = torch.tensor([[0.9, 0.85, 0.7, 0.95]])
            chosen = {False: slice(1), True: slice(1, 4), "all": slice(4)}[multimask]
            yield torch.stack(maps)[None, chosen], quality[:, chosen]


@pytest.fixture(params=[False, True], ids=["points-alone", "reads-masks"])
def told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Told:
    sam = Told(reads=request.param)
    monkeypatch.setattr(
        by_sam,
        "ask_sam",
        lambda photo, model: (sam, photo.once(f"sam {model}", lambda: sam.encode(photo.pixels))),
    )
    return sam


def test_a_click_is_read_as_a_whole_a_part_and_a_part_of_it(toy: Segmenter, told: Told) -> None:
    encoded = toy.encode(picture())
    found = toy.select(encoded, positive=[(64, 32)])
    assert [round(found.at(level).area ** 0.5 / 2) for level in ("whole", "part", "subpart")] == [16, 8, 4]
    # 0.95 + 0.04 ln(16²/8192) against 0.85 + 0.04 ln(32²/8192) and less
    assert found.level == "part" and found.score == pytest.approx(0.95) and found.using == "mobile-sam"
    assert told.asked[0].points is not None and told.asked[0].points.tolist() == [[[64, 32]]]
    toy.select(encoded, positive=[(20, 20)])
    assert told.encoded == 1  # the photo is embedded once


def test_rounds_ask_with_all_points_and_with_the_previous_answer_where_the_sam_reads_it(
    toy: Segmenter, told: Told
) -> None:
    encoded = toy.encode(picture())
    first = toy.select(encoded, positive=[(64, 32)])
    second = toy.select(encoded, negative=[(100, 50)], previous=first)
    asked = told.asked[-1]
    assert asked.points is not None and asked.labels is not None
    assert asked.points.tolist() == [[[64, 32], [100, 50]]] and asked.labels.tolist() == [[1, 0]]
    if told.reads_masks:
        assert asked.masks is not None and torch.equal(asked.masks[0], first.reading.logits)
    else:
        assert asked.masks is None and asked.boxes is None
    assert second.level is None and second.score == pytest.approx(0.9)
    third = toy.select(encoded, negative=[(100, 50)], previous=first.at("whole"))
    last = told.asked[-1]
    assert third.prompts.mask is first.levels["whole"].mask  # rounds to come stay near it too
    if told.reads_masks:
        assert last.masks is not None and torch.equal(last.masks[0], first.levels["whole"].logits)
    else:
        assert last.boxes is not None and last.boxes.tolist() == [[48, 16, 80, 48]]  # of the level that was chosen


def test_a_click_that_the_sam_ignores_still_counts(toy: Segmenter, told: Told) -> None:
    encoded = toy.encode(picture())
    first = toy.select(encoded, positive=[(30, 32)])
    grown = toy.select(encoded, positive=[(100, 32)], previous=first)  # the SAM answers to the first point alone
    assert grown.mask[32, 30] and grown.mask[32, 100]
    cut = toy.select(encoded, negative=[(36, 36)], previous=first)
    assert cut.mask[32, 30] and not cut.mask[36, 36] and cut.area < 32 * 32


def test_a_rough_mask_is_drawn_for_a_sam_that_reads_it_and_else_gives_box_and_points(
    toy: Segmenter, told: Told
) -> None:
    toy.select(picture(), mask=rectangle(40, 16, 80, 48))
    asked = told.asked[-1]
    if told.reads_masks:
        assert asked.masks is not None and asked.masks.shape == (1, 32, 32)
        drawn = asked.masks[0, :16] > 0  # the photo fills the upper half of the frame
        assert drawn[4:12, 10:20].all() and int(drawn.sum()) == 80 and (asked.masks[0, 16:] == 0).all()
    else:
        assert asked.boxes is not None and asked.boxes.tolist() == [[40, 16, 80, 48]]
        assert asked.points is not None and asked.points.shape == (1, SCRIBBLE_POINTS, 2)


def test_words_and_a_click_choose_the_level_that_is_most_like_the_region(toy: Segmenter, told: Told) -> None:
    told.halves = (30, 4, 12)
    plain = toy.select(picture(), positive=[(92, 20)])
    assert plain.level == "part"  # 0.95 by its own word
    told.halves = (16, 4, 30)
    assert toy.select(picture(), positive=[(92, 20)]).level == "whole"
    assert toy.select(picture(), positive=[(92, 20)], text="red").level == "part"  # as large as the region


# prompts


def test_a_scribble_becomes_a_few_points_evenly_along_it() -> None:
    assert sample_scribble([(0, 10), (80, 10)], SIZE) == ((10, 10), (30, 10), (50, 10), (70, 10))
    assert sample_scribble([(0, 0), (40, 0), (40, 40)], SIZE) == ((10, 0), (30, 0), (40, 10), (40, 30))
    assert sample_scribble([(5, 5)], SIZE) == ((5, 5),) and sample_scribble([(5, 5), (5, 5)], SIZE) == ((5, 5),)
    points = sample_scribble(rectangle(10, 10, 51, 12), SIZE)
    assert len(points) == SCRIBBLE_POINTS and all(10 <= x < 51 and 10 <= y < 12 for x, y in points)
    assert {10.5, 50.5} <= {x for x, _ in points}  # both ends


def test_rounds_join_their_prompts_and_a_new_box_takes_the_place_of_the_old() -> None:
    first = join_prompts(SIZE, None, positive=[(1, 2)], box=(0, 0, 10, 10), text="mug")
    second = join_prompts(SIZE, first, positive=np.array([[3, 4]]), negative=[(5, 6)], box=[0, 0, 500, 20])
    assert second.positive == ((1, 2), (3, 4)) and second.negative == ((5, 6),)
    assert second.box == (0, 0, 128, 20) and second.text == "mug"  # the box ends where the image does


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "to select by, got nothing"),
        ({"negative": [(1, 1)]}, "got negative points alone"),
        ({"positive": [(128, 3)]}, r"positive must lie in the image of 128 x 64 pixels, got \(128, 3\)"),
        ({"negative": [(3, -1)], "positive": [(1, 1)]}, "negative must lie in the image"),
        ({"positive": [(float("nan"), 3)]}, "must lie in the image"),
        ({"positive": (3, 4)}, r"a list of points \(x, y\)"),
        ({"positive": "3,4"}, r"a list of points \(x, y\)"),
        ({"positive": [(3.2, 4)], "negative": [(3.9, 4.5)]}, r"on the thing or off it, got both at \(3, 4\)"),
        ({"box": (10, 10, 10, 20)}, "box must have an area"),
        ({"box": (10, 10, 5, 20)}, "x0 below x1"),
        ({"box": (1, 2, 3)}, "give four numbers"),
        ({"box": (200, 2, 300, 9)}, "box must lie in the image"),
        ({"mask": np.ones((64, 127), bool)}, r"mask must be \(64, 128\) bool .* got \(64, 127\)"),
        ({"mask": np.ones(SIZE, np.uint8)}, "got .* uint8"),
        ({"mask": np.zeros(SIZE, bool)}, "mask must have at least one pixel"),
        ({"scribble": np.zeros(SIZE, bool)}, "scribble must have at least one pixel"),
        ({"scribble": np.ones((3, 3), bool)}, r"scribble must be \(64, 128\) bool"),
        ({"scribble": [(5, 500)]}, "scribble must lie in the image"),
    ],
)
def test_prompts_that_cannot_be_are_refused_in_one_sentence(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message) as refused:
        join_prompts(SIZE, None, **given)
    assert "\n" not in str(refused.value)


def test_what_does_not_fit_the_image_or_the_segmenter_is_refused(toy: Segmenter) -> None:
    first = toy.select(picture(), positive=[(28, 20)], using="features")
    assert isinstance(toy.select(picture(), negative=[(92, 20)], previous=first, using="features"), Selection)
    with pytest.raises(ImageError, match="previous must be a selection in this image, got one of another"):
        toy.select(255 - picture(), positive=[(28, 20)], previous=first)
    with pytest.raises(ConfigError, match="using must be 'sam', 'features' or None, got 'samm'"):
        toy.select(picture(), positive=[(28, 20)], using="samm")  # type: ignore[arg-type]
    with pytest.raises(VocabularyError, match="text must be one label"):
        toy.select(picture(), text="cat, dog")
    with pytest.raises(ShapeError, match="got both"):
        toy.select(picture(), negative=[(28, 20)], previous=first)  # of the round before


def test_the_sam_is_that_of_the_model_file_or_the_embedded_one(toy: Segmenter) -> None:
    assert sam_of(toy) == "mobile-sam"
    assert sam_of(toy.with_objects(masks="map")) == "mobile-sam"
    assert sam_of(toy.with_objects(masks="facebook/sam-vit-base")) == "facebook/sam-vit-base"
    assert SelectionPrompts().label == "selection"


# the embedded SAM


def test_the_embedded_sam_selects_corrects_and_cuts_away(toy: Segmenter) -> None:
    encoded = toy.encode(picture())
    first = toy.select(encoded, positive=[(92, 20)])
    assert max(share(each.mask, RIGHT) for each in first.levels.values()) > 0.9
    grown = toy.select(encoded, positive=[(28, 20)], previous=first)
    assert grown.mask[20, 28] and grown.mask[20, 92]
    boxed = toy.select(encoded, box=(14, 6, 42, 34))
    assert share(boxed.mask, LEFT) > 0.9
