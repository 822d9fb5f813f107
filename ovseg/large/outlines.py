"""Outlines of a finished result: each object, and each connected part of a label, whole across all windows."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, NamedTuple

import numpy as np

from ovseg.images.tiles import Tile
from ovseg.large.objects import SceneObject
from ovseg.result.formats.geo import PIXELS, Reference, geometry, open_tiff
from ovseg.result.polygons import Polygon, Ring, ring_area, simplify

_AT_ONCE = 4096  # outlines whose points are simplified and placed on the earth together
_LARGEST = 4096  # pixels a side, in mean, up to which the box of an object is held in memory
_TILE = 1024  # pixels a side of the pieces of larger ones


class _Shape(NamedTuple):
    """What a feature is made of: properties, and the rings, in pixels, of each of its parts, the outer first."""

    properties: Mapping[str, Any]
    parts: list[list[Ring]]


def write_outlines(
    stream: IO[str],
    index: Path,
    labels: Sequence[str],
    *,
    reference: Reference | None,
    tolerance: float,
    objects: Sequence[SceneObject] = (),
    things: Sequence[str] = (),
    scratch: Path | None = None,
) -> int:
    """Write GeoJSON: a feature for each object, and for each 4-connected part of the labels that have none.

    An object has its label, score, number (``object``) and pixels, a part its label and pixels. Memory grows with
    the number of points of all outlines, and not with that of pixels.

    Args:
        stream: to write to.
        index: GeoTIFF of positions in ``labels``.
        labels: L names.
        reference: how the picture lies on the earth; None leaves coordinates in pixels, and says so.
        tolerance: pixels that an outline may be off.
        objects: in order.
        things: the labels of which objects were looked for.
        scratch: folder where the mask of an object that is too large for the memory lies for a while; None takes
            the system's.

    Returns:
        The number of features.
    """
    said = {"coordinates": PIXELS} if reference is None else {}
    head = json.dumps({"type": "FeatureCollection", **said}, ensure_ascii=False)
    stream.write(f'{head[:-1]}, "features": [\n')
    count = 0
    shapes = chain(_objects(objects, scratch), _parts(index, labels, things))
    while some := list(islice(shapes, _AT_ONCE)):
        for feature in _features(some, reference, tolerance):
            stream.write((",\n" if count else "") + json.dumps(feature, ensure_ascii=False))
            count += 1
    stream.write("\n]}\n")
    return count


def _parts(index: Path, labels: Sequence[str], things: Sequence[str]) -> Iterator[_Shape]:
    """Each part of a label that is no thing, in the order in which they end."""
    wanted = {number for number, label in enumerate(labels) if label not in things}
    for value, rings in _rings(index):
        if value in wanted:
            area, *gone = (abs(ring_area(ring)) for ring in rings)
            yield _Shape({"label": labels[value], "pixels": round(area - sum(gone))}, [rings])


def _objects(objects: Sequence[SceneObject], scratch: Path | None) -> Iterator[_Shape]:
    """Each object, in order."""
    with TemporaryDirectory(dir=scratch) as place:
        for number, each in enumerate(objects, start=1):
            x0, y0, x1, y1 = each.box
            large = (x1 - x0) * (y1 - y0) > _LARGEST**2
            source = _on_disk(each, Path(place) / "mask.tif") if large else each.mask().astype(np.uint8)
            parts = [[ring + np.array([x0, y0]) for ring in rings] for value, rings in _rings(source) if value]
            properties = {"label": each.label, "score": each.score, "object": number, "pixels": each.area}
            yield _Shape(properties, parts)


def _on_disk(each: SceneObject, path: Path) -> Path:
    """A TIFF file of the mask in the box of an object."""
    x0, y0, x1, y1 = each.box
    strips = each.strips
    stored = {"tiled": True, "blockxsize": _TILE, "blockysize": _TILE, "bigtiff": "if_safer"}
    with open_tiff(path, size=(y1 - y0, x1 - x0), dtype=np.uint8, nodata=None, **stored) as file:
        for top in range(y0, y1, _TILE):
            for left in range(x0, x1, _TILE):
                tile = Tile(top, left, min(_TILE, y1 - top), min(_TILE, x1 - left))
                values = np.zeros((tile.height, tile.width), np.uint8)
                strips.paint(values, 1, corner=(top, left))
                file.write(values, 1, window=window_of(Tile(top - y0, left - x0, tile.height, tile.width)))
    return path


def window_of(place: Tile) -> Any:
    """A tile as rasterio's window."""
    from rasterio.windows import Window

    return Window(place.left, place.top, place.width, place.height)


def _rings(source: Any) -> Iterator[tuple[int, list[Ring]]]:
    """The value and the rings, in pixels, of each 4-connected part of a TIFF file or of an (H, W) uint8 array."""
    import rasterio
    from rasterio.features import shapes

    if not isinstance(source, Path):
        found = shapes(source, mask=source > 0, connectivity=4)
        yield from ((int(value), [np.array(ring) for ring in shape["coordinates"]]) for shape, value in found)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        file = rasterio.open(source)
    with file:
        # GDAL places the corners of pixels by the file's transform
        back = np.array((~file.transform)[:6]).reshape(2, 3)
        for shape, value in shapes(rasterio.band(file, 1), connectivity=4):
            rings = (np.array(ring) @ back[:, :2].T + back[:, 2] for ring in shape["coordinates"])
            yield int(value), [ring.round() for ring in rings]


def _features(some: list[_Shape], reference: Reference | None, tolerance: float) -> Iterator[dict[str, Any]]:
    rings = [ring for shape in some for part in shape.parts for ring in part]
    rings = simplify(rings, tolerance) if tolerance > 0 else rings
    if reference is not None:
        ends = np.cumsum([len(ring) for ring in rings])[:-1]
        rings = np.split(reference.to_degrees(np.concatenate(rings)), ends)
    placed = iter(rings)
    for shape in some:
        polygons = [Polygon(next(placed), tuple(next(placed) for _ in part[1:])) for part in shape.parts]
        yield {"type": "Feature", "geometry": geometry(polygons, None), "properties": dict(shape.properties)}
