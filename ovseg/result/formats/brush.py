"""Label Studio's run-length code of brush masks, which is not COCO's.

Source: label-studio-sdk, converter/brush.py, after thi.ng's rle-pack.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ovseg.result.segments import Mask, Size

_SIZES = np.array([3, 4, 8, 16])  # bits in which the length of a run less one may be written
_LONGEST = 1 << _SIZES
_PLACES = np.arange(3 + 16 + 8)[::-1]  # of the bits of the longest word
_SIZE_BITS = [int(bit) for bit in "00111" + "".join(f"{bits - 1:04b}" for bits in _SIZES)]


def encode_brush(mask: Mask, *, corner: tuple[int, int] = (0, 0), size: Size | None = None) -> list[int]:
    """The bytes of Label Studio's runs of a mask, row by row.

    Each pixel stands four times, as red, green, blue and opacity: 255 where the mask is, else 0. First come the
    number of values (32 bits), the bits of a value less one (5), and four sizes less one (4 each); then for each
    run a 1, which of the sizes it takes (2), its length less one in so many bits, and its value.

    Args:
        mask: (h, w) bool, a window of an image.
        corner: row and column of its first pixel in the image.
        size: (H, W) of the image; that of the mask if None.
    """
    size = size or (mask.shape[0], mask.shape[1])
    lengths, values = _runs(mask, corner, size)
    kinds = np.searchsorted(_LONGEST, lengths)  # the smallest size that holds the length
    bits = _SIZES[kinds]
    words = ((4 | kinds) << (bits + 8)) | ((lengths - 1) << 8) | values
    spread = (words[:, None] >> _PLACES) & 1  # the highest first
    used = spread[bits[:, None] + 11 > _PLACES]
    count = np.array([4 * size[0] * size[1]], dtype=">u4").tobytes()
    packed: bytes = np.packbits(np.concatenate([_SIZE_BITS, used]).astype(np.uint8)).tobytes()
    return list(count + packed)


def _runs(mask: Mask, corner: tuple[int, int], size: Size) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Lengths, 1 to 65536, and values, 0 or 255, of the runs of four values a pixel."""
    (top, left), (height, width) = corner, mask.shape
    framed = np.zeros((height, width + 2), dtype=bool)
    framed[:, 1:-1] = mask
    rows, columns = np.nonzero(framed[:, 1:] != framed[:, :-1])  # where runs begin and end, in turn
    places = 4 * ((rows + top) * size[1] + columns + left)
    apart = np.ones(len(places), dtype=bool)
    apart[1:-1] = np.repeat(places[1:-1:2] < places[2::2], 2)  # not where one ends right and goes on left
    ends = np.concatenate([[0], places[apart], [4 * size[0] * size[1]]])
    lengths = ends[1:] - ends[:-1]
    pieces = -(-lengths // _LONGEST[-1])  # none of an empty run
    last = np.cumsum(pieces) - 1
    split = np.full(last[-1] + 1, _LONGEST[-1])
    some = pieces > 0
    split[last[some]] = (lengths - (pieces - 1) * _LONGEST[-1])[some]
    return split, np.repeat(np.arange(len(lengths)) % 2 * 255, pieces)
