"""Labels that are shown: what the pictures of a concept may be, before any is opened."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ovseg.errors import VocabularyError

if TYPE_CHECKING:
    from ovseg.vocabulary.labels import Concept

PLACES = ("masks", "boxes", "points")
"""The fields of a concept that say where in its images it is; one of them at most."""
PICTURES = ("images", "not_images", "not_boxes", "within", *PLACES)
"""All fields of a concept that are about pictures."""


def check_shown(concept: Concept) -> None:
    """Refuse pictures that do not fit together.

    Raises:
        VocabularyError: several ways of saying where, another number of places than of images, a place that is
            none, or a concept without a name and without pictures.
    """
    where = f"concept '{concept.label}'"
    given = [name for name in PLACES if getattr(concept, name)]
    if len(given) > 1:
        raise VocabularyError(
            f"{where} must say where it is in its images in one way, got {' and '.join(given)}; keep one of them, "
            "or make masks of all"
        )
    for name in (*given, "within", "not_boxes"):
        owner = "not_images" if name == "not_boxes" else "images"
        count, wanted = len(getattr(concept, name)), len(getattr(concept, owner))
        if count not in {0, wanted}:
            raise VocabularyError(
                f"{where} must have one entry of {name} per image or none, got {count} {name} for "
                f"{wanted} {owner}; leave out {name}, or give one for each image"
            )
    for number, box in enumerate(concept.boxes):
        _check_box(box, where=f"box {number} of {where}")
    for name in ("within", "not_boxes"):
        for number, box in enumerate(getattr(concept, name)):
            if box is not None:
                _check_box(box, where=f"{name} {number} of {where}")
    for number, points in enumerate(concept.points):
        as_points(points, where=f"points {number} of {where}")
    if not concept.use_name and not concept.images:
        raise VocabularyError(f"{where} has neither name nor images to go by; give images, or use_name=True")
    if concept.not_images and not concept.images:
        raise VocabularyError(f"{where} has not_images but no images; give images that show it, or use not_=")


def _check_box(box: Any, *, where: str) -> None:
    numbers = _numbers(box)
    if len(numbers) != 4 or not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):
        raise VocabularyError(
            f"{where} must be x0, y0, x1, y1 in pixels with x0 < x1 and y0 < y1, got {box!r}; the origin is the "
            "top left"
        )


def as_points(points: Any, *, where: str) -> list[tuple[float, float]]:
    """One point (x, y) or a list of them as a list.

    Raises:
        VocabularyError: it is neither; ``where`` it stands begins the message.
    """
    single = _numbers(points)
    listed = [single] if len(single) == 2 else [_numbers(point) for point in _items(points)]
    if not listed or any(len(point) != 2 for point in listed):
        raise VocabularyError(f"{where} must be (x, y) in pixels or a list of such points, got {points!r}")
    return [(point[0], point[1]) for point in listed]


def _items(value: Any) -> Sequence[Any]:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes) else []


def _numbers(value: Any) -> list[float]:
    """The finite numbers of a sequence; empty where it is something else."""
    try:
        numbers = [float(number) for number in _items(value)]
    except (TypeError, ValueError):
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
