"""How well a clip is segmented: region and outline of its objects (J and F), and how much labels flicker."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ShapeError

OUTLINE_FRACTION = 0.008  # of the image's diagonal

Mask = NDArray[np.bool_]
Labels = NDArray[np.integer]


def region_similarity(prediction: Mask, truth: Mask) -> float:
    """J: the IoU of two (H, W) bool masks, in [0, 1]; 1 where both are empty.

    Raises:
        ShapeError: the two differ in shape.

    Source: Perazzi et al., A benchmark dataset and evaluation methodology for video object segmentation, CVPR 2016.
    """
    _check_alike(prediction, truth)
    either = np.count_nonzero(prediction | truth)
    return np.count_nonzero(prediction & truth) / either if either else 1.0


def outline_accuracy(prediction: Mask, truth: Mask) -> float:
    """F: harmonic mean of the shares of each outline that lie near the other, in [0, 1]; 1 where both are empty.

    Near is a distance of at most 0.8 % of the diagonal, rounded up to pixels.

    Raises:
        ShapeError: the two differ in shape.

    Source: Perazzi et al., CVPR 2016, with the outline and the bound of davis2017-evaluation: a pixel is on the
    outline where its right, lower or lower right neighbour is on the other side.
    """
    from scipy.ndimage import distance_transform_edt

    _check_alike(prediction, truth)
    outlines = [_outline(prediction), _outline(truth)]
    if not outlines[0].any() or not outlines[1].any():
        return float(outlines[0].any() == outlines[1].any())
    bound = math.ceil(OUTLINE_FRACTION * math.hypot(*truth.shape))
    precision, recall = (
        float((distance_transform_edt(~other)[own] <= bound).mean()) for own, other in (outlines, outlines[::-1])
    )
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@dataclass(frozen=True)
class ObjectScore:
    """Means over the frames of an object, or over objects: J, F and the mean of the two, in [0, 1]."""

    region: float
    outline: float

    @property
    def both(self) -> float:
        """J&F."""
        return (self.region + self.outline) / 2


def score_object(predictions: Iterable[Mask], truths: Iterable[Mask]) -> ObjectScore:
    """J and F of an object that was shown on the first frame, over the frames between the first and the last.

    These two are left out as davis2017-evaluation does for semi-supervised methods.

    Raises:
        ShapeError: fewer than three frames, or not as many predictions.
    """
    pairs = list(zip(predictions, truths, strict=True))[1:-1]
    if not pairs:
        raise ShapeError("J and F need at least three frames, as the first and the last do not count; got fewer")
    regions = [region_similarity(*pair) for pair in pairs]
    outlines = [outline_accuracy(*pair) for pair in pairs]
    return ObjectScore(float(np.mean(regions)), float(np.mean(outlines)))


def flicker(predictions: Iterable[Labels], truths: Iterable[Labels], *, ignore: int = -1) -> float:
    """The share of pixels whose label changes from one frame to the next although the truth does not, in [0, 1].

    Counted over all pairs of neighbouring frames together; a pixel counts whose true class is the same on both, and
    known. 0 for labels that stand still, right or wrong; NaN where no pixel counts.

    Args:
        predictions: (H, W) integers of each frame; -1 is a label like any other here.
        truths: (H, W) integers of each frame.
        ignore: the value of the truth where it is not known.

    Raises:
        ShapeError: two maps differ in shape, or there are not as many of both.

    Source: ours; the video consistency of Miao et al., VSPW, CVPR 2021, looks at the same pixels over 8 or 16
    frames and asks also that the label be right.
    """
    changed = still = 0
    before: tuple[Labels, Labels] | None = None
    for prediction, truth in zip(predictions, truths, strict=True):
        _check_alike(prediction, truth)
        if before is not None:
            _check_alike(before[1], truth)
            same = (truth == before[1]) & (truth != ignore)
            still += int(np.count_nonzero(same))
            changed += int(np.count_nonzero(same & (prediction != before[0])))
        before = prediction, truth
    return changed / still if still else math.nan


def _outline(mask: Mask) -> Mask:
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = padded[:-1, :-1]
    return np.asarray((here != padded[:-1, 1:]) | (here != padded[1:, :-1]) | (here != padded[1:, 1:]))


def _check_alike(one: NDArray[np.generic], other: NDArray[np.generic]) -> None:
    if one.shape != other.shape or one.ndim != 2:
        raise ShapeError(f"both maps must be (H, W) and alike, got {one.shape} and {other.shape}")
