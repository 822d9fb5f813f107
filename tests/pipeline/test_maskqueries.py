"""Masks of queries as label maps and objects, in numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.toy import SPACE, make_segmenter

from ovseg.errors import ConfigError, ModelError, ShapeError
from ovseg.heads.base import IdentityHead
from ovseg.heads.maskqueries import MaskQueries, MaskQueriesSettings
from ovseg.heads.stacked import Widths
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits, NamedMasks
from ovseg.pipeline.maskqueries import boxes_of, mask_pooled, painted, query_objects
from ovseg.pipeline.queries import QueryBank
from ovseg.pipeline.segmenter import Segmenter
from ovseg.vocabulary.labels import Vocabulary
from ovseg.weights import freeze

IMAGE = np.full((64, 128, 3), 120, np.uint8)
SURE = 20.0


def asked(*masks: torch.Tensor, classes: list[list[float]], sure: list[float]) -> tuple[ClassLogits, EncodedImage]:
    """Logits of the toy segmenter for red and blue, with these masks in them."""
    segmenter = make_segmenter()
    encoded = segmenter.encode(IMAGE)
    logits = segmenter.logits(encoded, segmenter.queries(["red", "blue"]))
    found = NamedMasks(torch.stack(masks), torch.tensor(classes), torch.tensor(sure))
    return replace(logits, found=lambda: found), encoded


def square(rows: slice, columns: slice) -> torch.Tensor:
    """(8, 16) logits that are sure."""
    mask = torch.full((8, 16), -SURE)
    mask[rows, columns] = SURE
    return mask


def test_pooled_classes_are_means_inside_a_mask_and_of_all_where_it_is_empty() -> None:
    maps = torch.tensor([[[0.9, 0.5], [0.1, 0.3]], [[0.1, 0.5], [0.9, 0.7]]])
    masks = torch.stack([square(slice(0, 4), slice(0, 16)), torch.full((8, 16), -SURE)])
    found = mask_pooled(maps, masks)
    torch.testing.assert_close(found, torch.tensor([[0.7, 0.3], [0.45, 0.55]]))
    with pytest.raises(ShapeError, match="probabilities must be"):
        mask_pooled(maps[0], masks)


def test_the_map_below_keeps_what_no_mask_claims() -> None:
    below = torch.tensor([[[0.9, 0.9]], [[0.1, 0.1]]])
    masks = torch.tensor([[[SURE, -SURE]], [[SURE, -SURE]]])
    one = NamedMasks(masks[:1], torch.tensor([[0.2, 0.8]]), torch.tensor([0.75]))
    expected = torch.tensor([[[0.75 * 0.2 + 0.25 * 0.9, 0.9]], [[0.75 * 0.8 + 0.25 * 0.1, 0.1]]])
    torch.testing.assert_close(painted(one, below), expected)
    both = NamedMasks(masks, torch.tensor([[0.2, 0.8], [1.0, 0.0]]), torch.tensor([0.75, 0.75]))
    torch.testing.assert_close(painted(both, below)[:, 0, 0], torch.tensor([0.75 * 1.2, 0.75 * 0.8]))


def test_objects_have_masks_scores_and_the_names_that_were_asked_for() -> None:
    left, right = square(slice(2, 6), slice(0, 4)), square(slice(0, 4), slice(8, 16))
    classes = [[0.7, 0.3], [0.1, 0.9], [0.5, 0.5]]
    logits, encoded = asked(left, right, right, classes=classes, sure=[0.9, 0.8, 0.3])
    found = query_objects(logits, encoded, [0, 1], least_score=0.5, most=9)
    assert [(each.label, each.box) for each in found] == [("blue", (64, 0, 128, 32)), ("red", (0, 16, 32, 48))]
    assert [each.score for each in found] == pytest.approx([0.72, 0.63], rel=1e-4)
    assert [each.area for each in found] == pytest.approx([64 * 32, 32 * 32], abs=12)  # corners are rounded
    only = query_objects(logits, encoded, [0], least_score=0.01, most=9)
    assert [each.label for each in only] == ["red", "red"]  # of the last two masks, which are one, only the surer
    assert [each.score for each in only] == pytest.approx([0.63, 0.15], rel=1e-3)
    assert len(query_objects(logits, encoded, [0, 1], least_score=0.0, most=1)) == 1
    boxes = boxes_of(found, ("red", "blue"))
    assert boxes.boxes.tolist() == [[64, 0, 128, 32], [0, 16, 32, 48]] and boxes.labels.tolist() == [1, 0]


def test_no_mask_is_no_object_and_no_queries_are_an_error() -> None:
    empty = torch.full((8, 16), -SURE)
    logits, encoded = asked(empty, classes=[[1.0, 0.0]], sure=[1.0])
    assert query_objects(logits, encoded, [0, 1], least_score=0.0, most=9) == []
    with pytest.raises(ConfigError, match="kind 'maskqueries'"):
        query_objects(replace(logits, found=None), encoded, [0], least_score=0.0, most=9)
    with pytest.raises(ModelError, match="no head with mask queries"):
        make_segmenter().with_objects(proposals="queries").segment(IMAGE, ["red"], instances=["red"])


def queried(**values: object) -> Segmenter:
    """The toy segmenter with untrained queries that know the name red."""
    torch.manual_seed(0)
    plain = make_segmenter()
    widths = Widths(features=7, text=7, joint=7)
    settings = MaskQueriesSettings(
        widths=widths, queries=5, width=8, layers=1, attention_heads=2, inner=8, names=1, base_scale=20.0, **values
    )
    head = MaskQueries(IdentityHead(SPACE), settings)
    head.remember(torch.eye(7)[:1])
    config = plain.config.model_copy(update={"logit_scale": 1.0})
    model = replace(plain.model, config=config, head=freeze(head))
    return Segmenter(model, device=torch.device("cpu"))


def test_labels_from_below_stay_as_they_were_and_those_of_the_queries_do_not() -> None:
    image = IMAGE.copy()
    image[8:40, 8:40] = (220, 30, 30)
    labels = ["red", "blue"]
    plain = make_segmenter().segment(image, labels)
    below = queried().segment(image, labels)
    np.testing.assert_array_equal(below.index_map, plain.index_map)
    np.testing.assert_allclose(below.score_map, plain.score_map, atol=1e-5)
    painted_map = queried(labels="queries").segment(image, labels)
    assert np.abs(painted_map.score_map - plain.score_map).max() > 0.01


def test_queries_of_vectors_alone_are_judged_by_the_map_below() -> None:
    segmenter = queried()
    encoded = segmenter.encode(IMAGE)
    bank = QueryBank.of_vectors(
        torch.eye(7)[:2], [0, 1], Vocabulary.of(["one", "two"]), space=segmenter.model.head.space, logit_scale=1.0
    )
    logits = segmenter.logits(encoded, bank)
    assert logits.found is not None
    found, below = logits.found(), logits.probabilities(logits.values)
    torch.testing.assert_close(found.classes, mask_pooled(below, found.masks))


def test_a_pruned_label_is_nothing_for_queries_either() -> None:
    segmenter = queried(labels="queries")
    encoded = segmenter.encode(IMAGE)
    queries = segmenter.queries(["red", "blue"])
    logits = segmenter.logits(encoded, queries)
    assert logits.found is not None
    torch.testing.assert_close(logits.found().classes.sum(1), torch.ones(5))
    gone = torch.tensor([False, True])
    pruned = segmenter.modifiers[-1](logits.without(gone), encoded)
    assert pruned.found is not None and float(pruned.found().classes[:, 1].max()) == 0
    assert bool((pruned.values[1] == -torch.inf).all())
