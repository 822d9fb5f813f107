"""What a command line says about the values of images: ``--range`` and ``--bands``, the same for every command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ovseg.images.reading import Reading

Range = Annotated[
    str | None,
    typer.Option(
        "--range",
        metavar="LO,HI",
        help="Values that are black and white, for 11 to 16 bits and floats; else the file's.",
    ),
]
Bands = Annotated[
    str | None, typer.Option("--bands", metavar="R,G,B", help="Bands, from 1, that are red, green, blue; or one.")
]


def parse_reading(value_range: str | None, bands: str | None, *, max_pixels: int | None = None) -> Reading:
    """The two options as numbers.

    Raises:
        ImageError: they are none, or as ``Reading``.
    """
    from ovseg.images.reading import MAX_PIXELS, Reading

    limits = None if value_range is None else tuple(_number(part, float) for part in value_range.split(","))
    chosen = None if bands is None else tuple(_number(part, int) for part in bands.split(","))
    return Reading.of(limits, chosen, max_pixels=MAX_PIXELS if max_pixels is None else max_pixels)


def _number(text: str, kind: type[int] | type[float]) -> float | str:
    """The number, or the text itself where it is none: ``Reading`` refuses it by name."""
    try:
        return kind(text)
    except ValueError:
        return text
