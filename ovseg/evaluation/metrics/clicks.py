"""Selecting by clicks: a simulated person who clicks where the mask is most wrong, and what is counted of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST = 20  # clicks on a segment
LIMITS = (0.85, 0.9)  # of IoU, that clicks are counted up to
AFTER = (1, 3, 5)  # clicks, after which the IoU is told
Mask = NDArray[np.bool_]


class Click(NamedTuple):
    """A pixel, and whether it is on the thing."""

    x: int
    y: int
    on: bool


def next_click(truth: Mask, found: Mask, counted: Mask | None = None) -> Click | None:
    """The middle of the largest error, as a person would click; None where there is none.

    It is the pixel furthest from all that is no such error and from the border of the image: of what is missed, or,
    if that reaches further, of what is wrongly found. Of equals the first row counts, then the first column.

    Args:
        truth: (H, W) bool.
        found: (H, W) bool; empty before the first click, which so falls on the middle of the thing.
        counted: (H, W) bool, the pixels that count; None for all.

    Source: Xu et al., Deep Interactive Object Selection, CVPR 2016; the code of Sofiiuk et al., Reviving Iterative
    Training with Mask Guidance, 2021 (clicker.py), which looks at all errors of a kind at once, as here.
    """
    missed, wrong = truth & ~found, found & ~truth
    if counted is not None:
        missed, wrong = missed & counted, wrong & counted
    (reach, place), (wrong_reach, wrong_place) = _deepest(missed), _deepest(wrong)
    if max(reach, wrong_reach) == 0:
        return None
    x, y = place if reach >= wrong_reach else wrong_place
    return Click(x, y, reach >= wrong_reach)


def _deepest(area: Mask) -> tuple[float, tuple[int, int]]:
    """How far the pixel that lies deepest in an area is from what is outside, and its x, y."""
    from scipy.ndimage import distance_transform_edt, find_objects

    windows = find_objects(area.astype(np.uint8))
    if not windows:
        return 0.0, (0, 0)
    (window,) = windows
    distance = distance_transform_edt(np.pad(area[window], 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(distance[row, column]), (int(column) + window[1].start, int(row) + window[0].start)


def overlap(truth: Mask, found: Mask, counted: Mask | None = None) -> float:
    """Intersection over union of two masks, in [0, 1], of the pixels that count; 1 where both are empty."""
    shared, either = truth & found, truth | found
    if counted is not None:
        shared, either = shared & counted, either & counted
    return float(shared.sum() / either.sum()) if either.any() else 1.0


def number_of_clicks(overlaps: Sequence[float], limit: float, *, most: int = MOST) -> int:
    """After how many clicks the IoU first reaches ``limit``; ``most`` where it never does.

    Args:
        overlaps: IoU after each click.
        limit: IoU in [0, 1].
        most: what stands for never.
    """
    return next((count for count, value in enumerate(overlaps[:most], start=1) if value >= limit), most)


def click_scores(segments: Sequence[Sequence[float]]) -> dict[str, float]:
    """Means over segments: "iou_after_1" and so on in [0, 1], "noc_85", "noc_90" in clicks, and "failed_85",
    "failed_90" in [0, 1], the share that never gets there.

    Args:
        segments: IoU after each click, for each segment; where there are fewer clicks, the last counts on.
    """
    scores = {
        f"iou_after_{count}": _mean([values[min(count, len(values)) - 1] for values in segments]) for count in AFTER
    }
    for limit in LIMITS:
        scores[f"noc_{limit * 100:.0f}"] = _mean([number_of_clicks(values, limit) for values in segments])
    for limit in LIMITS:
        scores[f"failed_{limit * 100:.0f}"] = _mean([max(values[:MOST]) < limit for values in segments])
    return scores


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
