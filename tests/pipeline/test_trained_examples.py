"""Pictures of labels through a trained head: what reaches it, and what becomes of labels without pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy import COLOURS, make_segmenter
from torch.nn import functional

from ovseg import Concept
from ovseg.errors import ConfigError, ShapeError, VocabularyError
from ovseg.examples.shot import Lesson, Words
from ovseg.heads.registry import HeadConfig, build_head
from ovseg.models.trained import join
from ovseg.pipeline.examples import with_words
from ovseg.pipeline.places import pictures_of
from ovseg.pipeline.segmenter import Segmenter
from ovseg.weights import freeze

PHOTO = np.full((64, 96, 3), COLOURS["white"], np.uint8)
PHOTO[16:48, 16:48] = COLOURS["red"]
SQUARE = np.zeros((64, 96), bool)
SQUARE[16:48, 16:48] = True


def trained(kind: str, **settings: Any) -> Segmenter:
    """The toy with a head as it is before training, but for the gain of words."""
    plain = make_segmenter()
    widths = {"features": 7, "text": 7, "joint": 7}
    values = {"widths": widths, "width": 8, "attention_heads": 2, "inner": 8, "base_scale": 20.0, **settings}
    torch.manual_seed(0)
    head: Any = freeze(build_head(HeadConfig(kind=kind, settings=values), plain.model.head, plain.model.text))
    if kind == "multimodal":
        head.word_gain.fill_(0.5)
    model = join(
        replace(plain.model, config=plain.config.model_copy(update={"logit_scale": 1.0})), head, mark="test"
    )
    return Segmenter(model, device=torch.device("cpu")).with_examples(method="trained")


def logits(segmenter: Segmenter, labels: list[Any]) -> torch.Tensor:
    return segmenter.logits(segmenter.encode(PHOTO), segmenter.queries(labels)).values


def test_a_model_without_such_a_head_is_refused() -> None:
    segmenter = make_segmenter().with_examples(method="trained")
    with pytest.raises(ConfigError, match="needs a model with a head that was trained to read them, got 'toy'"):
        segmenter.segment(PHOTO, ["red"])


def test_labels_without_pictures_are_judged_by_prototypes_of_words_but_left_alone_by_label_anything() -> None:
    below = logits(make_segmenter(), ["red", "white"])
    torch.testing.assert_close(logits(trained("labelanything"), ["red", "white"]), below)
    segmenter = trained("multimodal")
    found, head = logits(segmenter, ["red", "white"]), segmenter.model.head
    assert isinstance(head, torch.nn.Module)
    vectors = segmenter.queries(["red", "white"]).embeddings
    encoded = segmenter.encode(PHOTO)
    assert encoded.features.inputs is not None
    cells = functional.normalize(head.cells_in(head_input(encoded.features.inputs)), dim=1)
    cosines = functional.normalize(head.words_in(vectors), dim=1) @ cells.T
    by_hand = below + 0.5 * 10 * (cosines - 0).view_as(below)  # the level is 0 before training
    torch.testing.assert_close(found, by_hand, atol=1e-4, rtol=1e-4)


def head_input(maps: torch.Tensor) -> torch.Tensor:
    return functional.normalize(maps[0].flatten(1).T, dim=1) * 7**0.5


def test_what_is_asked_by_words_is_known_by_the_method_where_it_changes_them() -> None:
    for kind, same in (("multimodal", False), ("labelanything", True)):
        segmenter = trained(kind)
        other = segmenter.with_examples(method="learned")
        assert (segmenter.identity(["red"])["asked"] == other.identity(["red"])["asked"]) == same


@pytest.mark.parametrize("kind", ["multimodal", "labelanything"])
def test_a_nameless_thing_is_found_again(kind: str) -> None:
    shown = Concept("my mug", images=[PHOTO], masks=[SQUARE], use_name=False)
    result = trained(kind).segment(PHOTO[:, ::-1].copy(), [shown, "white"], background=None, refine=False)
    found, truth = result.mask("my mug"), SQUARE[:, ::-1]
    assert (found & truth).sum() / (found | truth).sum() > 0.9


@pytest.mark.parametrize(
    ("places", "kind", "cells"),
    [
        ({"boxes": [(16, 16, 48, 40)]}, "box", {(y, x) for y in (2, 3, 4) for x in (2, 3, 4, 5)}),
        ({"points": [(20, 44)]}, "point", {(5, 2)}),
        ({"masks": [SQUARE]}, "mask", {(y, x) for y in (2, 3, 4, 5) for x in (2, 3, 4, 5)}),
    ],
)
def test_boxes_and_points_are_given_as_they_are_where_no_sam_cuts_out(
    places: dict[str, Any], kind: str, cells: set[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, on cells of 8 pixels."""
    segmenter = trained("labelanything").with_examples(cut_out=False)
    seen: list[Any] = []
    head: Any = segmenter.model.head
    learn = type(head).learn
    monkeypatch.setattr(type(head), "learn", lambda self, lesson: seen.extend(lesson.shots) or learn(self, lesson))
    shown = Concept("mug", images=[PHOTO], **places)
    result = segmenter.segment(PHOTO, [shown, "white"], background=None, refine=False)
    assert result.mask("mug")[24, 24]
    (shot,) = seen
    assert shot.kind == kind and {tuple(place) for place in (shot.share == 1).nonzero().tolist()} == cells
    assert int((shot.share > 0).sum()) == len(cells)


