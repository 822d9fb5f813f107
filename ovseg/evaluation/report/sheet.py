"""One picture of what went well and what did not: best, median and worst images with truth and prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg.evaluation.data.examples import Example
from ovseg.evaluation.report.report import EvaluationReport, image_mean_iou
from ovseg.images.sheets import grid, headline, stack
from ovseg.result.overlay import palette

TILE = 240  # height of a picture, pixels
Predict = Callable[[int], tuple[Example, NDArray[np.int32]]]


def picture_sheet(
    report: EvaluationReport, *, segment: Predict, names: Sequence[str], each: int = 3
) -> Image.Image:
    """The ``each`` best, median and worst images by their own mIoU: photo, truth and prediction side by side.

    Args:
        report: ranks the images.
        segment: example and (H, W) int32 prediction at an index of the data set.
        names: the data set's names.
        each: images of each kind.
    """
    place = {name: index for index, name in enumerate(names)}
    strips = []
    for kind, name, score in ranked_images(report, each=each):
        example, prediction = segment(place[name])
        strips.append(_strip(example, prediction, caption=f"{kind}: {name}, mIoU {100 * score:.1f}"))
    return stack(strips)


def ranked_images(report: EvaluationReport, *, each: int = 3) -> list[tuple[str, str, float]]:
    """Kind ("best", "median", "worst"), name and own mIoU of ``each`` images of each kind; no image twice."""
    scored = [(image_mean_iou(row, classes=len(report.names)), row.name) for row in report.rows]
    order = sorted((pair for pair in scored if not math.isnan(pair[0])), reverse=True)
    middle = max(0, len(order) // 2 - each // 2)
    groups = (("best", order[:each]), ("median", order[middle : middle + each]), ("worst", order[-each:]))
    seen: set[str] = set()
    chosen = []
    for kind, members in groups:
        for score, name in members:
            if name not in seen:
                seen.add(name)
                chosen.append((kind, name, score))
    return chosen


def class_colors(classes: int) -> NDArray[np.uint8]:
    """(L + 1, 3) uint8: a colour a class; the last one, for -1, is black."""
    return np.concatenate([palette(classes), np.zeros((1, 3), np.uint8)])


def _strip(example: Example, prediction: NDArray[np.int32], *, caption: str) -> Image.Image:
    highest = int(max(example.truth.max(initial=0), prediction.max(initial=0)))
    colours = class_colors(highest + 1)
    tiles = [_tile(picture) for picture in (example.image, colours[example.truth], colours[prediction])]
    row = grid(tiles, columns=len(tiles))
    return stack([headline(caption, width=row.width), row])


def _tile(picture: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(picture)
    return image.resize((max(1, round(image.width * TILE / image.height)), TILE), Image.Resampling.NEAREST)
