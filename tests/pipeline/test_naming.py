"""Masks without names: which labels they take, and the objects that come of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.toy import COLOURS, make_segmenter

from ovseg.errors import ConfigError
from ovseg.pipeline.naming import UnnamedMasks, label_scores, named_objects, pooled
from ovseg.proposals.masks import Masks

RED = (slice(8, 40), slice(8, 40))
BLUE = (slice(8, 40), slice(72, 112))


def picture() -> np.ndarray:
    image = np.full((64, 128, 3), 120, np.uint8)
    image[RED], image[BLUE] = COLOURS["red"], COLOURS["blue"]
    return image


def square(place: tuple[slice, slice]) -> torch.Tensor:
    mask = torch.zeros(64, 128, dtype=torch.bool)
    mask[place] = True
    return mask


def test_a_mask_is_scored_by_what_is_in_it_what_is_around_it_and_how_much_of_the_label_it_holds() -> None:
    maps = torch.zeros(1, 1, 20)
    maps[0, 0, :10] = 0.8  # the object: ten cells
    masks = torch.zeros(2, 1, 20, dtype=torch.bool)
    masks[0, 0, :10] = True  # all of it: nothing around it
    masks[1, 0, 4:6] = True  # a piece: its four cells on each side show the label too
    whole, piece = label_scores(masks, maps)[:, 0].tolist()
    assert whole == pytest.approx(0.8)
    assert piece == pytest.approx((0.8 - 0.4) * 0.2**0.25)
    assert label_scores(masks[:0], maps).shape == (0, 1)


def test_a_mask_all_of_whose_surroundings_show_the_label_more_is_worth_nothing() -> None:
    maps = torch.full((1, 9, 9), 0.9)
    maps[0, 4, 4] = 0.3
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, 4, 4] = True
    assert float(label_scores(mask, maps)) == 0


def test_masks_take_the_label_that_they_show_and_copies_go() -> None:
    segmenter = make_segmenter()
    encoded = segmenter.encode(picture())
    logits = segmenter.logits(encoded, segmenter.queries(["red", "blue"], background=None))
    given = iter([(square(RED), 0.9), (square(BLUE), 0.8), (square(RED), 0.5), (square(RED) & False, 1.0)])
    found = UnnamedMasks.of(given, size=(64, 128))
    assert len(found.segments) == 3 and found.cells.shape == (3, 64, 128)
    objects = named_objects(found, logits, encoded, [0, 1], least_score=0.2, most=10)
    assert [(each.label, each.box) for each in objects] == [("red", (8, 8, 40, 40)), ("blue", (72, 8, 112, 40))]
    assert 0.2 < objects[1].score < objects[0].score <= 0.9
    assert named_objects(found, logits, encoded, [1], least_score=0.2, most=1) == objects[1:]
    assert named_objects(found, logits, encoded, [0], least_score=0.95, most=10) == []


def test_large_images_are_compared_on_256_cells() -> None:
    found = UnnamedMasks.of(iter([(torch.ones(600, 300, dtype=torch.bool), 1.0)]), size=(600, 300))
    assert found.cells.shape == (1, 256, 128) and found.segments[0].area == 600 * 300


def test_cuts_of_the_image_become_objects_of_its_labels() -> None:
    result = make_segmenter().with_objects(proposals="cuts").segment(picture(), ["red", "blue"], instances=True)
    assert result.instances is not None
    assert sorted(each.label for each in result.instances) == ["blue", "red"]
    for each, place in zip(sorted(result.instances, key=lambda one: one.box), (RED, BLUE), strict=True):
        truth = square(place).numpy()
        assert (each.mask() & truth).sum() / (each.mask() | truth).sum() > 0.8


@pytest.mark.slow
def test_a_small_sam_asked_everywhere_finds_both_objects() -> None:
    segmenter = make_segmenter().with_objects(proposals="sam", masks="mobile-sam")
    result = segmenter.segment(picture(), ["red", "blue"], instances=True)
    assert result.count("red") == result.count("blue") == 1


@pytest.mark.parametrize("way", ["sam", "universal"])
def test_a_network_that_proposes_must_be_named(way: str) -> None:
    with pytest.raises(ConfigError, match=f"proposals: {way} needs the name of a network"):
        make_segmenter().with_objects(proposals=way, masks="map")


def test_masks_of_a_universal_segmenter_become_objects_of_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def masks(image: torch.Tensor, *, model: str) -> Masks:
        asked.append(model)
        return iter([(square(RED), 0.9), (square(BLUE), 0.8)])

    monkeypatch.setattr("ovseg.pipeline.naming.universal_masks", masks)
    segmenter = make_segmenter().with_objects(proposals="universal", masks="some/mask2former")
    encoded = segmenter.encode(picture())
    for labels in (["red", "blue"], ["blue"]):
        result = segmenter.segment(encoded, labels, instances=True)
        assert result.instances is not None
        assert {each.label for each in result.instances} == set(labels)
    assert asked == ["some/mask2former"]  # once for both vocabularies


def test_support_is_the_mean_probability_of_the_label_inside_the_mask() -> None:
    segmenter = make_segmenter()
    encoded = segmenter.encode(picture())
    logits = segmenter.logits(encoded, segmenter.queries(["red", "blue"], background=None))
    masks = torch.zeros(2, 8, 16, dtype=torch.bool)  # cells of 8 pixels
    masks[0, 1:5, 1:5] = masks[1, 1:5, 1:5] = True
    probabilities = logits.probabilities(logits.values)
    means = pooled(logits, encoded, torch.tensor([0, 1]), masks)
    expected = [float(probabilities[label, 1:5, 1:5].mean()) for label in (0, 1)]
    assert means.tolist() == pytest.approx(expected, abs=0.02)
    assert pooled(logits, encoded, torch.tensor([0]), torch.zeros(1, 8, 16, dtype=torch.bool)).tolist() == [0]
