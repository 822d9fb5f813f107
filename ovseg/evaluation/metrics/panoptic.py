"""Panoptic quality: how well the segments of images are found, cut out and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ovseg.errors import ShapeError
from ovseg.evaluation.metrics.confusion import mean_of_known

COUNTS = ("true positives", "false positives", "false negatives", "sum of IoU")
COLUMNS = ("class", *COUNTS, *(f"{count} with oracle names" for count in COUNTS))
_MATCH = 0.5  # IoU over which two segments match; no other can then match either (Kirillov et al., theorem 1)
_VOID = 0.5  # share of a prediction on what does not count, over which it does not count either
Table = NDArray[np.float64]


@dataclass(frozen=True)
class Segments:
    """A panoptic map.

    Attributes:
        ids: (H, W) int32 number of the segment at each pixel, from 1; 0 is void.
        classes: class index of each segment.
        crowd: whether each stands for many objects that nobody told apart; empty for none.
    """

    ids: NDArray[np.int32]
    classes: tuple[int, ...]
    crowd: tuple[bool, ...] = ()

    @property
    def crowded(self) -> NDArray[np.bool_]:
        """(n,) bool, true for crowds."""
        return np.asarray(self.crowd or (False,) * len(self.classes), bool)


@dataclass(frozen=True)
class PanopticScores:
    """Scores over a data set: the mean over classes that are in the truth or predicted; NaN where none is.

    Attributes:
        quality: PQ, in [0, 1].
        segmentation: SQ, the mean IoU of matches; 0 for a class without a match.
        recognition: RQ, the F-score of finding and naming.
    """

    quality: float
    segmentation: float
    recognition: float


@dataclass(frozen=True)
class QualitySums:
    """What PQ is made of in each image, sparse, for the bootstrap.

    Attributes:
        overlap: (N, L) sums of IoU.
        there: (N, L) true positives, and half of the false positives and the false negatives.
    """

    overlap: csr_array
    there: csr_array

    @classmethod
    def of(cls, tables: Sequence[Table], *, classes: int) -> QualitySums:
        """From the tables of ``panoptic_counts``, one for each image."""
        image = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        stacked = np.concatenate([np.zeros((0, len(COLUMNS))), *tables])
        place = (image, stacked[:, 0].astype(np.int64))
        there = stacked[:, 1] + stacked[:, 2] / 2 + stacked[:, 3] / 2
        shape = (len(tables), classes)
        return cls(csr_array((stacked[:, 4], place), shape=shape), csr_array((there, place), shape=shape))

    @property
    def images(self) -> int:
        """Number of images N."""
        return int(self.there.shape[0])

    def mean(self, weights: Table) -> Table:
        """(R,) PQ when image n counts ``weights[r, n]`` times; NaN for a draw without a class."""
        overlap, there = ((table.T @ weights.T).T for table in (self.overlap, self.there))
        known = there > 0
        quality = np.divide(overlap, there, out=np.zeros_like(overlap), where=known).sum(1)
        return np.asarray(np.divide(quality, known.sum(1), out=np.full(len(weights), np.nan), where=known.any(1)))


def panoptic_counts(prediction: Segments, truth: Segments) -> Table:
    """(k, 9) float64, a row for each class in the image with what its quality is made of; see ``COLUMNS``.

    With oracle names each predicted segment takes the class of the true segment with which its IoU is largest,
    so that what remains wrong is how the image was split.

    Args:
        prediction: of an image.
        truth: of the same image; its void pixels leave the union, its crowds are found by nobody and missed by
            nobody; a segment without a pixel is missed.

    Raises:
        ShapeError: the two differ in shape, or a number has no segment.

    Source: Kirillov et al., Panoptic Segmentation, CVPR 2019, section 4. A prediction of which over half lies on
    void or on crowds of its class is no false positive, as the authors' panopticapi has it (evaluation.py).
    """
    _check(prediction, truth)
    shared = _shared(prediction, truth)
    overlap = _overlap(shared)
    overlap[truth.crowded] = 0
    named = np.asarray(prediction.classes, np.int64)
    oracle = named.copy()
    if overlap.size:
        found = overlap.max(0) > 0
        oracle[found] = np.asarray(truth.classes, np.int64)[overlap.argmax(0)[found]]
    classes = np.unique([*named, *oracle, *truth.classes]).astype(np.int64)
    return np.column_stack(
        [classes, *(_counts(names, truth, shared, overlap, classes) for names in (named, oracle))]
    )


def panoptic_quality(tables: Sequence[Table], *, classes: int, oracle_names: bool = False) -> Table:
    """(L, 3) float64: PQ, SQ and RQ of each class over a data set; NaN for a class that is nowhere.

    Args:
        tables: of ``panoptic_counts``, one for each image.
        classes: how many there are.
        oracle_names: whether the predictions have those.
    """
    first = 1 + len(COUNTS) * oracle_names
    stacked = np.concatenate([np.zeros((0, len(COLUMNS))), *tables])
    totals = np.zeros((classes, len(COUNTS)))
    np.add.at(totals, stacked[:, 0].astype(np.int64), stacked[:, first : first + len(COUNTS)])
    right, wrong, missed, overlap = totals.T
    there = right + wrong / 2 + missed / 2
    known = there > 0
    scores = np.full((classes, 3), np.nan)
    scores[known, 0] = overlap[known] / there[known]
    scores[known, 1] = overlap[known] / np.maximum(right[known], 1)
    scores[known, 2] = right[known] / there[known]
    return scores


def mean_quality(scores: Table, members: Sequence[int]) -> PanopticScores:
    """The means over the classes ``members`` of ``panoptic_quality``."""
    return PanopticScores(*(mean_of_known(column) for column in scores[list(members)].T))


def _check(prediction: Segments, truth: Segments) -> None:
    if prediction.ids.shape != truth.ids.shape or truth.ids.ndim != 2:
        raise ShapeError(
            f"both panoptic maps must be (H, W) and alike, got {prediction.ids.shape} and {truth.ids.shape}"
        )
    for name, segments in (("prediction", prediction), ("truth", truth)):
        low, high = int(segments.ids.min(initial=0)), int(segments.ids.max(initial=0))
        if low < 0 or high > len(segments.classes):
            raise ShapeError(
                f"the {name} must hold numbers in [0, {len(segments.classes)}], one for each of its segments and 0 "
                f"for none, got {low} to {high}"
            )


def _shared(prediction: Segments, truth: Segments) -> NDArray[np.int64]:
    """(t + 1, p + 1) pixels that a true and a predicted segment share; row and column 0 are none."""
    rows, columns = len(truth.classes) + 1, len(prediction.classes) + 1
    pairs = truth.ids.ravel().astype(np.int64) * columns + prediction.ids.ravel()
    return np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)


def _overlap(shared: NDArray[np.int64]) -> Table:
    """(t, p) IoU of segments, without the true void in the union."""
    union = shared.sum(1)[1:, None] + shared[1:].sum(0)[None, 1:] - shared[1:, 1:]
    return np.asarray(shared[1:, 1:] / np.maximum(union, 1))


def _counts(
    named: NDArray[np.int64], truth: Segments, shared: NDArray[np.int64], overlap: Table, classes: NDArray[np.int64]
) -> Table:
    """(k, 4) ``COUNTS`` of each of the classes, where predictions have the names ``named``."""
    true, crowd = np.asarray(truth.classes, np.int64), truth.crowded
    alike = true[:, None] == named[None]
    matched = (overlap > _MATCH) & alike
    uncounted = shared[0, 1:] + (shared[1:, 1:] * (alike & crowd[:, None])).sum(0)
    area = shared[:, 1:].sum(0)
    wrong = ~matched.any(0) & (area > 0) & (uncounted <= _VOID * area)
    missed = ~matched.any(1) & ~crowd
    found, mates = np.nonzero(matched)
    columns = (true[found], named[wrong], true[missed])
    counts = [(column[:, None] == classes).sum(0) for column in columns]
    sums = np.zeros(len(classes))
    np.add.at(sums, np.searchsorted(classes, true[found]), overlap[found, mates])
    return np.column_stack([*counts, sums]).astype(np.float64)
