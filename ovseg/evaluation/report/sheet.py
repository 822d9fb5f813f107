"""One picture of what went well and what did not: best, median and worst images with truth and prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ovseg.evaluation.data.examples import Example
from ovseg.evaluation.report.report import EvaluationReport, image_mean_iou

TILE = 240  # height of a picture, pixels
CAPTION = 16
GAP = 4
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
    return _stack(strips)


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
    """(L + 1, 3) uint8: a colour a class, far apart by golden-ratio hues; the last one, for -1, is black."""
    hues = (np.arange(classes) * 0.618034) % 1.0
    values = 0.65 + 0.35 * ((np.arange(classes) // 3) % 2)
    wheel = np.abs((hues[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    colours = (np.clip(wheel, 0, 1) * 0.8 + 0.2) * values[:, None] * 255
    return np.concatenate([colours, np.zeros((1, 3))]).astype(np.uint8)


def _strip(example: Example, prediction: NDArray[np.int32], *, caption: str) -> Image.Image:
    highest = int(max(example.truth.max(initial=0), prediction.max(initial=0)))
    colours = class_colors(highest + 1)
    pictures = [example.image, colours[example.truth], colours[prediction]]
    tiles = [_tile(picture) for picture in pictures]
    width = sum(tile.width for tile in tiles) + GAP * (len(tiles) - 1)
    strip = Image.new("RGB", (width, TILE + CAPTION), "white")
    ImageDraw.Draw(strip).text((2, 2), caption, fill="black")
    left = 0
    for tile in tiles:
        strip.paste(tile, (left, CAPTION))
        left += tile.width + GAP
    return strip


def _tile(picture: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(picture)
    return image.resize((max(1, round(image.width * TILE / image.height)), TILE), Image.Resampling.NEAREST)


def _stack(strips: Sequence[Image.Image]) -> Image.Image:
    width = max((strip.width for strip in strips), default=1)
    sheet = Image.new("RGB", (width, max(1, sum(strip.height + GAP for strip in strips))), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height + GAP
    return sheet
