"""A detector's boxes as evidence for the label of cells."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.toy import COLOURS, SPACE, KnowingHead, ToyDetector, make_segmenter

from ovseg import Concept
from ovseg.models.sections import BoxesConfig
from ovseg.pipeline.boxes import BoxEvidence, absence, box_cover, class_shares, known_labels
from ovseg.pipeline.segmenter import Segmenter


def with_boxes(*boxes: tuple[float, float, float, float]) -> Segmenter:
    """The toy segmenter with a detector that finds these boxes red, whose scores are 0.9 down to 0.6."""
    plain = make_segmenter()
    detector = ToyDetector(*boxes)
    model = replace(plain.model, head=KnowingHead(SPACE), detector=lambda: detector)
    return Segmenter(model, device=torch.device("cpu"))


GREY = np.full((64, 128, 3), 120, np.uint8)


def test_a_box_covers_cells_in_whole_and_in_part() -> None:
    # cells of 10 x 10 pixels; the box ends in the middle of the second column and the third row
    (cover,) = box_cover(torch.tensor([[0.0, 10.0, 15.0, 25.0]]), size=(30, 40), grid=(3, 4))
    expected = torch.tensor([[0, 0, 0, 0], [1, 0.5, 0, 0], [0.5, 0.25, 0, 0]])
    torch.testing.assert_close(cover, expected)
    assert box_cover(torch.zeros(0, 4), size=(30, 40), grid=(3, 4)).shape == (0, 3, 4)


def test_a_label_gains_in_its_surest_box_and_loses_where_it_has_none() -> None:
    segmenter = with_boxes((0, 0, 64, 64), (0, 0, 128, 64))
    encoded = segmenter.encode(GREY)
    queries = segmenter.queries(["red", "blue"], background=None)
    before = segmenter.logits(encoded, queries)
    after = BoxEvidence(segmenter.model, BoxesConfig(inside=2.0, missed=0.3, shown=1))(before, encoded)
    added = after.values - before.values
    columns = added.shape[2]
    assert torch.allclose(added[0, :, : columns // 2], torch.tensor(2 * 0.9))
    assert torch.allclose(added[0, :, columns // 2 :], torch.tensor(2 * 0.6))
    undone = BoxEvidence(segmenter.model, BoxesConfig(inside=2.0, missed=0.3, shown=1)).undone(after, encoded)
    torch.testing.assert_close(undone.values, before.values)
    # the detector knows blue and sees none: one of two is shown, so 0.3 · 0.5 / (0.3 · 0.5 + 0.5)
    assert torch.allclose(added[1], torch.tensor(0.3 / 1.3).log())


def test_a_box_does_not_say_that_its_thing_fills_it() -> None:
    """The background gains what the label gains: between the two nothing changes, against other labels it does."""
    segmenter = with_boxes((0, 0, 64, 64))
    encoded = segmenter.encode(GREY)
    queries = segmenter.queries(["red", "white"], background=["green", "black"])
    before = segmenter.logits(encoded, queries)
    evidence = BoxEvidence(segmenter.model, BoxesConfig(inside=2.0, missed=0.3, shown=1))
    after = evidence(before, encoded)
    added = after.values - before.values
    inside = added[:, :, : added.shape[2] // 2]
    assert torch.allclose(inside[[0, 2, 3]], torch.tensor(2 * 0.9)) and bool((inside[1] < 0).all())
    assert torch.allclose(added[2:, :, added.shape[2] // 2 :], torch.tensor(0.0))
    torch.testing.assert_close(evidence.undone(after, encoded).values, before.values)


def test_unsure_boxes_are_no_boxes_and_heads_without_a_detector_are_left_alone() -> None:
    segmenter = with_boxes((0, 0, 64, 64))
    encoded = segmenter.encode(GREY)
    queries = segmenter.queries(["red"], background=None)
    before = segmenter.logits(encoded, queries)
    unsure = BoxEvidence(segmenter.model, BoxesConfig(least_score=0.95, missed=0.25))(before, encoded)
    torch.testing.assert_close(unsure.values, before.values + math.log(0.125 / 0.625))  # as without any box
    plain = make_segmenter()  # its head does not know a detector
    assert BoxEvidence(plain.model, BoxesConfig())(before, encoded) is before


def test_a_label_without_a_name_gains_nothing_by_it() -> None:
    """It is called red and shows blue: red boxes are none of its own, and of two labels one is asked of boxes."""
    segmenter = with_boxes((0, 0, 64, 64))
    shown = Concept("red", images=[np.full((64, 128, 3), COLOURS["blue"], np.uint8)], masks=[np.ones((64, 128))])
    encoded = segmenter.encode(GREY)
    evidence = BoxEvidence(segmenter.model, BoxesConfig(inside=2.0, missed=0.3, shown=1))
    for named, gains in ((True, 2 * 0.9), (False, 0.0)):
        queries = segmenter.queries([replace(shown, use_name=named), "green"], background=None)
        before = segmenter.logits(encoded, queries)
        added = evidence(before, encoded).values - before.values
        assert torch.allclose(added[0, :, : added.shape[2] // 2], torch.tensor(gains), atol=1e-5)
        # green is one of two, or the only one, that the detector could know: it is there as likely as not
        assert torch.allclose(added[1], torch.tensor(0.3 / 1.3).log(), atol=1e-5)
    shares = class_shares(segmenter.model.head, queries)
    assert shares is not None and known_labels(shares) == [1]


def test_the_more_is_asked_for_the_less_likely_is_a_label_without_a_box() -> None:
    rule = BoxesConfig(missed=0.3, shown=5)
    few, some, many = (absence(rule, asked=number) for number in (2, 20, 80))
    assert few == pytest.approx(math.log(0.3 * 0.5 / (0.3 * 0.5 + 0.5)))
    assert some == pytest.approx(math.log(0.3 * 0.25 / (0.3 * 0.25 + 0.75)))
    assert 0 > few > some > many


def test_a_model_file_asks_for_it() -> None:
    plain = with_boxes((8, 8, 56, 56))
    config = plain.config.model_copy(update={"boxes": BoxesConfig(inside=50.0)})
    asked = Segmenter(replace(plain.model, config=config), device=torch.device("cpu"))
    image = GREY.copy()
    image[:, 64:] = COLOURS["blue"]
    result = asked.segment(image, ["red", "blue"], background=None)
    assert result.mask("red")[16:48, 16:48].all()
    assert not plain.segment(image, ["red", "blue"], background=None).mask("red")[16:48, 16:48].all()


@pytest.mark.parametrize("values", [{"inside": -1}, {"least_score": 2}, {"missed": 1.5}])
def test_weights_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="than or equal"):
        BoxesConfig.model_validate(values)
