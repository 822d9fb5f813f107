"""Outlines of masks as polygons with holes, as exact as asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ovseg.result.contours import trace
from ovseg.result.segments import Mask, connected_parts, stretches

Ring = npt.NDArray[np.float64]
_FEW = 20_000  # pairs of points that are compared one with the other


class Polygon(NamedTuple):
    """A connected part of a mask: its outline, and those of its holes.

    A ring is (N, 2), x and y in pixels from the upper left corner of the image, so that the centre of the first
    pixel is (0.5, 0.5); its last point is its first. The pixels whose centres lie inside ``outer`` and in none of
    ``holes`` are those of the mask.
    """

    outer: Ring
    holes: tuple[Ring, ...]


def polygons(mask: Mask, *, tolerance: float = 0) -> list[Polygon]:
    """One polygon for each 8-connected part of an (H, W) bool mask, from the top down; its largest hole first.

    Args:
        mask: (H, W) bool.
        tolerance: pixels; points are left out as long as no point of an outline is farther than this from what
            remains of it. Above 0.5 outlines that nearly touch may cross.
    """
    parts, windows = connected_parts(mask)
    if not windows:
        return []
    points, begins = trace(np.pad(mask, 1))  # a pixel of nothing around it, so that every line closes
    (x0, y0), (x1, y1) = np.floor(points[begins]).astype(int).T, np.ceil(points[begins]).astype(int).T
    numbers = np.pad(parts, 1)
    owners = np.maximum(numbers[y0, x0], numbers[y1, x1]) - 1  # one of the two pixels is of no part
    rings = np.split(points - 0.5, begins[1:])  # the centre of a pixel, less the padding
    areas = [ring_area(ring) for ring in rings]
    rings = simplify(rings, tolerance) if tolerance > 0 else rings
    found: list[list[Ring]] = [[] for _ in windows]
    for place in np.argsort(areas, kind="stable"):  # those of holes are negative, the largest hole first
        found[owners[place]].append(rings[place])
    return [Polygon(outer, tuple(holes)) for *holes, outer in found]


def ring_area(ring: Ring) -> float:
    """Square pixels that a closed (N, 2) ring surrounds; negative where it runs as those of holes do."""
    x, y = ring.T
    return float(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:])) / 2


def simplify(rings: Sequence[Ring], tolerance: float) -> list[Ring]:
    """The closed rings without the points that may be left out; one that would shrink to a line stays as it is.

    Args:
        rings: (N, 2) each, their last point their first.
        tolerance: pixels; no point of a ring is farther than this from what remains of it.

    Source: Douglas and Peucker, Algorithms for the reduction of the number of points, 1973; all rings at once.
    """
    if not rings:
        return []
    points = np.concatenate(rings)
    ends = np.cumsum([len(ring) for ring in rings])
    starts = ends - [len(ring) for ring in rings]
    middles = np.array([s + _farthest(ring) for s, ring in zip(starts, rings, strict=True)])
    kept = np.zeros(len(points), dtype=bool)
    kept[np.concatenate([starts, middles, ends - 1])] = True
    first, last = np.concatenate([starts, middles]), np.concatenate([middles, ends - 1])
    while len(first):
        inner = last - first - 1
        first, last, inner = first[inner > 0], last[inner > 0], inner[inner > 0]
        if not len(first):
            break
        places, begins = _between(first, inner)
        distances = _distances(
            points[places], np.repeat(points[first], inner, 0), np.repeat(points[last], inner, 0)
        )
        most = np.maximum.reduceat(distances, begins)
        at = np.minimum.reduceat(np.where(distances == np.repeat(most, inner), places, len(points)), begins)
        split = most > tolerance
        kept[at[split]] = True
        first, last = np.concatenate([first[split], at[split]]), np.concatenate([at[split], last[split]])
    return [
        points[s:e][kept[s:e]] if np.count_nonzero(kept[s:e]) > 3 else ring
        for s, e, ring in zip(starts, ends, rings, strict=True)
    ]


def bridged(rings: Sequence[Ring]) -> Ring:
    """One (N, 2) ring of several: each is entered where it is nearest to the longest, and left the same way.

    Filled by either rule it covers what they cover, as the seams have no width: holes stay open. Its last point is
    its first.
    """
    if len(rings) == 1:
        return rings[0]
    longest = max(range(len(rings)), key=lambda place: len(rings[place]))
    main, others = rings[longest], [*rings[:longest], *rings[longest + 1 :]]
    distances, places = _nearest(np.concatenate(others), main)
    seams, begin = [], 0
    for ring in others:
        there = int(np.argmin(distances[begin : begin + len(ring) - 1]))
        turned = np.concatenate([ring[there:-1], ring[: there + 1]])
        seams.append((int(places[begin + there]), turned))
        begin += len(ring)
    pieces, start = [], 0
    for here, turned in sorted(seams, key=lambda seam: seam[0]):
        pieces += [main[start : here + 1], turned]
        start = here
    return np.concatenate([*pieces, main[start:]])


def _farthest(ring: Ring) -> int:
    return int(np.argmax(((ring - ring[0]) ** 2).sum(1)))


def _between(first: npt.NDArray[np.intp], inner: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], ...]:
    """The places between the ends of each stretch, one after the other, and where those of each begin."""
    return stretches(first + 1, inner), np.cumsum(inner) - inner


def _distances(points: Ring, starts: Ring, ends: Ring) -> npt.NDArray[np.float64]:
    """(N,) distance of each point from a stretch of its own, which may be a point."""
    along, offset = ends - starts, points - starts
    length = np.maximum((along**2).sum(1), np.finfo(float).tiny)
    share = np.clip((offset * along).sum(1) / length, 0, 1)
    distances: npt.NDArray[np.float64] = np.linalg.norm(offset - share[:, None] * along, axis=1)
    return distances


def _nearest(points: Ring, ring: Ring) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """How far each point is from the nearest point of a ring, by some rising measure, and which one that is."""
    from scipy.spatial import KDTree

    if len(points) * len(ring) > _FEW:
        found: tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]] = KDTree(ring).query(points)
        return found
    apart = ((points[:, None] - ring[None]) ** 2).sum(-1)
    return apart.min(1), apart.argmin(1)
