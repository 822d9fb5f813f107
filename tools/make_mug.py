"""Makes ``examples/mug.jpg``, and prints how well a word and a shown mug find it in another picture.

    .venv/bin/python tools/make_mug.py

The other picture is the photo mirrored, turned by 14 degrees, darkened and paler; the truth is the mask of the mug,
moved likewise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

import ovseg

PHOTO = Path("examples/coffee.jpg")
TURN, DARKER, PALER = 14, 0.7, 0.7
TILE = (450, 330)


def moved(picture: Image.Image, resample: Image.Resampling, fill: tuple[int, int, int] | int) -> Image.Image:
    """Mirrored and turned."""
    return ImageOps.mirror(picture).rotate(TURN, resample=resample, fillcolor=fill)


def main() -> None:
    """Make and print."""
    segmenter = ovseg.load("mini")
    selection = segmenter.select(PHOTO, box=(172, 20, 420, 300))
    mug = selection.to_concept("my mug")
    other = moved(Image.open(PHOTO).convert("RGB"), Image.Resampling.BICUBIC, (60, 40, 25))
    other = ImageEnhance.Color(ImageEnhance.Brightness(other).enhance(DARKER)).enhance(PALER)
    truth = np.asarray(moved(Image.fromarray(selection.mask), Image.Resampling.NEAREST, 0)) > 0
    tiles = [selection.overlay()]
    for way, labels in (
        ("mug", ["table", "mug"]),
        ("my mug", ["table", "spoon", mug]),
        ("my mug, nameless", [replace(mug, use_name=False), "table", "spoon"]),
    ):
        result = segmenter.segment(other, labels)
        found = result.mask("mug" if way == "mug" else "my mug")
        print(f"{way}: IoU {(found & truth).sum() / (found | truth).sum():.2f}")
        tiles.append(result.overlay())
    strip = Image.new("RGB", (3 * TILE[0], TILE[1]))
    for number, tile in enumerate((tiles[0], tiles[1], tiles[2])):
        strip.paste(tile.convert("RGB").resize(TILE), (number * TILE[0], 0))
    strip.save("examples/mug.jpg", quality=82)


if __name__ == "__main__":
    main()
