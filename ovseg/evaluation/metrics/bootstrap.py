"""How sure a score is: intervals by drawing the images again, and whether two models differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import t as student_t

from ovseg.errors import ShapeError

DRAWS = 1000
CHUNK = 64  # draws at a time: memory stays at CHUNK x L


def repeated(values: Sequence[float]) -> str:
    """Mean of a score over repeated draws, and half of its 95 % interval by Student's t, for a table.

    >>> repeated([40.0, 42.0, 44.0])  # t(0.975, 2) = 4.303, standard deviation 2
    '42.0 ± 5.0'
    >>> repeated([40.0])
    '40.0'
    """
    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = student_t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.1f} ± {half:.1f}"


class Resampled(Protocol):
    """What is kept of N images, so that a score can be had of any draw of them."""

    @property
    def images(self) -> int:
        """Number of images N."""
        ...

    def mean(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R,) the score when image n counts ``weights[r, n]`` times; (R, N) non-negative."""
        ...


@dataclass(frozen=True)
class ClassAreas:
    """Pixels of each class in each image, sparse: what IoU is made of.

    Attributes:
        hits: (N, L) right pixels.
        true: (N, L) pixels in the truth.
        predicted: (N, L) labelled pixels predicted as the class.
        scored: (L,) bool, classes over which the mean is taken.
    """

    hits: csr_array
    true: csr_array
    predicted: csr_array
    scored: NDArray[np.bool_]

    @classmethod
    def from_pairs(
        cls, pairs: Sequence[NDArray[np.int64]], *, classes: int, scored: Sequence[int] | None = None
    ) -> ClassAreas:
        """From the (k, 3) rows of true class, predicted class (-1 none) and pixels of each image.

        Args:
            pairs: rows of each image.
            classes: number of classes L.
            scored: class indices over which the mean is taken; None: all.
        """
        image = np.repeat(np.arange(len(pairs)), [len(rows) for rows in pairs])
        stacked = np.concatenate(pairs) if pairs else np.zeros((0, 3), np.int64)
        truth, prediction, pixels = stacked.T
        right, labelled = truth == prediction, prediction >= 0

        def table(chosen: NDArray[np.bool_], column: NDArray[np.int64]) -> csr_array:
            place = (image[chosen], column[chosen])
            return csr_array((pixels[chosen].astype(np.float64), place), shape=(len(pairs), classes))

        everything = np.ones(len(truth), bool)
        counted = np.zeros(classes, bool)
        counted[slice(None) if scored is None else list(scored)] = True
        return cls(table(right, truth), table(everything, truth), table(labelled, prediction), counted)

    @property
    def images(self) -> int:
        """Number of images N."""
        return int(self.true.shape[0])

    def mean_iou(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R,) mean IoU over present classes when image n counts ``weights[r, n]`` times.

        Args:
            weights: (R, N) non-negative.
        """
        hits, true, predicted = (self._sum(table, weights) for table in (self.hits, self.true, self.predicted))
        counted = (true > 0) & self.scored
        iou = np.divide(hits, true + predicted - hits, out=np.zeros_like(hits), where=counted)
        present = counted.sum(1)
        return np.asarray(np.divide(iou.sum(1), present, out=np.full(len(weights), np.nan), where=present > 0))

    mean = mean_iou

    @staticmethod
    def _sum(table: csr_array, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((table.T @ weights.T).T)  # (R, L)


@dataclass(frozen=True)
class PairedDifference:
    """A score of B less that of A on the same images.

    Attributes:
        difference: B - A over all images.
        low: lower end of the 95 % interval.
        high: upper end.
        p_value: two-sided, share of draws on the other side of zero, doubled.
    """

    difference: float
    low: float
    high: float
    p_value: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def bootstrap_interval(
    areas: Resampled, *, draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """The centred percentile interval of a score over draws of N images with replacement, within [0, 1].

    It is where the score of another N images of the same kind lies; see ``centred_percentiles``.

    Raises:
        ShapeError: there is no image.
    """
    scores = np.concatenate([areas.mean(weights) for weights in _draws(areas.images, draws, seed)])
    low, high = centred_percentiles(scores, _whole(areas), level=level)
    return max(low, 0.0), min(high, 1.0)


def paired_bootstrap(
    first: Resampled, second: Resampled, *, draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> PairedDifference:
    """Whether ``second`` is better than ``first``: both are scored on the same draws of the same images.

    Interval and p-value are read off the same centred draws (see ``centred_percentiles``).

    Raises:
        ShapeError: the two have different numbers of images or none.
    """
    if first.images != second.images:
        raise ShapeError(f"a paired test needs the same images, got {first.images} and {second.images}")
    drawn = [second.mean(w) - first.mean(w) for w in _draws(first.images, draws, seed)]
    differences = np.concatenate(drawn)
    difference = _whole(second) - _whole(first)
    low, high = centred_percentiles(differences, difference, level=level)
    centred = differences - np.nanmean(differences) + difference
    beyond = min((centred <= 0).mean(), (centred >= 0).mean())
    return PairedDifference(
        difference=difference, low=low, high=high, p_value=float(min(1.0, 2 * max(beyond, 1 / draws)))
    )


def centred_percentiles(
    scores: NDArray[np.float64], estimate: float, *, level: float = 0.95
) -> tuple[float, float]:
    """The middle ``level`` of the draws, moved by the bootstrap's own estimate of its bias.

    A class that is in few images is missing from many draws, and the mean over the classes that are left is
    another mean: with many rare classes all draws may lie on one side of the score. Moved so that their mean
    is ``estimate``, they keep their spread.

    Args:
        scores: (R,) the draws; NaN where a draw has no class to score.
        estimate: the score over all images.
        level: share of the draws inside, in (0, 1).

    Source: the bias estimate, mean of the draws less the estimate, is that of Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 10. Not the BC or BCa interval (Efron, Better bootstrap
    confidence intervals, JASA 1987): these move the percentiles by twice the normal quantile of the share of
    draws below the estimate, and leave the estimate out once that quantile is beyond 1.96, which is the case
    here (2.3 on 100 images of 133 classes).
    """
    known = scores[~np.isnan(scores)]
    if not known.size or np.isnan(estimate):
        return float("nan"), float("nan")
    outside = 50 * (1 - level)
    low, high = np.percentile(known, [outside, 100 - outside]) - known.mean() + estimate
    return float(low), float(high)


def _whole(areas: Resampled) -> float:
    """The score over all images, each once."""
    return float(areas.mean(np.ones((1, areas.images)))[0])


def _draws(images: int, draws: int, seed: int) -> Any:
    if images < 1:
        raise ShapeError("a bootstrap needs at least one image, got none")
    generator = np.random.default_rng(seed)
    share = np.full(images, 1 / images)
    for start in range(0, draws, CHUNK):
        yield generator.multinomial(images, share, size=min(CHUNK, draws - start)).astype(np.float64)
