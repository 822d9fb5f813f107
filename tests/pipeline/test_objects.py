"""Objects: boxes with names, masks, scores, and what they correct in the label map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toy import COLOURS, SPACE, KnowingHead, ToyDetector, make_segmenter

from ovseg.errors import ConfigError, ModelError, VocabularyError
from ovseg.models.sections import ObjectsConfig, QualityConfig
from ovseg.pipeline.candidates import apart, named_boxes, part_boxes
from ovseg.pipeline.decide import Decision
from ovseg.pipeline.objects import ObjectSearch
from ovseg.pipeline.segmenter import Segmenter
from ovseg.pipeline.sharpening import sharpen, weighed
from ovseg.proposals.proposal import Proposals
from ovseg.result.segments import Segment
from ovseg.vocabulary.labels import Concept, Vocabulary


def toy(*boxes: tuple[float, float, float, float], sharpen: float | None = None) -> Segmenter:
    """The toy segmenter, with a detector that finds these boxes red, by the label map and without a SAM."""
    plain = make_segmenter()
    config = ObjectsConfig(proposals="detector" if boxes else "parts", sharpen=sharpen)
    model = replace(
        plain.model,
        config=plain.config.model_copy(update={"objects": QualityConfig(fast=config, best=config)}),
        head=KnowingHead(SPACE),
        detector=(lambda: ToyDetector(*boxes)) if boxes else None,
    )
    return Segmenter(model, device=torch.device("cpu"))


def squares(*places: tuple[slice, slice], colour: str = "red") -> np.ndarray:
    image = np.full((64, 128, 3), 120, np.uint8)
    for rows, columns in places:
        image[rows, columns] = COLOURS[colour]
    return image


TWO = squares((slice(8, 40), slice(8, 40)), (slice(8, 40), slice(72, 112)))
TOUCHING = squares((slice(8, 40), slice(8, 88)))


def test_connected_parts_are_objects_where_there_is_no_detector() -> None:
    result = toy().segment(TWO, ["red", "blue"], instances=True)
    assert result.instances is not None
    assert sorted(each.box for each in result.instances) == [(4, 4, 44, 44), (68, 4, 116, 44)]  # half a cell more
    assert [each.label for each in result.instances] == ["red", "red"]
    assert result.things == ("red", "blue") and result.count("blue") == 0
    assert result.provenance["instances"] == ["red", "blue"]
    for each in result.instances:
        assert result.mask("red")[each.mask()].all()


def test_nothing_is_looked_for_unless_it_is_asked_for() -> None:
    result = toy().segment(TWO, ["red", "blue"])
    assert (result.instances, result.things) == (None, ())
    assert "quality" not in result.provenance


def test_a_detector_parts_what_touches_and_an_unsure_box_takes_nothing_from_a_surer_one() -> None:
    result = toy((8, 8, 52, 40), (44, 8, 88, 40)).segment(TOUCHING, ["red", "blue"], instances=["red"])
    assert result.instances is not None
    first, second = sorted(result.instances, key=lambda each: each.box)
    assert first.box == (8, 8, 52, 40)  # its whole box
    assert second.box == (48, 8, 88, 40)  # from halfway between the middles of the two
    assert (result.instance_map > 0).sum() == 80 * 32  # all of the two boxes
    covered = 8 / 44  # of the second box, by the first
    assert (first.score, second.score) == pytest.approx((0.9, 0.6 * (1 - covered / 2)), abs=0.01)


def test_a_known_label_that_the_detector_misses_has_objects_where_it_fills_much_of_the_image() -> None:
    image = squares((slice(8, 40), slice(8, 40)))
    image[:, 64:] = COLOURS["blue"]  # half of the image; the toy detector boxes red alone
    result = toy((8, 8, 40, 40)).segment(image, ["red", "blue", "green"], instances=True)
    assert (result.count("red"), result.count("blue"), result.count("green")) == (1, 1, 0)
    small = squares((slice(8, 40), slice(8, 40)))
    small[56:, 120:] = COLOURS["blue"]  # under 5 % of it
    assert toy((8, 8, 40, 40)).segment(small, ["red", "blue"], instances=True).count("blue") == 0


def test_a_label_without_a_name_has_the_objects_that_look_like_its_pictures_not_the_boxes_of_its_name() -> None:
    image = squares((slice(8, 40), slice(8, 40)))
    image[8:40, 72:104] = COLOURS["blue"]
    shown = squares((slice(16, 48), slice(16, 48)), colour="blue")
    mask = (shown == COLOURS["blue"]).all(2)
    named_red = Concept("red", images=[shown], masks=[mask], use_name=False, thing=True)
    result = toy((8, 8, 40, 40)).segment(image, [named_red, "white"], background=["black"], instances=["red"])
    assert result.instances is not None
    (only,) = result.instances
    assert only.box == pytest.approx((72, 8, 104, 40), abs=2)


def test_an_encoded_image_is_looked_at_once_for_all_vocabularies() -> None:
    segmenter = toy((8, 8, 52, 40))
    detector = ToyDetector((8, 8, 52, 40))
    looks: list[int] = []
    detector.propose = lambda image, closer: (looks.append(1), ToyDetector.propose(detector, image))[1]  # type: ignore[method-assign, func-returns-value]
    segmenter.model = replace(segmenter.model, detector=lambda: detector)
    encoded = segmenter.encode(TOUCHING)
    first, second = (segmenter.segment(encoded, [label, "blue"], instances=True) for label in ("red", "red square"))
    assert len(looks) == 1 and first.count("red") == second.count("red square") == 1
    segmenter.segment(TOUCHING, ["red"], instances=True)
    assert len(looks) == 2


def test_boxes_take_the_labels_that_their_classes_mean_and_copies_are_dropped() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]])
    classes = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.0, 0.7], [0.1, 0.0]])
    shares = torch.tensor([[0.5, 0.0], [0.0, 1.0]])
    found = named_boxes(Proposals(boxes, classes), shares, least_score=0.3)
    rows = sorted(zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True))
    assert [(label, round(score, 3)) for label, score, _ in rows] == [(0, 0.45), (1, 0.7)]
    assert rows[0][2] == [0, 0, 10, 10]


def test_parts_that_are_tiny_are_no_objects_and_scores_are_means() -> None:
    index = torch.full((100, 100), -1, dtype=torch.int32)
    index[10:20, 10:30] = 1
    index[50, 50] = 1
    best = torch.full((100, 100), 0.25)
    best[10:20, 10:20] = 0.75
    found = part_boxes(index, best, [0, 1])
    assert found.boxes.tolist() == [[10, 10, 30, 20]]
    assert (found.labels.tolist(), found.scores.tolist()) == ([1], [0.5])
    assert found.points.tolist() == [[10.5, 10.5]]  # the first of the surest pixels


def test_covered_masks_lose_up_to_half_of_their_score_and_copies_go() -> None:
    masks = torch.zeros(5, 10, 10, dtype=torch.bool)
    masks[0, :, :8] = True  # the surest
    masks[1, :, :7] = True  # a near copy of it
    masks[2, :5, 6:10] = True  # half covered
    masks[3, :, :8] = True  # of another label
    flat = masks.flatten(1).float()
    labels, scores = torch.tensor([0, 0, 0, 1, 0]), torch.tensor([0.9, 0.8, 0.8, 0.7, 0.6])
    kept, scores = apart(flat @ flat.T, labels, scores, loss=0.5, most_overlap=0.7)
    assert kept.tolist() == [0, 3, 2]  # the last one is empty
    assert scores.tolist() == pytest.approx([0.9, 0.4, 0.6, 0.7, 0.6])
    none = torch.zeros(0)
    assert [len(part) for part in apart(none.view(0, 0), none, none, loss=0.5, most_overlap=0.7)] == [0, 0]


def test_a_sure_object_replaces_the_label_of_pixels_that_are_less_sure() -> None:
    index = torch.tensor([[0, 0, 1, -1]], dtype=torch.int32)
    best = torch.tensor([[0.9, 0.4, 0.3, 0.2]])
    whole = Segment.of_mask(np.ones((1, 4), bool), "c", 0.45, corner=(0, 0), size=(1, 4))
    sharp = sharpen(Decision(index, best, torch.ones(3)), [whole], ["a", "b", "c"])
    assert sharp.index.tolist() == [[0, 2, 2, 2]]  # twice 0.45 is no more than 0.9
    assert sharp.best[0].tolist() == pytest.approx([0.9, 0.45, 0.45, 0.45])


def test_a_label_loses_where_its_sure_objects_are_not() -> None:
    segmenter = make_segmenter()
    encoded = segmenter.encode(TWO)
    logits = segmenter.logits(encoded, segmenter.queries(["red", "blue"], background=None))
    half = np.ones((32, 36), bool)
    sure = Segment.of_mask(half, "red", 0.8, corner=(8, 8), size=(64, 128))  # four rows of four cells and a half
    unsure = Segment.of_mask(half, "blue", 0.4, corner=(8, 8), size=(64, 128))
    lost = logits.values - weighed(logits, encoded, [sure, unsure]).values
    expected = torch.full((8, 16), 2.4)
    expected[1:5, 1:5] = 0
    expected[1:5, 5] = 1.2
    torch.testing.assert_close(lost, torch.stack([expected, torch.zeros(8, 16)]))
    assert weighed(logits, encoded, [unsure]) is logits


def test_best_corrects_the_label_map_without_reporting_objects() -> None:
    inside = toy((8, 8, 88, 40), sharpen=0.1).segment(TOUCHING, ["red", "blue"], quality="best")
    assert inside.instances is None and inside.things == ()
    assert inside.provenance["quality"] == "best"


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        (["cat"], "instances asks for 'cat', which is none of the labels"),
        ("red", "must be True, False or a list of labels, got 'red'"),
        ([], r"must be True, False or a list of labels, got \[\]"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(instances: object, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        toy().segment(TWO, ["red"], instances=instances)  # type: ignore[arg-type]


def test_labels_without_objects_are_refused_and_may_be_named_or_said_to_be_things() -> None:
    with pytest.raises(VocabularyError, match="got sky, brick wall, only areas; name the labels in instances"):
        ObjectSearch.of(Vocabulary.of(["sky", "brick wall"]), instances=True, quality=None)
    assert ObjectSearch.of(Vocabulary.of(["sky"]), instances=["sky"], quality=None).labels == (0,)
    vocabulary = Vocabulary.of(["grass", Concept("sky", thing=True)])
    assert ObjectSearch.of(vocabulary, instances=True, quality=None).reported == ("sky",)


def test_an_unknown_quality_and_a_detector_that_is_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="quality must be 'fast', 'best' or None, got 'good'"):
        toy().segment(TWO, ["red"], quality="good")  # type: ignore[arg-type]
    without = toy((0.0, 0, 1, 1))
    without.model = replace(without.model, detector=None)
    with pytest.raises(ModelError, match="model 'toy' has no detector"):
        without.segment(TWO, ["red"], instances=True)


@pytest.fixture(scope="module")
def cat() -> Path:
    return Path(__file__).parents[2] / "examples" / "cat.jpg"


@pytest.mark.slow
@pytest.mark.parametrize("quality", ["fast", "best"])
def test_mini_finds_the_one_cat_of_a_photo(mini: Segmenter, cat: Path, quality: str) -> None:
    result = mini.segment(cat, ["cat", "dog", "wall"], instances=True, quality=quality)  # type: ignore[arg-type]
    assert result.instances is not None
    assert (result.count("cat"), result.count("dog")) == (1, 0)
    (only,) = result.instances
    assert only.area == only.mask().sum() > 0.6 * result.index_map.size
    assert result.mask("cat")[only.mask()].all()


@pytest.mark.slow
def test_objects_are_the_same_in_a_batch_and_alone(mini: Segmenter, cat: Path) -> None:
    options = {"instances": True, "quality": "fast"}
    alone = mini.segment(cat, ["cat", "dog"], **options)  # type: ignore[arg-type]
    _, together = mini.segment_batch([TWO, cat], ["cat", "dog"], **options)
    assert together.instances == alone.instances
