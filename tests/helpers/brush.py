"""Label Studio's code of brush masks, read as its description says."""

from __future__ import annotations

from typing import Any

import numpy as np


def decode_brush(code: list[int]) -> np.ndarray[Any, Any]:
    """The values of a mask in Label Studio's code: what ``decode_rle`` of label_studio_sdk does, bit by bit."""
    bits, place = "".join(f"{byte:08b}" for byte in code), 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        run, length = read(1), 0
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if run else [read(word) for _ in range(length)]
    return np.array(values[:total])
