"""Results on the map: outlines as GeoJSON, and the index map as GeoTIFF.

Source: RFC 7946 for the order of points and the reference of GeoJSON.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg.errors import ImageError
from ovseg.files import atomic_path
from ovseg.images.load import quiet_pillow
from ovseg.result.formats.base import Add, Format, Options, Place
from ovseg.result.formats.spool import open_text
from ovseg.result.items import items, outlines
from ovseg.result.overlay import palette
from ovseg.result.polygons import Polygon, Ring, ring_area
from ovseg.result.storage import index_values

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult

_GEO_KEYS = 34735  # the tag of a TIFF file that says how its coordinates lie on the earth
PIXELS = "pixels from the upper left corner, x to the right and y down"
"""What coordinates are where a photo does not say where it lies."""
_DIGITS = 9  # of coordinates: a millimetre in degrees

_NONE = "has no geo-reference"

Locate = Callable[[Ring], Ring]


class Reference(NamedTuple):
    """How a photo lies on the earth.

    Attributes:
        crs: rasterio's reference system.
        transform: affine, from pixels (the upper left corner of the photo is 0, 0) to its coordinates.
        valid: (H, W) bool, false where the photo says that it has no data; None where that was not asked.
    """

    crs: Any
    transform: Any
    valid: npt.NDArray[np.bool_] | None = None

    def to_degrees(self, ring: Ring) -> Ring:
        """(N, 2) x and y in pixels to longitude and latitude (WGS84)."""
        from rasterio.warp import transform

        steps = np.array(self.transform[:6]).reshape(2, 3)
        x, y = steps[:, :2] @ ring.T + steps[:, 2:]
        return np.stack(transform(self.crs, "EPSG:4326", x, y), 1)


@contextmanager
def _geojson(out: Path, options: Options) -> Iterator[Add]:
    referenced = _asking(options.tell, f"coordinates in GeoJSON are {PIXELS}")

    def add(result: SegmentationResult, place: Place) -> None:
        found = referenced(place, result.size)
        locate = None if found is None else found.to_degrees
        with open_text(place.folder / f"{place.name}.geojson") as stream:
            stream.write(json.dumps(features(result, locate, tolerance=options.tolerance), ensure_ascii=False))

    yield add


@contextmanager
def _geotiff(out: Path, options: Options) -> Iterator[Add]:
    referenced = _asking(options.tell, "its GeoTIFF has none either")

    def add(result: SegmentationResult, place: Place) -> None:
        found = referenced(place, result.size)
        with atomic_path(place.folder / f"{place.name}_labels.tif") as temporary:
            _write_tiff(temporary, result, found)

    yield add


def _asking(tell: Callable[[str], None], consequence: str) -> Callable[[Place, tuple[int, int]], Reference | None]:
    """How a photo lies on the earth; each reason why that is not known is told once, with what comes of it."""
    told: set[str] = set()

    def ask(place: Place, size: tuple[int, int]) -> Reference | None:
        found = reference(place, size)
        if isinstance(found, Reference):
            return found
        if found not in told:
            told.add(found)
            tell(f"'{place.source}' {found}: {consequence} (and so for every photo like it)")
        return None

    return ask


def reference(place: Place, size: tuple[int, int]) -> Reference | str:
    """How the photo lies on the earth, or why that is not known.

    Args:
        place: where the photo is.
        size: (H, W) of the result.
    """
    try:
        import rasterio
    except ImportError:
        known = _says_where(place.photo)
        return "has a geo-reference that only pip install 'ovseg[geo]' can read" if known else _NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            with rasterio.open(place.photo) as photo:
                found = reference_of(photo)
                if isinstance(found, Reference) and photo.shape != size:
                    return "has a geo-reference for more or fewer pixels than its result"
                valid = photo.dataset_mask() > 0 if isinstance(found, Reference) else None
        except rasterio.errors.RasterioError:
            return _NONE
    return found if valid is None or isinstance(found, str) else found._replace(valid=valid)


def reference_of(photo: Any) -> Reference | str:
    """How an open photo of rasterio's lies on the earth, but for its missing data; or why that is not known."""
    if photo.crs is None or photo.transform.is_identity:
        return _NONE
    found = Reference(photo.crs, photo.transform)
    return found if _leads_somewhere(found, photo.shape) else "has a geo-reference that leads nowhere on the earth"


