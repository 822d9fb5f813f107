"""One picture of what went well and what did not: best, median and worst images with truth and prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ovseg.escape import one_line
from ovseg.evaluation.data.examples import Example
from ovseg.evaluation.report.report import EvaluationReport, image_mean_iou
from ovseg.images.sheets import grid, headline, stack
from ovseg.result.lettering import choose_font, drawable, shortened
from ovseg.result.overlay import palette
from ovseg.result.segments import edges

TILE = 240  # height of a picture, pixels
_LETTER, _ROW = 13, 20  # size of the legend's letters and height of its rows, pixels
_PAPER, _INK = (250, 250, 248), (32, 33, 36)
_EDGE = (255, 255, 255)  # between two objects or segments


class Shown(NamedTuple):
    """What is drawn of an image.

    Attributes:
        example: the image and its truth.
        prediction: (H, W) int32 class indices, -1 none.
        true_ids, found_ids: (H, W) int32 numbers of segments or objects, 0 for none, between which edges are
            drawn; None where there are none.
    """

    example: Example
    prediction: NDArray[np.int32]
    true_ids: NDArray[np.int32] | None = None
    found_ids: NDArray[np.int32] | None = None


Predict = Callable[[int], Shown]


def picture_sheet(
    report: EvaluationReport, *, segment: Predict, names: Sequence[str], each: int = 3
) -> Image.Image:
    """The ``each`` best, median and worst images by their own mIoU: photo, truth and prediction side by side.

    Args:
        report: ranks the images.
        segment: what to show at an index of the data set.
        names: the data set's names.
        each: images of each kind.
    """
    place = {name: index for index, name in enumerate(names)}
    strips, shown = [], set[int]()
    for kind, name, score in ranked_images(report, each=each):
        drawn = segment(place[name])
        shown |= {*np.unique(drawn.example.truth).tolist(), *np.unique(drawn.prediction).tolist()}
        strips.append(_strip(drawn, caption=f"{kind}: {one_line(name)}, mIoU {100 * score:.1f}"))
    if not strips:
        return stack(strips)
    width = max(strip.width for strip in strips)
    title = headline("photo, truth and prediction of each image; colours:", width=width)
    return stack([title, legend(sorted(shown - {-1}), report.names, width=width, black=-1 in shown), *strips])


def legend(classes: Sequence[int], names: Sequence[str], *, width: int, black: bool) -> Image.Image:
    """The colour and the name of each class, in columns.

    Args:
        classes: indices of those that are shown.
        names: of all classes.
        width: pixels of the picture.
        black: whether there are pixels of no class, which are black.
    """
    colours = class_colors(len(names))
    entries = [(colours[index], one_line(names[index])) for index in classes]
    entries += [(colours[-1], "ignored, or none of the labels")] if black else []
    font = choose_font((text for _, text in entries), size=_LETTER)
    texts = [shortened(drawable(text, font), font, room=width - 4 * _LETTER) for _, text in entries]
    cell = max((round(font.getlength(text)) for text in texts), default=0) + 3 * _LETTER
    columns = max(1, width // cell)
    rows = -(-len(texts) // columns)
    picture = Image.new("RGB", (width, rows * _ROW + 6), _PAPER)
    pen = ImageDraw.Draw(picture)
    for number, ((colour, _), text) in enumerate(zip(entries, texts, strict=True)):
        row, column = divmod(number, columns)
        left, top = 6 + column * cell, row * _ROW + 3
        pen.rectangle((left, top, left + _LETTER, top + _LETTER), fill=tuple(colour.tolist()))
        pen.text((left + 1.5 * _LETTER, top + _LETTER / 2), text, fill=_INK, font=font, anchor="lm")
    return picture


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


def _strip(drawn: Shown, *, caption: str) -> Image.Image:
    truth, prediction = drawn.example.truth, drawn.prediction
    highest = int(max(truth.max(initial=0), prediction.max(initial=0)))
    colours = class_colors(highest + 1)
    tiles = [_tile(drawn.example.image)]
    for classes, ids in ((truth, drawn.true_ids), (prediction, drawn.found_ids)):
        tiles.append(_tile(colours[classes], ids))
    row = grid(tiles, columns=len(tiles))
    return stack([headline(caption, width=row.width), row])


def _tile(picture: NDArray[np.uint8], ids: NDArray[np.int32] | None = None) -> Image.Image:
    """The picture at the height of a tile, with the edges between numbers, which no resizing thins out."""
    image = Image.fromarray(picture)
    size = (max(1, round(image.width * TILE / image.height)), TILE)
    tile = image.resize(size, Image.Resampling.NEAREST)
    if ids is None:
        return tile
    pixels = np.array(tile)
    pixels[edges(np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST)))] = _EDGE
    return Image.fromarray(pixels)
