"""What a picture looks like in 143 bits: its copies have nearly the same, also grey, mirrored or turned ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

BYTES = 20
_SIDE, _KEPT = 32, 12  # of the grey thumbnail, and of the square of its slowest waves
_FLAT = 2.0  # grey levels: what deviates less, such as an empty page, has no look of its own

CHANGES = (
    "",
    "mirrored left to right",
    "mirrored top to bottom",
    "turned by 180 degrees",
    "mirrored over its diagonal",
    "turned by 90 degrees clockwise",
    "turned by 90 degrees counterclockwise",
    "mirrored over its other diagonal",
)
"""What was done to a picture so that it has the fingerprint of that row of ``variants``."""


def fingerprint(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(20,) uint8: the signs of the 143 slowest waves in a square grey thumbnail; all 0 for a flat picture.

    A mirrored picture has the same waves with other signs, a turned one has rows and columns exchanged; grey,
    brightness and size leave them as they are.

    Args:
        pixels: (H, W, 3) uint8.
    """
    grey = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.HAMMING)
    small = np.asarray(grey, np.float64)
    if small.std() < _FLAT:
        return np.zeros(BYTES, np.uint8)
    waves = dctn(small, norm="ortho")[None, :_KEPT, :_KEPT]
    (found,) = _packed(waves > 0)
    return np.asarray(found)


def variants(fingerprints: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(8, N, 20): the fingerprints that the pictures would have after each of ``CHANGES``.

    Args:
        fingerprints: (N, 20) uint8.
    """
    bits = np.unpackbits(fingerprints, axis=1)[:, : _KEPT * _KEPT].reshape(-1, _KEPT, _KEPT).astype(np.bool_)
    odd = np.arange(_KEPT) % 2 == 1  # waves that a mirror turns over
    changed = []
    for turned in (bits, bits.swapaxes(1, 2)):
        for rows in (False, True):
            for columns in (False, True):
                changed.append(turned ^ (odd[:, None] & rows) ^ (odd & columns))
    found = np.stack([_packed(each) for each in changed])
    found[:, ~fingerprints.any(axis=1)] = 0
    return found


def _packed(bits: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(N, 20) of (N, 12, 12) bits; the first, of the mean, is left out."""
    flat = bits.reshape(len(bits), -1).copy()
    flat[:, 0] = False
    return np.pad(np.packbits(flat, axis=1), ((0, 0), (0, BYTES - flat.shape[1] // 8)))