def test_a_point_beside_the_picture_is_refused_with_and_without_a_sam() -> None:
    segmenter = trained("labelanything").with_examples(cut_out=False)
    for places in ({"points": [(200, 10)]}, {"boxes": [(10, 10, 20, 80)]}):
        with pytest.raises(VocabularyError, match="must lie inside its 96 x 64 pixels"):
            segmenter.queries([Concept("mug", images=[PHOTO], **places)])
    (corner,) = pictures_of(Concept("mug", images=[PHOTO], points=[(96, 64)]))
    assert np.argwhere(corner.mask_in(segmenter.encode(PHOTO), sam=None)).tolist() == [[63, 95]]


def test_more_labels_than_the_head_was_built_for_are_refused() -> None:
    shown = [Concept(name, images=[PHOTO], masks=[SQUARE]) for name in ("red", "white")]
    with pytest.raises(ShapeError, match="at most 1 labels with pictures at once, got 2"):
        trained("labelanything", classes=2).queries(shown)


def test_another_method_beside_is_the_mean_of_both_and_leaves_the_rest() -> None:
    asked = [Concept("red", images=[PHOTO], masks=[SQUARE]), "white"]
    segmenter = trained("multimodal")
    alone, other = logits(segmenter, asked), logits(segmenter.with_examples(method="learned"), asked)
    both = logits(segmenter.with_examples(beside="learned"), asked)
    torch.testing.assert_close(both[0], (alone[0] + other[0]) / 2, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both[1:], alone[1:])
    words = segmenter.with_examples(beside="learned")
    torch.testing.assert_close(logits(words, ["red", "white"]), logits(segmenter, ["red", "white"]))
    with pytest.raises(ConfigError, match="unknown method for examples"):
        logits(segmenter.with_examples(beside="learnt"), asked)


def test_a_sam_draws_only_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def drawn(odds: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        asked.append(tuple(odds.shape[:1]))
        return torch.zeros_like(odds)

    monkeypatch.setattr("ovseg.pipeline.examples.drawn_by_sam", drawn)
    segmenter = trained("multimodal").with_examples(masks="mobile-sam")
    logits(segmenter, ["white", Concept("red", images=[PHOTO], masks=[SQUARE]), "blue"])
    assert asked == [(1,)]


def test_a_lesson_is_given_all_classes_and_their_phrases() -> None:
    queries = make_segmenter().queries([Concept("red", synonyms=("green",)), "white"], background=["blue", "black"])
    lesson = with_words(Lesson([], torch.tensor([1]), torch.tensor([False])), queries)
    assert lesson.rows.tolist() == [1, 0, 2, 3] and lesson.named.tolist() == [False, True, True, True]
    assert isinstance(lesson.words, Words) and lesson.words.label.tolist() == [1, 1, 0, 2, 3]
    assert lesson.words.vectors.argmax(1).tolist() == [0, 1, 4, 2, 5]
