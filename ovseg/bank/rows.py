"""Rows of a vector file in bounded memory: what was read of a mapped file is given back at once."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

BLOCK = 65_536  # rows of a memory-mapped file that are read at once
SCATTERED = 256  # the same of rows that lie apart: about each Linux may map 2 MB that are in its page cache


def blocks(vectors: Vectors, start: int = 0, end: int | None = None) -> Iterator[Vectors]:
    """(n, D) float32 pieces of the rows from ``start`` to ``end``; their pages are given back after their turn."""
    end = len(vectors) if end is None else min(end, len(vectors))
    for first in range(start, end, BLOCK):
        yield vectors[first : min(first + BLOCK, end)]
        give_back(vectors)


def take(vectors: Vectors, rows: NDArray[np.int64]) -> Vectors:
    """(n, D) float32 copies of the ``rows`` (n,), which ascend."""
    taken = np.empty((len(rows), vectors.shape[1]), np.float32)
    for start in range(0, len(vectors), BLOCK):
        first, end = np.searchsorted(rows, [start, start + BLOCK])
        if first < end:
            taken[first:end] = vectors[rows[first:end]]
            give_back(vectors)
    return taken


def gather(vectors: Vectors, rows: NDArray[np.int64]) -> Vectors:
    """(n, D) float32 copies of the ``rows`` (n,), in any order."""
    gathered = np.empty((len(rows), vectors.shape[1]), np.float32)
    for start in range(0, len(rows), SCATTERED):
        gathered[start : start + SCATTERED] = vectors[rows[start : start + SCATTERED]]
        give_back(vectors)
    return gathered


def give_back(vectors: NDArray[np.float32]) -> None:
    """Take the pages of a mapped file out of this process's memory; its bytes stay, on disk or in the page cache.

    Linux counts them as memory of the process until it needs the room, so that a large file that is read once looks
    like a large process. Arrays in memory are left alone.
    """
    owner: object = vectors
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and owner.mode == "c":
            return  # what was changed in such a copy would be lost
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
