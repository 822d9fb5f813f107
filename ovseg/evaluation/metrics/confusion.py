"""The confusion matrix over a whole data set, and every score that is read off it. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ShapeError

IntArray = NDArray[np.integer]
FloatArray = NDArray[np.float64]
IGNORE = -1
NONE = -1
BLOCK = 1 << 15  # pixels at a time: 256 KiB of indices stay in the processor's cache


@dataclass
class ConfusionMatrix:
    """Pixels counted by true class (rows) and predicted class (columns), over a whole data set.

    Attributes:
        counts: (L, L) int64; ``counts[t, p]`` pixels of class ``t`` were predicted as ``p``.
        missed: (L,) int64; pixels of a class for which the prediction was -1, none of the labels.
            They are errors: they belong to the true area and to no predicted one.
    """

    counts: NDArray[np.int64]
    missed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if self.counts.ndim != 2 or self.counts.shape[0] != self.counts.shape[1]:
            raise ShapeError(f"counts must be (L, L), got {self.counts.shape}")
        if self.missed.size == 0:
            self.missed = np.zeros(len(self.counts), np.int64)
        if self.missed.shape != self.counts.shape[:1]:
            raise ShapeError(f"missed must be ({len(self.counts)},), got {self.missed.shape}")

    @classmethod
    def empty(cls, classes: int) -> ConfusionMatrix:
        """A matrix of ``classes`` rows with nothing counted."""
        if classes < 1:
            raise ShapeError(f"a confusion matrix needs at least one class, got {classes}")
        return cls(np.zeros((classes, classes), np.int64))

    @property
    def classes(self) -> int:
        """Number of classes L."""
        return len(self.counts)

    def update(self, prediction: IntArray, truth: IntArray, *, ignore: int = IGNORE) -> None:
        """Count the pixels of one image.

        Args:
            prediction: any shape, integers in [-1, L); -1 is none of the labels.
            truth: same shape, integers in [0, L), or ``ignore`` where a pixel does not count.
            ignore: the value of ``truth`` that is left out.

        Raises:
            ShapeError: the shapes differ, a dtype is not integer, or a value is out of range.
        """
        both = joint_histogram(prediction, truth, classes=self.classes, ignore=ignore)
        self.counts += both[:, :-1]
        self.missed += both[:, -1]

    def add_pairs(self, pairs: IntArray) -> None:
        """Add (k, 3) rows of true class, predicted class (-1 none) and pixels (``sparse_pairs``)."""
        truth, prediction, pixels = np.asarray(pairs, np.int64).reshape(-1, 3).T
        none = prediction == NONE
        np.add.at(self.missed, truth[none], pixels[none])
        np.add.at(self.counts, (truth[~none], prediction[~none]), pixels[~none])

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix over the same classes.

        Raises:
            ShapeError: the other matrix has another number of classes.
        """
        if other.classes != self.classes:
            raise ShapeError(f"cannot merge a matrix of {other.classes} classes into one of {self.classes}")
        self.counts += other.counts
        self.missed += other.missed

    def true_area(self) -> NDArray[np.int64]:
        """(L,) int64, labelled pixels of each class."""
        return np.asarray(self.counts.sum(1) + self.missed)

    def predicted_area(self) -> NDArray[np.int64]:
        """(L,) int64, labelled pixels predicted as each class."""
        return np.asarray(self.counts.sum(0))

    def iou(self) -> FloatArray:
        """(L,) float64 in [0, 1]; NaN for a class that is neither in the truth nor in a prediction."""
        hits = np.diag(self.counts)
        return _ratio(hits, self.true_area() + self.predicted_area() - hits)

    def mean_iou(self, classes: Literal["present", "all"] | Sequence[int] = "present") -> float:
        """Mean of the IoU of one matrix over the set, in [0, 1]; NaN when nothing was counted.

        Args:
            classes: ``"present"``: those with a pixel in the truth. ``"all"``: also those that were only
                predicted, which count 0 (a mean that leaves out NaN). Or class indices: those present count.
        """
        iou, present = self.iou(), self.true_area() > 0
        if classes == "all":
            return mean_of_known(iou)
        if classes != "present":
            chosen = np.zeros(self.classes, bool)
            chosen[list(classes)] = True
            present &= chosen
        return mean_of_known(iou[present])

    def pixel_accuracy(self) -> float:
        """Share of labelled pixels whose class is right, in [0, 1]."""
        return float(_ratio(np.trace(self.counts), self.true_area().sum()))

    def class_accuracy(self) -> FloatArray:
        """(L,) float64, share of each class's pixels that are found (recall); NaN when absent."""
        return _ratio(np.diag(self.counts), self.true_area())

    def mean_class_accuracy(self) -> float:
        """Mean over present classes of ``class_accuracy``."""
        return mean_of_known(self.class_accuracy())

    def frequency_weighted_iou(self) -> float:
        """IoU averaged with each class's share of the labelled pixels as weight, in [0, 1]."""
        area = self.true_area()
        return float(_ratio(np.nansum(np.nan_to_num(self.iou()) * area), area.sum()))

    def foreground_background_iou(self, background: int) -> float:
        """Mean of the IoU of the background and of all other classes taken as one (FB-IoU).

        Source: Rakelly et al., Conditional networks for few-shot semantic segmentation, ICLR workshop 2018.
        """
        total = self.counts.sum() + self.missed.sum()
        both_background = self.counts[background, background]
        true_background = self.true_area()[background]
        predicted_background = self.predicted_area()[background]
        either_background = true_background + predicted_background - both_background
        foreground_missed = self.missed.sum() - self.missed[background]
        both_foreground = total - either_background - foreground_missed
        # a foreground pixel left unlabelled is in the union; a background one left unlabelled is in neither
        either_foreground = total - both_background - self.missed[background]
        return mean_of_known(_ratio([both_background, both_foreground], [either_background, either_foreground]))

    def harmonic_iou(self, unseen: Sequence[int]) -> dict[str, float]:
        """Mean IoU over seen classes, over ``unseen`` ones, and the harmonic mean of the two."""
        seen = [index for index in range(self.classes) if index not in set(unseen)]
        known, novel = self.mean_iou(seen), self.mean_iou(list(unseen))
        harmonic = 2 * known * novel / (known + novel) if known + novel else 0.0
        return {"seen": known, "unseen": novel, "harmonic": float(harmonic)}


