from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovseg.images.tiles import Tile
from ovseg.large.objects import SceneObject
from ovseg.large.outlines import write_outlines
from ovseg.large.strips import Strips
from ovseg.result.formats.geo import Reference, open_index
from ovseg.result.segments import encode_mask

rasterio = pytest.importorskip("rasterio", reason="needs pip install 'ovseg[geo]'")
LABELS = ["roof", "lake"]


def outlined(path: Path, *, metres: float, reference: bool, tolerance: float = 0) -> list[dict[str, Any]]:
    """A roof of 40 x 48 pixels with a court of 8 x 10, and two lakes that touch at a corner; the rest is none."""
    index = np.full((300, 200), 255, np.uint8)
    index[100:140, 60:108] = 0
    index[110:118, 70:80] = 255
    index[200:210, 10:20] = 1
    index[210:220, 20:30] = 1
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(metres, 0, 500_000, 0, -metres, 5_500_000)}
    with open_index(path, LABELS, size=(300, 200), **place, tiled=True, blockxsize=16, blockysize=16) as file:
        file.write(index, 1)
    stream = io.StringIO()
    found = Reference(place["crs"], place["transform"]) if reference else None
    count = write_outlines(stream, path, LABELS, reference=found, tolerance=tolerance)
    features: list[dict[str, Any]] = json.loads(stream.getvalue())["features"]
    assert count == len(features)
    return sorted(features, key=lambda each: (each["properties"]["label"], each["properties"]["pixels"]))


def test_parts_are_whole_with_their_holes_and_count_their_pixels(tmp_path: Path) -> None:
    *lakes, roof = outlined(tmp_path / "index.tif", metres=0.3, reference=False)
    assert roof["properties"] == {"label": "roof", "pixels": 40 * 48 - 80}
    outer, hole = roof["geometry"]["coordinates"]
    assert sorted(map(tuple, outer[:-1])) == [(60, 100), (60, 140), (108, 100), (108, 140)]
    assert sorted(map(tuple, hole[:-1])) == [(70, 110), (70, 118), (80, 110), (80, 118)]
    assert [lake["properties"] for lake in lakes] == [{"label": "lake", "pixels": 100}] * 2


def test_outlines_lie_on_the_earth(tmp_path: Path) -> None:
    """The central meridian of zone 33 is 15 degrees east, where UTM's x is 500 km; 30 m are 0.00042 degrees."""
    *_, roof = outlined(tmp_path / "index.tif", metres=0.5, reference=True)
    longitude, latitude = np.transpose(roof["geometry"]["coordinates"][0])
    assert (longitude.min(), latitude.max()) == pytest.approx((15.00042, 49.65), abs=2e-2)
    assert longitude.min() == pytest.approx(15 + 30 / (111_320 * np.cos(np.radians(latitude.max()))), abs=2e-6)
    shapely = pytest.importorskip("shapely.geometry", reason="checks with shapely where it is installed")
    shape = shapely.shape(roof["geometry"])
    assert shape.is_valid and shape.exterior.is_ccw
    x, y = rasterio.warp.transform("EPSG:4326", "EPSG:32633", longitude, latitude)
    assert abs(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:])) / 2 == pytest.approx(40 * 48 / 4, rel=1e-3)


def written(path: Path, *objects: SceneObject, things: tuple[str, ...]) -> list[dict[str, Any]]:
    """Features beside a label map of 60 x 50 pixels whose left half is lake."""
    index = np.full((60, 50), 255, np.uint8)
    index[:, :25] = 1
    with open_index(path, LABELS, size=(60, 50)) as file:
        file.write(index, 1)
    stream = io.StringIO()
    write_outlines(stream, path, LABELS, reference=None, tolerance=0, objects=objects, things=things)
    features: list[dict[str, Any]] = json.loads(stream.getvalue())["features"]
    return features


@pytest.mark.parametrize("largest", [4096, 4])
def test_objects_are_outlined_one_by_one_even_where_they_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    """The same from memory and, where they are too large for it, from a file in pieces of 16 pixels."""
    monkeypatch.setattr("ovseg.large.outlines._LARGEST", largest)
    monkeypatch.setattr("ovseg.large.outlines._TILE", 16)
    mask = np.zeros((60, 50), bool)
    mask[5:45, 10:40] = True
    mask[10:20, 20:30] = False  # a court
    mask[50:55, 10:20] = True  # and a part that lies apart
    whole = Strips.of_rle(encode_mask(mask), corner=(0, 0))
    roof, other = SceneObject.of(whole, "roof", 0.75), SceneObject.of(whole.within(Tile(0, 15, 60, 9)), "roof", 0.5)
    first, second, lake = written(tmp_path / "index.tif", roof, other, things=("roof",))
    assert first["properties"] == {"label": "roof", "score": 0.75, "object": 1, "pixels": 40 * 30 - 100 + 50}
    assert second["properties"] == {"label": "roof", "score": 0.5, "object": 2, "pixels": 9 * 40 - 40 + 25}
    assert lake["properties"] == {"label": "lake", "pixels": 60 * 25}
    assert (first["geometry"]["type"], lake["geometry"]["type"]) == ("MultiPolygon", "Polygon")
    rings = [[sorted(map(tuple, ring[:-1])) for ring in part] for part in first["geometry"]["coordinates"]]
    assert sorted(rings) == [
        [[(10, 5), (10, 45), (40, 5), (40, 45)], [(20, 10), (20, 20), (30, 10), (30, 20)]],
        [[(10, 50), (10, 55), (20, 50), (20, 55)]],
    ]
    assert [
        each["properties"]["label"] for each in written(tmp_path / "index.tif", roof, things=("roof", "lake"))
    ] == ["roof"]
