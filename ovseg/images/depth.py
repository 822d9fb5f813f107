"""Values of more than eight bits, and floats: which value is black and which is white."""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg.errors import ImageError

_TIFF_BITS, _TIFF_MOST, _TIFF_FORMAT = 258, 281, 339  # BitsPerSample, MaxSampleValue, SampleFormat
_TIFF_FLOAT_LEAST, _TIFF_FLOAT_MOST = 340, 341  # SMinSampleValue, SMaxSampleValue
_FULL = 65535
_NARROW = 4096  # data whose values all lie below have twelve bits or fewer in a file of sixteen
SAY_RANGE = "say their range with value_range=(LO, HI) (--range LO,HI on the command line)"


@dataclass(frozen=True)
class Scale:
    """The values that are black and white, and how that is known, for the user.

    Attributes:
        low, high: of the image's values; ``low`` is less.
        why: to end "values are scaled as LOW..HIGH, …"; empty where it goes without saying.
    """

    low: float
    high: float
    why: str

    def apply(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Values as uint8, rounded, halves up; what is outside is clipped, what is no number is black."""
        span = self.high - self.low
        wide = np.nan_to_num(values.astype(np.float64), nan=self.low).clip(self.low, self.high)
        grey: npt.NDArray[np.uint8] = ((510 * (wide - self.low) + span) // (2 * span)).astype(np.uint8)
        return grey


def stated_range(image: Image.Image, stream: BinaryIO | None) -> tuple[float, float] | None:
    """The lowest and largest value that a TIFF or PNG file says its data may have; None where it says nothing.

    Args:
        image: opened, perhaps not yet decoded.
        stream: the file; its position is kept.
    """
    if image.format == "TIFF":
        return tiff_range(getattr(image, "tag_v2", {}))
    if image.format == "PNG" and stream is not None:
        return 0, 2 ** _png_significant_bits(stream) - 1
    return None


def tiff_range(tags: Any) -> tuple[float, float] | None:
    """``stated_range`` by the tags of a TIFF page: a mapping from their numbers to values."""
    if _TIFF_FLOAT_MOST in tags:
        low, high = (_one(tags.get(tag, 0), max) for tag in (_TIFF_FLOAT_LEAST, _TIFF_FLOAT_MOST))
        return (low, high) if low < high else None
    if _one(tags.get(_TIFF_FORMAT, 1), max) in (2, 3):  # whole numbers with a sign, floats: their bits say nothing
        return None
    bits = int(_one(tags.get(_TIFF_BITS, 16), max))
    high = _one(tags.get(_TIFF_MOST, 2**bits - 1), max)
    return (0, high) if high > 0 else None


def choose_scale(
    values: npt.NDArray[Any],
    *,
    given: tuple[float, float] | None,
    stated: tuple[float, float] | None,
    name: str,
    missing: float | None = None,
) -> Scale | None:
    """Which values are black and white; None for 8-bit data, which are taken as they are.

    The range that the caller gives, or the one that the file states where its values keep to it. Else whole
    numbers are scaled by the bits that they use where all are below 4096, at least eight, or by 65535; floats by 1
    where all lie in [0, 1], or by their own least and largest.

    Args:
        values: of any shape; the pixels and bands that are shown.
        given: by the caller.
        stated: what ``stated_range`` found.
        name: of the image, for errors.
        missing: a value that means "no data" and does not count.

    Raises:
        ImageError: whole numbers are outside of 0..65535, or there is no number at all.
    """
    if given is not None:
        outside = float(np.mean((values < given[0]) | (values > given[1])))
        return Scale(*given, f"as given, which clips {outside:.1%} of them" if outside >= 0.001 else "")
    if values.dtype == np.uint8 or values.dtype == np.bool_:
        return None
    counted = values[np.isfinite(values) & (values != (np.inf if missing is None else missing))]
    if not counted.size:
        raise ImageError(f"{name} must have values, got none that is a number; is it all 'no data'?")
    low, high = counted.min().item(), counted.max().item()
    if np.issubdtype(values.dtype, np.floating):
        return _scale_of_floats(low, high, stated)
    if low < 0 or high > _FULL:
        raise ImageError(
            f"{name} must have grey values in 0..65535, got {low}..{high}; scale it to 16 or 8 bits first, or "
            f"{SAY_RANGE}"
        )
    if stated is not None and high <= stated[1] < _FULL and stated[0] <= low:
        return Scale(*stated, f"as the file states; {SAY_RANGE} if that is not so")
    if high < _NARROW:
        white = 2 ** max(8, high.bit_length()) - 1
        return Scale(0, white, f"the bits that its own values up to {high} need; {SAY_RANGE} if that is not so")
    why = f"the whole of 16 bits, its own values end at {high}; {SAY_RANGE} if that is not so"
    return Scale(0, _FULL, why if high <= _FULL // 2 else "")


def _scale_of_floats(low: float, high: float, stated: tuple[float, float] | None) -> Scale:
    if stated is not None and stated[0] <= low and high <= stated[1]:
        return Scale(*stated, f"as the file states; {SAY_RANGE} if that is not so")
    if low >= 0 and high <= 1:
        return Scale(0, 1, f"as its own values from {low:g} to {high:g} lie there; {SAY_RANGE} if that is not so")
    return Scale(low, max(high, low + 1e-9 * max(1.0, abs(low))), f"its own least and largest; {SAY_RANGE}")


def is_wide_colour(image: Image.Image) -> bool:
    """Whether colours, or grey with opacity, have sixteen bits in the file, of which Pillow keeps the upper eight.

    Args:
        image: opened and not yet decoded.
    """
    tiles: Any = getattr(image, "tile", ())
    return any(";16" in str(tile[3]) for tile in tiles) and not image.mode.startswith("I")


def all_bands(stream: BinaryIO, *, wide: bool) -> npt.NDArray[Any]:
    """(H, W, C) uint8 or, if ``wide``, uint16: all bands and bits of a file of which Pillow itself drops some.

    Pillow leaves out a fourth band that is not opacity, and of sixteen bits the lower eight. But it has a mode with
    a fourth band, and decoders for either byte of each value: the file is decoded with these.

    Args:
        stream: a PNG or TIFF file of three or more bands, or for which ``is_wide_colour`` holds; its position is
            kept.
        wide: whether it has sixteen bits.

    Raises:
        ValueError: it is none of these.
    """
    place = stream.tell()
    try:
        if not wide:
            return _decoded_again(stream)
        high, low = (_decoded_again(stream, lower=lower) for lower in (False, True))
    finally:
        stream.seek(place)
    return high if high.dtype == np.uint16 else high.astype(np.uint16) << 8 | low


def _decoded_again(stream: BinaryIO, *, lower: bool = False) -> npt.NDArray[Any]:
    stream.seek(0)
    with Image.open(stream) as opened:
        image: Any = opened
        kind = _raw_mode(image.tile[0].args)
        if kind.startswith("LA;16"):
            return _grey_and_opacity(image)
        if kind.startswith("RGBX"):
            image._mode = "RGBX"
        if lower:
            image.tile = [tile._replace(args=_other_byte(tile.args)) for tile in image.tile]
        image.load()
        return np.asarray(image)


def _grey_and_opacity(image: Any) -> npt.NDArray[np.uint16]:
    """(H, W, 2) of a PNG file: its four bytes a pixel are decoded as if they were four bands."""
    image.tile = [tile._replace(args="RGBA") for tile in image.tile]
    image._mode = "RGBA"
    image.load()
    return np.asarray(image).copy().view(">u2").astype(np.uint16)


def _raw_mode(args: Any) -> str:
    """How the bytes of a pixel lie in the file, as Pillow calls it, such as "RGB;16B"."""
    return str(args if isinstance(args, str) else args[0])


def _other_byte(args: Any) -> Any:
    mode = _raw_mode(args)
    if mode[-4:] not in {";16B", ";16L", ";16N"}:
        raise ValueError(f"no decoder for the lower bytes of {mode}")
    native = "L" if sys.byteorder == "little" else "B"
    other = {"B": "L", "L": "B", "N": "B" if native == "L" else "L"}[mode[-1]]
    return f"{mode[:-1]}{other}" if isinstance(args, str) else (f"{mode[:-1]}{other}", *args[1:])


def _one(value: Any, choose: Any) -> float:
    number = choose(value) if isinstance(value, tuple | list) else value
    return float(number) if isinstance(number, float) else int(number)


def _png_significant_bits(stream: BinaryIO) -> int:
    """What the chunk sBIT of a PNG file says, 16 without one."""
    place = stream.tell()
    try:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"sBIT":
                bits = stream.read(length)
                return max(bits[: 3 if length >= 3 else 1], default=16)  # the last of two or four is of opacity
            if kind == b"IDAT":
                break
            stream.seek(length + 4, 1)
        return 16
    finally:
        stream.seek(place)
