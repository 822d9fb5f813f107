"""Objects and segments that a segmenter finds, in class indices, and the numbers that are kept of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ShapeError
from ovseg.evaluation.data.examples import Example
from ovseg.evaluation.metrics.objects import FoundObject, TrueObjects, match_objects
from ovseg.evaluation.metrics.panoptic import Segments, panoptic_counts
from ovseg.result.segments import paint_over

MOST = 60  # objects of an image that average precision ranks

_SHOWN = 0.3  # score from which an object is drawn


def with_unsure_objects(segmenter: Any, *, least_score: float) -> Any:
    """The segmenter with its objects from ``least_score`` on, where it has ``with_objects``; else as it is."""
    adjust = getattr(segmenter, "with_objects", None)
    return adjust(least_score=least_score, most=MOST) if callable(adjust) else segmenter


def found_objects(result: Any, class_of: Mapping[str, int], *, example: Example) -> tuple[FoundObject, ...]:
    """The ``instances`` of a segmenter's result.

    Args:
        result: each of its ``instances`` has ``label``, ``score`` and ``rle``; None, or none at all, for none.
        class_of: class index of each label that was asked for.
        example: what it is of.

    Raises:
        ShapeError: an object has another label, a mask of another size, or no score.
    """
    found = []
    for each in getattr(result, "instances", None) or ():
        size = tuple(each.rle["size"])
        if size != example.truth.shape:
            raise ShapeError(
                f"objects must have masks of the image's size {example.truth.shape} (H, W), got {size} "
                f"for '{example.name}'"
            )
        if each.label not in class_of or not np.isfinite(each.score):
            raise ShapeError(
                f"objects must have a label that was asked for and a score, got '{each.label}' and {each.score} "
                f"for '{example.name}'"
            )
        found.append(FoundObject(class_of[each.label], float(each.score), each.rle))
    return tuple(found)


def found_segments(
    result: Any,
    classes: NDArray[np.int32],
    found: Sequence[FoundObject],
    *,
    things: Sequence[int],
    example: Example,
) -> Segments:
    """The panoptic map of a segmenter's result: its objects, and what these leave of each class that is no thing.

    Args:
        result: its ``instance_map`` (H, W) has the number of an object at each pixel, from 1 in the order of
            ``instances``, 0 for none.
        classes: (H, W) class index at each pixel, -1 for none.
        found: its objects.
        things: indices of the classes with objects.
        example: what it is of.

    Raises:
        ShapeError: the map has another size, or numbers that no object has.
    """
    ids = np.zeros(classes.shape, np.int32)
    if found:
        numbers = as_numpy(getattr(result, "instance_map", None))
        if numbers is None or numbers.shape != ids.shape or numbers.dtype.kind not in "iu":
            came = "none" if numbers is None else f"{numbers.dtype} {numbers.shape}"
            raise ShapeError(
                f"the segmenter must return an instance_map of integers of the image's size {ids.shape} (H, W), "
                f"got {came} for '{example.name}'"
            )
        ids[:] = numbers
    owners = [each.class_index for each in found]
    for index in np.unique(classes[ids == 0]).tolist():
        if index >= 0 and index not in things:
            owners.append(index)
            ids[(classes == index) & (ids == 0)] = len(owners)
    return Segments(ids, tuple(owners))


def object_tables(
    truth: Segments | TrueObjects | None, found: Sequence[FoundObject], segments: Segments | None
) -> dict[str, NDArray[np.float64]]:
    """What the scores of an image's objects are made of, by name of what ``ImageRow.tables`` has."""
    if isinstance(truth, TrueObjects):
        ours, theirs = match_objects(found, truth)
        return {"found": ours, "true": theirs}
    return {"panoptic": panoptic_counts(segments, truth)} if segments is not None and truth is not None else {}


def shown_ids(
    objects: Segments | TrueObjects | Sequence[FoundObject] | None, size: tuple[int, ...]
) -> NDArray[np.int32] | None:
    """(H, W) int32 numbers of segments, or of objects, of those found the sure ones; None without any."""
    if objects is None or isinstance(objects, Segments):
        return None if objects is None else objects.ids
    rles = objects.rles if isinstance(objects, TrueObjects) else [each.rle for each in _sure(objects)]
    height, width = size
    return paint_over(rles, range(1, len(rles) + 1), (height, width), ground=0) if rles else None


def _sure(objects: Sequence[FoundObject]) -> list[FoundObject]:
    """The objects that are shown, the surest last."""
    return sorted((each for each in objects if each.score >= _SHOWN), key=lambda each: each.score)


def as_numpy(values: Any) -> NDArray[Any] | None:
    """``values`` as an array; a tensor may be on another device or need a gradient."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return None if values is None else np.asarray(values)