def joint_histogram(
    prediction: IntArray, truth: IntArray, *, classes: int, ignore: int = IGNORE
) -> NDArray[np.int64]:
    """(L, L + 1) int64 pixels by true class and predicted class; the last column is "none of the labels".

    One pass of ``bincount`` over ``(truth + 1) * (L + 1) + prediction + 1``.

    Raises:
        ShapeError: the shapes differ, a dtype is not integer, or a value is out of range.
    """
    _check_maps(prediction, truth, classes=classes, ignore=ignore)
    width = classes + 1
    if ignore != IGNORE:
        truth = np.where(truth == ignore, IGNORE, truth.astype(np.int64))
    index = np.empty(truth.size, np.intp)
    rows, columns = truth.ravel(), prediction.ravel()
    for start in range(0, len(index), BLOCK):
        block = slice(start, start + BLOCK)
        np.multiply(rows[block], width, out=index[block], dtype=np.intp, casting="unsafe")
        np.add(index[block], columns[block], out=index[block], dtype=np.intp, casting="unsafe")
        index[block] += width + 1  # row and column 0 are -1: ignored, and none of the labels
    counted = np.bincount(index, minlength=width * width).reshape(width, width)
    return np.roll(counted[1:], -1, axis=1).astype(np.int64, copy=False)


def sparse_pairs(prediction: IntArray, truth: IntArray, *, classes: int) -> NDArray[np.int64]:
    """(k, 3) int64 rows of true class, predicted class (-1 none) and pixels, without zeros."""
    both = joint_histogram(prediction, truth, classes=classes)
    rows, columns = np.nonzero(both)
    return np.stack([rows, np.where(columns == classes, NONE, columns), both[rows, columns]], 1)


def _check_maps(prediction: IntArray, truth: IntArray, *, classes: int, ignore: int) -> None:
    if prediction.shape != truth.shape:
        raise ShapeError(
            f"prediction must have the shape of the truth, {truth.shape}, got {prediction.shape}; "
            "resize the prediction to the mask, not the mask to the prediction"
        )
    for name, values in (("prediction", prediction), ("truth", truth)):
        if values.dtype.kind not in "iu":
            raise ShapeError(f"{name} must hold integer class indices, got dtype {values.dtype}")
    if prediction.size == 0:
        return
    if prediction.min() < NONE or prediction.max() >= classes:
        raise ShapeError(
            f"prediction must be in [-1, {classes}), got {prediction.min()} to {prediction.max()}; "
            "-1 is none of the labels"
        )
    if truth.min() >= 0 and truth.max() < classes:
        return
    labelled = truth[truth != ignore]
    if labelled.size and (labelled.min() < 0 or labelled.max() >= classes):
        raise ShapeError(
            f"truth must be in [0, {classes}) or the ignored value {ignore}, "
            f"got {labelled.min()} to {labelled.max()}"
        )


def _ratio(part: object, whole: object) -> FloatArray:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0))


def mean_of_known(values: FloatArray) -> float:
    """Mean of the values that are not NaN; NaN where there is none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
