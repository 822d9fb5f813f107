"""Pictures of more than eight bits: which value is white."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg.errors import ImageError

_TIFF_BITS, _TIFF_MOST = 258, 281  # BitsPerSample, MaxSampleValue
_FULL = 65535
_NARROW = 4096  # data whose values all lie below have twelve bits or fewer in a file of sixteen


def stated_white(image: Image.Image, stream: BinaryIO | None) -> int | None:
    """The largest value that a TIFF or PNG file of wide grey says its data may have; None where it says nothing.

    Args:
        image: opened, perhaps not yet decoded.
        stream: the file; its position is kept.
    """
    if image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2", {})
        bits = int(tags.get(_TIFF_BITS, (16,))[0])
        most = tags.get(_TIFF_MOST, (2**bits - 1,))
        white = int(most[0] if isinstance(most, tuple) else most)
    elif image.format == "PNG" and stream is not None:
        white = 2 ** _png_significant_bits(stream) - 1
    else:
        return None
    return white if white > 0 else None


def wide_to_grey(grey: npt.NDArray[Any], *, white: int | None, name: str) -> npt.NDArray[np.uint8]:
    """(H, W) whole numbers in 0..65535 as uint8, rounded.

    White is the value that the file states, where it states fewer bits than sixteen and no value lies above. Else
    it is 65535, unless all values lie below 4096: then they have the bits that the largest needs, at least eight.

    Args:
        grey: (H, W) integers.
        white: what ``stated_white`` found.
        name: of the image, for errors.

    Raises:
        ImageError: a value is outside of 0..65535.
    """
    wide = grey.astype(np.int64)
    low, high = int(wide.min()), int(wide.max())
    if low < 0 or high > _FULL:
        raise ImageError(
            f"{name} must have grey values in 0..65535, got {low}..{high}; scale it to 16 or 8 bits first"
        )
    if white is None or not high <= white < _FULL:
        white = 2 ** max(8, high.bit_length()) - 1 if high < _NARROW else _FULL
    return ((510 * wide + white) // (2 * white)).astype(np.uint8)


def is_wide_colour(image: Image.Image) -> bool:
    """Whether colours have sixteen bits in the file, of which decoding will keep the upper eight."""
    tiles: Any = getattr(image, "tile", ())
    return any(";16" in str(tile[3]) for tile in tiles) and image.mode.startswith("RGB")


def refuse_lost_colour(rgb: npt.NDArray[np.uint8], *, name: str) -> None:
    """Refuse colours of sixteen bits of which only the lowest twelve are used: decoded they are nearly black."""
    if 0 < rgb.max() < _NARROW >> 8:
        raise ImageError(
            f"{name} must use the range of its 16 bits, got colours of at most 12 bits, of which 4 are left; "
            "scale it to 8 bits first"
        )


def _png_significant_bits(stream: BinaryIO) -> int:
    """What the chunk sBIT of a PNG file says, 16 without one."""
    place = stream.tell()
    try:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"sBIT":
                return max(stream.read(length), default=16)
            if kind == b"IDAT":
                break
            stream.seek(length + 4, 1)
        return 16
    finally:
        stream.seek(place)
