"""Label Studio's run-length code of brush masks, which is not COCO's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_SIZES = (3, 4, 8, 16)  # bits that the length of a run may take
_CHANNELS = 4  # a mask is stored as a picture with red, green, blue and opacity, all alike


def encode_brush(mask: npt.NDArray[np.bool_]) -> list[int]:
    """The bytes of Label Studio's code of an (H, W) bool mask.

    The bits are: how many values there are (32), bits of a value less one (5), the four sizes of lengths less one
    (4 each); then for each run a one, which size its length has (2), the length less one, and the value (8); zeros
    fill the last byte.

    Source: ``encode_rle`` of label_studio_sdk's converter/brush.py, after @thi.ng/rle-pack.
    """
    values = np.repeat(mask.ravel().astype(np.uint8) * 255, _CHANNELS)
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] ^ 255))
    lengths = np.diff(np.append(starts, len(values)))
    bits = [f"{len(values):032b}", "00111", *(f"{size - 1:04b}" for size in _SIZES)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        bits += _run(length, int(values[start]))
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[place : place + 8], 2) for place in range(0, len(text), 8)]


def _run(length: int, value: int) -> list[str]:
    longest = 1 << _SIZES[-1]
    found = []
    while length:
        part = min(length, longest)
        which = next(number for number, size in enumerate(_SIZES) if part <= 1 << size)
        found.append(f"1{which:02b}{part - 1:0{_SIZES[which]}b}{value:08b}")
        length -= part
    return found
