"""Loss and score over the steps as a picture, with numbers on its axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ovseg.files import atomic_path

_SIZE, _LEFT, _RIGHT, _TOP, _BOTTOM = (720, 400), 64, 64, 36, 48  # pixels
_INK, _FAINT = (32, 33, 36), (222, 222, 220)
_LOSS, _SCORE = (200, 60, 40), (40, 90, 200)
_FEW = 60  # points up to which each gets a dot

Place = Callable[[float], float]  # from a value to a pixel


def draw_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The loss (axis on the left) and the score (in percent, on the right) over the steps, as a PNG."""
    picture = Image.new("RGB", _SIZE, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=12)
    left, top, right, bottom = _LEFT, _TOP, _SIZE[0] - _RIGHT, _SIZE[1] - _BOTTOM
    last = max((int(row["step"]) for row in rows), default=1)
    across = ticks(0, last, whole=True)
    x = _scale(0, max(last, 1), left, right)
    for step in across:
        pen.line([(x(step), top), (x(step), bottom)], fill=_FAINT)
        pen.text((x(step), bottom + 6), f"{step:.0f}", fill=_INK, font=font, anchor="ma")
    pen.text(((left + right) / 2, _SIZE[1] - 8), "step", fill=_INK, font=font, anchor="ms")
    curves = (
        ("loss", "loss", 1.0, _LOSS, (left, "rm", -8)),
        ("score", "score, %", 100.0, _SCORE, (right, "lm", 8)),
    )
    for name, title, factor, colour, (edge, anchor, gap) in curves:
        points = [(row["step"], factor * row[name]) for row in rows if name in row]
        if not points:
            continue
        marks = ticks(min(value for _, value in points), max(value for _, value in points))
        y = _scale(marks[0], marks[-1], bottom, top)
        for mark in marks:
            if name == "loss":
                pen.line([(left, y(mark)), (right, y(mark))], fill=_FAINT)
            pen.text((edge + gap, y(mark)), label(mark, marks), fill=colour, font=font, anchor=anchor)
        pen.text((edge, top - 12), title, fill=colour, font=font, anchor="ms")
        _draw_line(pen, [(x(step), y(value)) for step, value in points], colour)
    pen.rectangle((left, top, right, bottom), outline=_INK)
    with atomic_path(path) as temporary:
        picture.save(temporary)


def ticks(low: float, high: float, *, count: int = 6, whole: bool = False) -> list[float]:
    """At most ``count`` + 1 round numbers, equally far apart, from at most ``low`` to at least ``high``.

    Args:
        low, high: the range to show; of one value alone, a range around it.
        count: intervals.
        whole: whole numbers, and none above ``high``.

    >>> ticks(0.13, 0.92)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    steps = (factor * power for factor in (1, 2, 5, 10, 20) if not whole or factor * power >= 1)
    for step in steps:
        first, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if whole:
            end = math.floor(high / step + 1e-9)
        if end - first <= count:
            return [float(f"{number * step:.12g}") for number in range(first, end + 1)]
    return [low, high]


def label(mark: float, marks: Sequence[float]) -> str:
    """A tick's number with as many digits as tell it from the next."""
    gap, largest = abs(marks[1] - marks[0]), max(map(abs, marks))
    digits = -math.floor(math.log10(gap) + 1e-9)
    if largest < 1e5 and digits <= 6:
        return f"{mark:.{max(0, digits)}f}"
    return f"{mark:.{max(3, math.ceil(math.log10(largest)) + digits)}g}"


def _scale(low: float, high: float, start: float, end: float) -> Place:
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _draw_line(pen: ImageDraw.ImageDraw, line: Sequence[tuple[float, float]], colour: tuple[int, int, int]) -> None:
    pen.line(list(line), fill=colour, width=2)
    for x, y in line if len(line) < _FEW else ():
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
