"""Which classes a segmenter says are in an image, against those that are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovseg.errors import ShapeError
from ovseg.evaluation.metrics.rows import ImageRow

AREA_FRACTION = 0.001  # of the labelled pixels: less than this of a class counts as not claimed


@dataclass(frozen=True)
class PresenceScores:
    """Image-level scores; each in [0, 1], NaN where nothing was there to count.

    Attributes:
        precision: share of (image, claimed class) pairs that are right.
        recall: share of (image, class in the truth) pairs that are claimed.
        absent_false_positive_rate: share of (image, candidate class that is absent) pairs that are claimed.
    """

    precision: float
    recall: float
    absent_false_positive_rate: float


def presence_scores(
    claimed: Sequence[Sequence[int]], present: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]
) -> PresenceScores:
    """Precision, recall and false-positive rate over images.

    Args:
        claimed: class indices that the segmenter says are in each image.
        present: class indices that are in each image.
        candidates: class indices whose labels were given for each image; only these count.

    Raises:
        ShapeError: the three differ in length.
    """
    if not len(claimed) == len(present) == len(candidates):
        raise ShapeError(
            "claimed, present and candidates must have one entry an image, "
            f"got {len(claimed)}, {len(present)} and {len(candidates)}"
        )
    right = said = there = absent = wrong = 0
    for claims, truths, indices in zip(claimed, present, candidates, strict=True):
        chosen = set(indices)
        claim, truth = set(claims) & chosen, set(truths) & chosen
        right += len(claim & truth)
        said += len(claim)
        there += len(truth)
        absent += len(chosen - truth)
        wrong += len(claim - truth)
    return PresenceScores(_share(right, said), _share(right, there), _share(wrong, absent))


def presence_from_maps(
    rows: Sequence[ImageRow], *, area_fraction: float = AREA_FRACTION, background: int | None = None
) -> PresenceScores:
    """Presence by area: a class is claimed when it takes ``area_fraction`` of the labelled pixels."""
    claimed, present = [], []
    for row in rows:
        truth, prediction, pixels = row.pairs.T
        area = np.bincount(prediction[prediction >= 0], pixels[prediction >= 0])
        claimed.append(np.flatnonzero(area >= max(1.0, area_fraction * pixels.sum())).tolist())
        present.append(np.unique(truth).tolist())
    return presence_scores(claimed, present, [_without(row.candidates, background) for row in rows])


def presence_from_scores(rows: Sequence[ImageRow], *, background: int | None = None) -> PresenceScores | None:
    """Presence as the segmenter states it (score above one half); None where it states none."""
    stated = [row for row in rows if row.claimed is not None]
    if not stated:
        return None
    present = [np.unique(row.pairs[:, 0]).tolist() for row in stated]
    candidates = [_without(row.candidates, background) for row in stated]
    return presence_scores([row.claimed or () for row in stated], present, candidates)


def _without(candidates: Sequence[int], background: int | None) -> list[int]:
    return [index for index in candidates if index != background]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
