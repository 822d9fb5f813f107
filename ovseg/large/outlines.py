"""Outlines of a finished index map: each connected part whole, however many windows it crosses."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from ovseg.result.formats.geo import PIXELS, Reference, geometry
from ovseg.result.polygons import Polygon, ring_area, simplify

_AT_ONCE = 4096  # parts whose points are simplified and placed on the earth together


def write_outlines(
    stream: IO[str], index: Path, labels: Sequence[str], *, reference: Reference | None, tolerance: float
) -> int:
    """Write GeoJSON: a feature for each 4-connected part of a label, with its label and its number of pixels.

    Memory grows with the number of points of all outlines, and not with that of pixels.

    Args:
        stream: to write to.
        index: GeoTIFF of positions in ``labels``.
        labels: L names.
        reference: how the picture lies on the earth; None leaves coordinates in pixels, and says so.
        tolerance: pixels that an outline may be off.

    Returns:
        The number of features.
    """
    said = {"coordinates": PIXELS} if reference is None else {}
    head = json.dumps({"type": "FeatureCollection", **said}, ensure_ascii=False)
    stream.write(f'{head[:-1]}, "features": [\n')
    count = 0
    parts = _parts(index, len(labels))
    while some := list(islice(parts, _AT_ONCE)):
        for feature in _features(some, labels, reference, tolerance):
            stream.write((",\n" if count else "") + json.dumps(feature, ensure_ascii=False))
            count += 1
    stream.write("\n]}\n")
    return count


def _parts(index: Path, labels: int) -> Iterator[tuple[int, list[Any]]]:
    """The label and the rings, in pixels, of each part, in the order in which they end."""
    import rasterio
    from rasterio.features import shapes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        file = rasterio.open(index)
    with file:
        # GDAL places the corners of pixels by the file's transform
        back = np.array((~file.transform)[:6]).reshape(2, 3)
        for shape, value in shapes(rasterio.band(file, 1), connectivity=4):
            if value < labels:
                rings = [np.array(ring) @ back[:, :2].T + back[:, 2] for ring in shape["coordinates"]]
                yield int(value), [ring.round() for ring in rings]


def _features(
    some: list[tuple[int, list[Any]]], labels: Sequence[str], reference: Reference | None, tolerance: float
) -> Iterator[dict[str, Any]]:
    rings = [ring for _, part in some for ring in part]
    areas = [abs(ring_area(ring)) for ring in rings]
    rings = simplify(rings, tolerance) if tolerance > 0 else rings
    if reference is not None:
        ends = np.cumsum([len(ring) for ring in rings])[:-1]
        rings = np.split(reference.to_degrees(np.concatenate(rings)), ends)
    begin = 0
    for label, part in some:
        outer, *holes = rings[begin : begin + len(part)]
        area, *gone = areas[begin : begin + len(part)]
        begin += len(part)
        yield {
            "type": "Feature",
            "geometry": geometry([Polygon(outer, tuple(holes))], None),
            "properties": {"label": labels[label], "pixels": round(area - sum(gone))},
        }
