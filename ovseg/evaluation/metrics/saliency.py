"""Graded maps of what stands out, against masks: the largest F-measure and the mean absolute error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ShapeError
from ovseg.evaluation.metrics.confusion import IGNORE, mean_of_known

LEVELS = 256
COLUMNS = ("level", "object pixels", "other pixels")
_BETA_SQUARED = 0.3  # weighs precision more: Achanta et al. 2009
Table = NDArray[np.float64]


def saliency_counts(graded: NDArray[np.floating], truth: NDArray[np.int32], *, background: int) -> Table:
    """(k, 3) float64 ``COLUMNS``: pixels of the object and others at each of 256 levels that occurs.

    Args:
        graded: (H, W) how much each pixel stands out, in [0, 1]; not stretched to the whole range.
        truth: (H, W) class indices, -1 ignored.
        background: class index of what is not the object.

    Raises:
        ShapeError: the two differ in shape, or a value lies outside [0, 1].
    """
    if graded.shape != truth.shape:
        raise ShapeError(f"a graded map must have the shape of the truth, {truth.shape}, got {graded.shape}")
    if graded.size and not (graded.min() >= 0 and graded.max() <= 1):
        raise ShapeError(f"a graded map must be in [0, 1], got {graded.min()} to {graded.max()}")
    levels = np.rint(graded.astype(np.float64) * (LEVELS - 1)).astype(np.int64)
    other = truth == background
    ours, theirs = (np.bincount(levels[mask], minlength=LEVELS) for mask in ((truth != IGNORE) & ~other, other))
    shown = np.flatnonzero(ours + theirs)
    return np.column_stack([shown, ours[shown], theirs[shown]]).astype(np.float64)


def saliency_scores(tables: Sequence[Table]) -> dict[str, float]:
    """ "max_f_measure" and "mean_absolute_error" over images, in [0, 1]; NaN without an image.

    The F-measure (beta squared 0.3) of each image at each of 256 thresholds is averaged over the images with an
    object; the best threshold is the same for all.

    Source: Achanta et al., Frequency-tuned salient region detection, CVPR 2009; averaged as in PySODMetrics.
    """
    curves, errors = [], []
    for table in tables:
        ours, theirs = np.zeros(LEVELS), np.zeros(LEVELS)
        place = table[:, 0].astype(np.int64)
        ours[place], theirs[place] = table[:, 1], table[:, 2]
        if ours.sum():
            curves.append(_f_curve(ours, theirs))
        graded = np.arange(LEVELS) / (LEVELS - 1)
        errors.append(float((ours * (1 - graded) + theirs * graded).sum() / max(1.0, table[:, 1:].sum())))
    best = float(np.mean(curves, axis=0).max()) if curves else float("nan")
    return {"max_f_measure": best, "mean_absolute_error": mean_of_known(np.asarray(errors))}


def _f_curve(ours: Table, theirs: Table) -> Table:
    """(256,) F-measure where pixels from each level on are taken for the object."""
    hit, wrong = ours[::-1].cumsum()[::-1], theirs[::-1].cumsum()[::-1]
    precision, recall = hit / np.maximum(hit + wrong, 1), hit / ours.sum()
    either = _BETA_SQUARED * precision + recall
    return np.asarray((1 + _BETA_SQUARED) * precision * recall / np.where(either > 0, either, 1))
