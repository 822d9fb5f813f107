"""Pictures that show why: contact sheets of searches, and what a concept was learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ovseg.errors import ImageError
from ovseg.images.load import read_image
from ovseg.images.reading import Reading
from ovseg.images.sources import read_key

_PAPER = (250, 250, 248)
_INK = (32, 33, 36)
_SEED = (213, 94, 0)
_SURE = (0, 90, 181)
_MASK = (0, 158, 115)


def contact_sheet(
    paths: Sequence[Sequence[str]],
    cosines: NDArray[np.float32],
    reading: Reading | None = None,
    *,
    columns: int = 10,
    side: int = 128,
) -> Image.Image:
    """Thumbnails with their cosines, a block of rows for each query.

    Args:
        paths: per query its k keys.
        cosines: (n, k).
        reading: how the images are read.
        columns: thumbnails per row.
        side: pixels of a thumbnail.
    """
    tiles = [
        [
            captioned(thumbnail(key, side, reading), f"{cosine:.3f}")
            for key, cosine in zip(keys, values, strict=True)
        ]
        for keys, values in zip(paths, cosines, strict=True)
    ]
    return stack([grid(row, columns=columns) for row in tiles])


def thumbnail(key: str, side: int, reading: Reading | None = None) -> Image.Image:
    """The image behind a key inside a square; a grey square when it cannot be read."""
    try:
        picture = Image.fromarray(read_image(read_key(key), reading).pixels)
    except ImageError:
        picture = Image.new("RGB", (side, side), (200, 200, 200))
    return boxed(picture, side)


def boxed(picture: Image.Image, side: int) -> Image.Image:
    """The picture shrunk into a square, centred on paper."""
    picture = picture.copy()
    picture.thumbnail((side, side))
    square = Image.new("RGB", (side, side), _PAPER)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def evidence_tile(
    pixels: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    seed: tuple[float, float],
    *,
    side: int,
    verdict: str = "",
) -> Image.Image:
    """An image with its co-segmented mask in green and its seed as a ring.

    Args:
        pixels: (H, W, 3) uint8.
        mask: (h, w) bool of cells.
        seed: row and column as fractions of the height and width; negative for the image as a whole.
        side: pixels of the tile.
        verdict: what a person said of the seed: "accepted" or "given" makes the ring a double one in blue,
            "rejected" a cross, over all of the image where it was rejected whole.
    """
    photo = Image.fromarray(pixels)
    tint = Image.new("RGB", photo.size, _MASK)
    shape = Image.fromarray(mask).convert("L").resize(photo.size, Image.Resampling.NEAREST)
    painted = Image.composite(Image.blend(photo, tint, 0.5), photo, shape)
    radius = max(3, round(0.025 * max(photo.size)))
    x, y = seed[1] * photo.width, seed[0] * photo.height
    pen, width = ImageDraw.Draw(painted), max(2, radius // 2)
    if verdict == "rejected":
        whole = min(seed) < 0
        box = (0, 0, *photo.size) if whole else (x - 2 * radius, y - 2 * radius, x + 2 * radius, y + 2 * radius)
        pen.line(box, fill=_SEED, width=width)
        pen.line((box[0], box[3], box[2], box[1]), fill=_SEED, width=width)
        return boxed(painted, side)
    rings = [radius, 2 * radius + width] if verdict else [radius]
    for size in rings:
        pen.ellipse((x - size, y - size, x + size, y + size), outline=_SURE if verdict else _SEED, width=width)
    return boxed(painted, side)


def object_tile(
    pixels: NDArray[np.uint8], mask: NDArray[np.bool_], box: tuple[int, int, int, int], *, side: int
) -> Image.Image:
    """An object with a little of its surroundings, which are dimmed.

    Args:
        pixels: (H, W, 3) uint8.
        mask: (H, W) bool.
        box: of the mask: x0, y0, x1, y1 in pixels; x1 and y1 are not included.
        side: pixels of the tile.
    """
    x0, y0, x1, y1 = box
    room = round(0.15 * max(x1 - x0, y1 - y0))
    rows, columns = slice(max(0, y0 - room), y1 + room), slice(max(0, x0 - room), x1 + room)
    shown, inside = pixels[rows, columns], mask[rows, columns, None]
    dimmed = (0.35 * shown + 0.65 * np.array(_PAPER)).astype(np.uint8)
    return boxed(Image.fromarray(np.where(inside, shown, dimmed)), side)


def boxes_tile(photo: Image.Image, boxes: Mapping[str, tuple[int, int, int, int]], *, side: int) -> Image.Image:
    """An image with boxes, each with its name in the top left corner.

    Args:
        photo: the image.
        boxes: by name x0, y0, x1, y1 in its pixels; x1 and y1 are not included.
        side: pixels of the tile.
    """
    tile = boxed(photo, side)
    scale = min(1.0, side / max(photo.size))
    left, top = ((side - min(side, round(length * scale))) // 2 for length in photo.size)
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(size=14)
    for name, (x0, y0, x1, y1) in boxes.items():
        corners = [left + x0 * scale, top + y0 * scale, left + x1 * scale - 1, top + y1 * scale - 1]
        pen.rectangle(corners, outline=_PAPER, width=4)
        pen.rectangle(corners, outline=_SEED, width=2)
        label = pen.textbbox((corners[0] + 4, corners[1] + 2), name, font=font)
        pen.rectangle((label[0] - 2, label[1] - 2, label[2] + 2, label[3] + 2), fill=_SEED)
        pen.text((corners[0] + 4, corners[1] + 2), name, fill=_PAPER, font=font)
    return tile


def captioned(tile: Image.Image, text: str, *, size: int | None = None) -> Image.Image:
    """The tile with lines of text below it, of a ``size`` in pixels that fits the tile where none is given."""
    size, lines = size or max(11, tile.height // 10), text.split("\n")
    step = round(1.2 * size)
    canvas = Image.new("RGB", (tile.width, tile.height + round(0.4 * size) + step * len(lines)), _PAPER)
    canvas.paste(tile)
    font, pen = ImageFont.load_default(size=size), ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        pen.text((tile.width / 2, tile.height + number * step), line, fill=_INK, font=font, anchor="ma")
    return canvas


def headline(text: str, *, width: int) -> Image.Image:
    """A strip with a line of text."""
    strip = Image.new("RGB", (width, 30), _PAPER)
    ImageDraw.Draw(strip).text((6, 6), text, fill=_INK, font=ImageFont.load_default(size=15))
    return strip


def grid(tiles: Sequence[Image.Image], *, columns: int) -> Image.Image:
    """Equal tiles in rows."""
    if not tiles:
        return headline("no images", width=240)
    width, height = tiles[0].size
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    canvas = Image.new("RGB", (columns * (width + 4), rows * (height + 4)), _PAPER)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        canvas.paste(tile, (column * (width + 4) + 2, row * (height + 4) + 2))
    return canvas


def stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Pictures one below the other."""
    if not parts:
        return headline("no images", width=240)
    canvas = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), _PAPER)
    top = 0
    for part in parts:
        canvas.paste(part, (0, top))
        top += part.height
    return canvas
