"""Copies and near-copies: inside a bank, and between a bank and a test set."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from ovseg.bank.index import VectorIndex
from ovseg.images.fingerprint import BYTES, CHANGES, variants

NEAR = ((4, 0.85), (12, 0.97))
"""Near-copies: difference hashes within so many of 64 bits, and a cosine of at least so much, by either pair."""
COPY = 24
"""Fingerprints of copies differ in at most so many of 143 bits; see ``find_pairs`` for what that finds."""
_NEIGHBOURS = 20
_MOST_WITHIN = 20_000  # images of a bank that are compared each with each


@dataclass(frozen=True)
class Pair:
    """Two images that are the same or nearly so.

    Attributes:
        first, second: their paths.
        cosine: of their vectors.
        exact: whether their files are equal byte for byte.
        change: what was done to the first picture to make the second, such as "mirrored left to right"; empty for
            nothing that can be told.
    """

    first: str
    second: str
    cosine: float
    exact: bool
    change: str = ""


@dataclass(frozen=True)
class Fingerprints:
    """What images are compared by.

    Attributes:
        paths: N.
        sha256: N checksums of the files.
        hashes: (N,) uint64 difference hashes.
        vectors: (N, D) float32 unit.
        looks: (N, 20) uint8, see ``images.fingerprint``; None where they are not known.
    """

    paths: list[str]
    sha256: list[str]
    hashes: NDArray[np.uint64]
    vectors: NDArray[np.float32]
    looks: NDArray[np.uint8] | None = None


def find_pairs(queries: Fingerprints, bank: Fingerprints, index: VectorIndex, *, same: bool) -> list[Pair]:
    """Pairs of a query and a bank image that are copies or near-copies.

    Copies have equal bytes. Near-copies are among each other's nearest vectors, and hash and vector agree as
    ``NEAR`` says: the vectors alone also join different pictures of one thing, the hashes alone also join unlike
    pictures of one layout. The first rule finds copies that were stored again (shrinking moves the vector, not
    the hash), the second those that were cropped a little (which moves the hash, not the vector).

    Measured with ``mini`` on photos of 288 pixels. Hashes of 400 and vectors of 40 photos: all that were stored
    again as JPEG of quality 80 or 50, halved, or made a fifth brighter have a cosine of at least 0.86, and
    97 % or more are within 4 bits; cropped by 5 %, all have at least 0.97 and 99 % are within 12 bits. Of the 7.6
    million pairs of 3,900 photos the first rule joins ten: eight of nearly one picture, two of alike things on
    plain ground; the second joins none among 900.

    Copies that were mirrored or turned move both: they are known by their fingerprints, which differ in at most
    ``COPY`` bits in one of eight positions, as are grey, smaller and darker ones; ``evaluation/README.md`` says
    what that finds and what it joins. Within a bank of more than 20,000 images each is compared with those that are
    near by vector only.

    Args:
        queries: images to look up.
        bank: images of the index, in its order.
        index: over ``bank.vectors``.
        same: whether queries and bank are the same list; then each pair comes once.
    """
    found: dict[tuple[int, int], Pair] = {}
    for first, second in _equal_bytes(queries, bank, same=same):
        cosine = float(queries.vectors[first] @ bank.vectors[second])
        found[first, second] = Pair(queries.paths[first], bank.paths[second], cosine, True)
    for first, second, change in _alike(queries, bank, same=same):
        if (first, second) not in found and not (same and first >= second):
            cosine = float(queries.vectors[first] @ bank.vectors[second])
            found[first, second] = Pair(queries.paths[first], bank.paths[second], cosine, False, change)
    for start in range(0, len(queries.paths), 1024):
        block = np.ascontiguousarray(queries.vectors[start : start + 1024])
        cosines, rows = index.search(block, _NEIGHBOURS)
        bits = np.bitwise_count(queries.hashes[start : start + 1024, None] ^ bank.hashes[np.maximum(rows, 0)])
        alike = [(bits <= most) & (cosines >= least) for most, least in NEAR]
        near = (rows >= 0) & np.logical_or.reduce(alike)
        for offset, rank in np.argwhere(near):
            pair = (start + int(offset), int(rows[offset, rank]))
            if same:
                pair = (min(pair), max(pair))
            if pair not in found and not (same and pair[0] == pair[1]):
                cosine = float(cosines[offset, rank])
                found[pair] = Pair(queries.paths[pair[0]], bank.paths[pair[1]], cosine, False)
    return [found[pair] for pair in sorted(found)]


def find_copies(
    queries: NDArray[np.uint8], known: NDArray[np.uint8], *, most: int = COPY
) -> list[tuple[int, int, str]]:
    """Every query and known picture that is its copy, and what was done to the query; the nearest change of a pair.

    Args:
        queries: (n, 20) uint8 fingerprints.
        known: (N, 20) uint8 fingerprints.
        most: bits that may differ.
    """
    index = faiss.IndexBinaryFlat(8 * BYTES)
    index.add(np.ascontiguousarray(known))
    asked, there = np.any(queries, axis=1, keepdims=True), np.any(known, axis=1, keepdims=True)
    best: dict[tuple[int, int], tuple[int, int]] = {}
    for change, changed in enumerate(variants(queries)):
        limits, distances, rows = index.range_search(np.ascontiguousarray(changed), most + 1)
        ends = limits.astype(np.int64)
        owners = np.repeat(np.arange(len(queries)), (ends[1:] - ends[:-1]).tolist())
        seen = (asked[owners] & there[rows])[:, 0]
        for query, row, distance in zip(owners[seen], rows[seen], distances[seen], strict=True):
            pair = (int(query), int(row))
            best[pair] = min(best.get(pair, (most + 1, 0)), (int(distance), change))
    return [(*pair, CHANGES[change]) for pair, (_, change) in sorted(best.items())]


def _alike(queries: Fingerprints, bank: Fingerprints, *, same: bool) -> list[tuple[int, int, str]]:
    """(query, bank row, change) with nearly the same fingerprint in one of eight positions."""
    if queries.looks is None or bank.looks is None or (same and len(bank.paths) > _MOST_WITHIN):
        return []
    return find_copies(queries.looks, bank.looks)


def _equal_bytes(queries: Fingerprints, bank: Fingerprints, *, same: bool) -> list[tuple[int, int]]:
    """(query, bank row) with the same checksum; within one list each image is paired with the first like it."""
    first_like: dict[str, int] = {}
    for row, digest in enumerate(bank.sha256):
        first_like.setdefault(digest, row)
    matches = [(row, first_like[digest]) for row, digest in enumerate(queries.sha256) if digest in first_like]
    return [(first, row) for row, first in matches if first != row] if same else matches
