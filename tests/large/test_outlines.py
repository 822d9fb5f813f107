from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovseg.large.outlines import write_outlines
from ovseg.result.formats.geo import Reference, open_index

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
