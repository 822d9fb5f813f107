from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ovseg.errors import VocabularyError
from ovseg.vocabulary.labels import Concept, Vocabulary, without_pictures
from ovseg.vocabulary.shown import as_points

BAD: list[tuple[dict[str, Any], str]] = [
    ({"images": ["a"], "masks": ["m"], "boxes": [(0, 0, 1, 1)]}, "in one way, got masks and boxes"),
    (
        {"images": ["a", "b"], "points": [(1, 2)]},
        "one entry of points per image .* got 1 points for 2 images",
    ),
    ({"images": ["a"], "boxes": [(5, 5, 5, 9)]}, "x0 < x1 and y0 < y1, got"),
    ({"images": ["a"], "boxes": [(1, 2, 3)]}, "must be x0, y0, x1, y1 in pixels"),
    ({"images": ["a"], "boxes": [(0, 0, float("nan"), 2)]}, "must be x0, y0, x1, y1 in pixels"),
    ({"images": ["a"], "points": ["here"]}, r"points 0 of concept 'mug' must be \(x, y\) in pixels"),
    ({"images": ["a"], "points": [[]]}, r"must be \(x, y\) in pixels or a list"),
    ({"use_name": False}, "neither name nor images"),
    ({"not_images": ["a"]}, "not_images but no images"),
    (
        {"images": ["a"], "not_images": ["b", "c"], "not_boxes": [(0, 0, 1, 1)]},
        "one entry of not_boxes per image or none, got 1 not_boxes for 2 not_images",
    ),
    (
        {"images": ["a"], "not_images": ["b"], "not_boxes": [(0, 9, 1, 1)]},
        "not_boxes 0 of .* must be x0",
    ),
    ({"images": "mug.jpg"}, r"images of concept 'mug' must be a list, got str"),
]


@pytest.mark.parametrize(("fields", "told"), BAD, ids=range(len(BAD)))
def test_pictures_that_do_not_fit_together_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(VocabularyError, match=told):
        Concept("mug", **fields)


def test_one_point_or_several() -> None:
    assert as_points((3, 4), where="it") == [(3.0, 4.0)]
    assert as_points([(3, 4), [5, 6]], where="it") == [(3.0, 4.0), (5.0, 6.0)]


def test_words_and_pictures_are_parted() -> None:
    mug = Concept("mug", synonyms=("cup",), images=("a.jpg",), boxes=((0, 0, 1, 1),), weight=2)
    words, shown = without_pictures(["table", mug])
    assert shown == {"mug": mug}
    assert words == ["table", Concept("mug", synonyms=("cup",), weight=2)]
    nameless, shown = without_pictures(["table", replace(mug, use_name=False)])
    assert shown == {"mug": replace(mug, use_name=False)}
    assert nameless == replace(Vocabulary.of(words), nameless=("mug",))
    assert Vocabulary.of(nameless, background=["wall", "sky"]) == replace(nameless, background=("wall", "sky"))
    plain = ["table", "mug"]
    assert without_pictures(plain) == (plain, {})
    vocabulary = Vocabulary.of(plain)
    assert without_pictures(vocabulary) == (vocabulary, {})