def _leads_somewhere(found: Reference, size: tuple[int, int]) -> bool:
    height, width = size
    try:
        corners = found.to_degrees(np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=float))
    except Exception:  # GDAL's errors have no public class
        return False
    return bool(np.isfinite(corners).all())


def _says_where(photo: Path) -> bool:
    """Whether a file is a TIFF with a geo-reference, which Pillow can tell."""
    try:
        with quiet_pillow(), Image.open(photo) as image:
            return _GEO_KEYS in getattr(image, "tag_v2", {})
    except (OSError, ValueError, ImageError):
        return False


def features(result: SegmentationResult, locate: Locate | None, *, tolerance: float) -> dict[str, Any]:
    """GeoJSON of a result: a feature for each object, and for all that each other label covers.

    Args:
        result: of the photo.
        locate: takes (N, 2) x and y in pixels to longitude and latitude; coordinates stay pixels if None.
        tolerance: pixels that an outline may be off.
    """
    some = list(items(result))
    rows = [
        {
            "type": "Feature",
            "geometry": geometry(found, locate),
            "properties": {
                "label": item.label,
                "score": item.score,
                "object": item.number or None,
                "pixels": item.area,
            },
        }
        for item, found in zip(some, outlines(some, tolerance=tolerance), strict=True)
    ]
    said = {"coordinates": PIXELS} if locate is None else {}
    return {"type": "FeatureCollection", **said, "features": rows}


def geometry(found: Sequence[Polygon], locate: Locate | None) -> dict[str, Any]:
    """GeoJSON of polygons, whose rings are closed; ``locate`` as in ``features``."""
    rings = [ring for polygon in found for ring in (polygon.outer, *polygon.holes)]
    points = np.concatenate(rings)
    points = points if locate is None else locate(points)
    placed = iter(np.split(points, np.cumsum([len(ring) for ring in rings])[:-1]))
    parts = [
        [_turned(next(placed), outer=place == 0) for place in range(1 + len(polygon.holes))] for polygon in found
    ]
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}


def _turned(ring: Ring, *, outer: bool) -> list[list[float]]:
    """The points of a ring: against the clock, where y grows upwards, for an outer one, else the other way."""
    right = (ring_area(ring) > 0) == outer
    points: list[list[float]] = np.round(ring if right else ring[::-1], _DIGITS).tolist()
    return points


def _write_tiff(path: Path, result: SegmentationResult, found: Reference | None) -> None:
    values, none = index_values(result.index_map, labels=len(result.labels))
    if found is not None and found.valid is not None:
        values = np.where(found.valid, values, values.dtype.type(none))
    where = {} if found is None else {"crs": found.crs, "transform": found.transform}
    with open_index(path, result.labels, size=result.size, **where) as file:
        file.write(values, 1)


@contextmanager
def open_index(path: Path, labels: Sequence[str], *, size: tuple[int, int], **profile: Any) -> Iterator[Any]:
    """A GeoTIFF of rasterio's for the positions of labels, open to be written.

    Args:
        path: of the file.
        labels: L names; with more than 255 the file has 16 bits.
        size: (H, W).
        profile: further keywords of ``rasterio.open``, such as ``crs``.
    """
    nothing, none = index_values(np.empty((0, 0), np.int32), labels=len(labels))
    with open_tiff(path, size=size, dtype=nothing.dtype, nodata=none, **profile) as file:
        file.set_band_description(1, "label")
        file.update_tags(LABELS=json.dumps(list(labels)))
        if nothing.dtype == np.uint8:
            file.write_colormap(1, dict(enumerate(map(tuple, palette(len(labels)).tolist()))))
        yield file


@contextmanager
def open_tiff(
    path: Path, *, size: tuple[int, int], dtype: npt.DTypeLike, nodata: int | None, **profile: Any
) -> Iterator[Any]:
    """A GeoTIFF of rasterio's with one band, open to be written.

    Args:
        path: of the file.
        size: (H, W).
        dtype: of its values.
        nodata: the value that stands for none.
        profile: further keywords of ``rasterio.open``, such as ``crs``.
    """
    import rasterio

    shape = {"height": size[0], "width": size[1], "count": 1, "dtype": dtype, "nodata": nodata}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", compress="lzw", **shape, **profile) as file:
            yield file


GEOJSON = Format("geojson", "NAME.geojson", "", "", _geojson, opens_photo=True, by_object=True)
GEOTIFF = Format("geotiff", "NAME_labels.tif", "", "objects and scores", _geotiff, extra="geo", opens_photo=True)
