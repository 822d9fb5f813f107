"""The numbers of objects, each written where its object is widest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ovseg.result.lettering import choose_font
from ovseg.result.segments import Boxed

_SIDE = 64  # cells, per side, that the widest place of an object is looked for on


def write_numbers(
    picture: Image.Image,
    segments: Sequence[Boxed],
    instance_map: npt.NDArray[np.int32],
    *,
    size: int,
    ids: Sequence[int] | None = None,
) -> None:
    """Write 1, 2, … into the objects that are seen, white on a dark ground; small objects get small numbers.

    Objects that are smaller than the smallest letters get none, as it would hide them.

    Args:
        picture: RGB; drawn on.
        segments: the objects, in order.
        instance_map: (H, W) int32 number of the object at each pixel, 0 for none.
        size: of the largest letters, in pixels.
        ids: what is written in place of 1, 2, …, in the order of the objects.
    """
    pen = ImageDraw.Draw(picture)
    fonts = {
        step: choose_font("0123456789", size=step) for step in {size, max(9, size * 2 // 3), max(8, size // 2)}
    }
    for number, segment in enumerate(segments, start=1):
        x0, y0, x1, y1 = segment.box
        if max(x1 - x0, y1 - y0) < min(fonts):
            continue
        found = widest_place(segment, instance_map, number)
        if found is None:
            continue
        (x, y), radius = found
        fitting = [step for step in fonts if step <= 1.6 * radius]
        font = fonts[max(fitting) if fitting else min(fonts)]
        written = str(number if ids is None else ids[number - 1])
        left, top, right, bottom = pen.textbbox((x, y), written, font=font, anchor="mm")
        margin = max(2, (bottom - top) // 4)
        ground = (left - margin, top - margin, right + margin, bottom + margin)
        pen.rounded_rectangle(ground, radius=margin, fill=(32, 33, 36))
        pen.text((x, y), written, font=font, anchor="mm", fill="white")


def widest_place(
    segment: Boxed, instance_map: npt.NDArray[np.int32], number: int
) -> tuple[tuple[float, float], float] | None:
    """Centre (x, y) and radius, in pixels, of about the largest circle inside what is seen of an object."""
    from scipy.ndimage import distance_transform_edt

    x0, y0, x1, y1 = segment.box
    step = max(1, -(-max(x1 - x0, y1 - y0) // _SIDE))
    seen = instance_map[y0:y1:step, x0:x1:step] == number
    if not seen.any():
        return None
    distance = distance_transform_edt(np.pad(seen, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return (x0 + (int(column) + 0.5) * step, y0 + (int(row) + 0.5) * step), float(distance.max()) * step
