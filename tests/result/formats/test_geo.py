"""GeoJSON and GeoTIFF, by hand-worked values and as shapely and rasterio read them."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from helpers.results import WILD, drawn, filled, place_of, write
from scipy.ndimage import gaussian_filter

from ovseg.result import SegmentationResult
from ovseg.result.formats import Place
from ovseg.result.formats.geo import features

ROWS = ["aaa...BB", "a.a...BB", "aaa....."]


def result_of(rows: list[str] = ROWS) -> SegmentationResult:
    return drawn(rows, "roof", "tree", things=["tree"], score=0.75)


def signed_area(ring: list[list[float]]) -> float:
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring)) / 2


def test_without_a_reference_coordinates_are_pixels_and_that_is_told_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = write(out, "geojson", result_of(), result_of(), places=[place_of(out, size=(3, 8)), place_of(out, "b")])
    pixels = "pixels from the upper left corner, x to the right and y down"
    (sentence,) = told
    assert sentence.endswith(
        f"photo.png' has no geo-reference: coordinates in GeoJSON are {pixels} (and so for every photo like it)"
    )
    found = json.loads((out / "photo.geojson").read_text())
    assert (found["type"], found["coordinates"]) == ("FeatureCollection", pixels)
    tree, roof = found["features"]
    assert tree["properties"] == {"label": "tree", "score": 0.5, "object": 1, "pixels": 4}
    assert roof["properties"] == {"label": "roof", "score": 0.75, "object": None, "pixels": 8}
    assert tree["geometry"]["type"] == "Polygon" and len(roof["geometry"]["coordinates"]) == 2
    (ring,) = tree["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    corners = [[6.5, 0], [7.5, 0], [8, 0.5], [8, 1.5], [7.5, 2], [6.5, 2], [6, 1.5], [6, 0.5]]
    assert sorted(ring[:-1]) == sorted(corners)


def test_points_are_located_and_outer_rings_run_against_the_clock() -> None:
    def locate(points: np.ndarray) -> np.ndarray:
        return np.array([10, 50]) + points * [0.1, -0.1]  # y upwards

    for feature in features(result_of(), locate, tolerance=0)["features"]:
        outer, *holes = feature["geometry"]["coordinates"]
        assert signed_area(outer) > 0 and all(signed_area(hole) < 0 for hole in holes)
    (tree, _) = features(result_of(), locate, tolerance=0)["features"]
    assert min(tree["geometry"]["coordinates"][0]) == [10.6, 49.85]


def test_parts_of_one_label_are_one_feature_that_covers_its_pixels() -> None:
    result = result_of(["aaaa.aa.", "a..a.a..", "aaaa.a.a"])
    (roof,) = features(result, None, tolerance=0)["features"]
    assert roof["geometry"]["type"] == "MultiPolygon"
    covered = np.zeros(result.size, int)
    for part in roof["geometry"]["coordinates"]:
        for ring in part:
            covered += filled(ring, result.size)
    np.testing.assert_array_equal(covered % 2 == 1, result.mask("roof"))  # a pixel of the hole is in two rings


def test_any_label_comes_back_and_a_photo_without_labels_has_no_features(tmp_path: Path) -> None:
    write(tmp_path / "out", "geojson", drawn(["a.b.c.d.e.f.g"], *WILD), drawn(["..."], *WILD))
    full, empty = (json.loads((tmp_path / f"out/{name}.geojson").read_text()) for name in ("photo", "photo1"))
    assert [each["properties"]["label"] for each in full["features"]] == list(WILD)
    assert empty["features"] == []


def test_a_reference_that_needs_a_package_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    photo = tmp_path / "photo.tif"
    keys = (34735, "H", 4, (1, 1, 0, 0), True)  # GeoKeyDirectoryTag
    tifffile.imwrite(photo, np.zeros((3, 8), np.uint8), extratags=[keys])
    (told,) = write(tmp_path, "geojson", result_of(), places=[Place(tmp_path, "", "photo", photo, "photo.tif")])
    assert told.startswith("'photo.tif' has a geo-reference that only pip install 'ovseg[geo]' can read: ")
    assert "coordinates" in json.loads((tmp_path / "photo.geojson").read_text())


@pytest.mark.parametrize("tolerance", [0, 0.3, 0.5])
def test_outlines_are_valid_for_shapely_and_within_the_tolerance(tolerance: float) -> None:
    shapely = pytest.importorskip("shapely", reason="shapely is not installed")
    noise = gaussian_filter(np.random.default_rng(1).random((60, 70)), 1)
    result = result_of(["".join("a."[int(value > 0.5)] for value in row) for row in noise])
    exact, loose = (
        shapely.geometry.shape(features(result, None, tolerance=size)["features"][0]["geometry"])
        for size in (0, tolerance)
    )
    assert loose.is_valid
    assert exact.boundary.hausdorff_distance(loose.boundary) <= tolerance + 1e-9


def geotiff(path: Path, crs: str, transform: Any, values: np.ndarray, nodata: float | None = None) -> Place:
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    height, width = values.shape
    shape = {"height": height, "width": width, "count": 1, "dtype": values.dtype, "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **shape) as file:
        file.write(values, 1)
    return Place(path.parent, "", path.stem, path, str(path))


def test_a_photo_with_a_reference_gives_degrees(tmp_path: Path) -> None:
    affine = pytest.importorskip("affine", reason="rasterio is not installed")
    values = np.ones((3, 8), np.uint8)
    degrees = affine.Affine(0.1, 0, 10, 0, -0.1, 50)
    metres = affine.Affine(10, 0, 500_000, 0, -10, 0)  # the middle of zone 33 on the equator
    places = [
        geotiff(tmp_path / "degrees.tif", "EPSG:4326", degrees, values),
        geotiff(tmp_path / "metres.tif", "EPSG:32633", metres, values),
    ]
    rows = ["a.......", "........", "........"]
    assert write(tmp_path, "geojson", result_of(rows), result_of(rows), places=places) == []
    found = json.loads((tmp_path / "degrees.geojson").read_text())
    assert set(found) == {"type", "features"}
    ring = found["features"][0]["geometry"]["coordinates"][0]
    assert sorted(ring[:-1]) == [[10, 49.95], [10.05, 49.9], [10.05, 50], [10.1, 49.95]]
    ring = json.loads((tmp_path / "metres.geojson").read_text())["features"][0]["geometry"]["coordinates"][0]
    west, east = min(x for x, _ in ring), max(x for x, _ in ring)
    north, south = max(y for _, y in ring), min(y for _, y in ring)
    assert (west, north) == pytest.approx((15, 0), abs=1e-8)
    assert (east - west, north - south) == pytest.approx((10 / 111_275, 10 / 110_530), rel=1e-3)


def test_a_geotiff_keeps_reference_and_missing_data_and_has_the_index_map(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    values = np.ones((3, 8), np.uint8)
    values[0, 0] = 0
    place = geotiff(tmp_path / "a.tif", "EPSG:32633", rasterio.Affine(10, 0, 500_000, 0, -10, 0), values, nodata=0)
    assert write(tmp_path, "geotiff", result_of(), places=[place]) == ["geotiff cannot hold objects and scores"]
    expected = result_of().index_map.copy()
    expected[0, 0] = -1
    with rasterio.open(tmp_path / "a_labels.tif") as file:
        assert (file.crs.to_epsg(), file.transform, file.nodata) == (
            32633,
            rasterio.Affine(10, 0, 500_000, 0, -10, 0),
            255,
        )
        np.testing.assert_array_equal(file.read(1), np.where(expected < 0, 255, expected))
        assert json.loads(file.tags()["LABELS"]) == ["roof", "tree"]
        assert file.compression.name == "lzw" and len(set(file.colormap(1).values())) > 2


def test_a_geotiff_of_many_labels_has_16_bits_and_one_without_reference_says_so(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    names = tuple(f"label {number}" for number in range(300))
    index_map = np.array([[299, -1]], np.int32)
    result = SegmentationResult(index_map, names, np.ones((1, 2), np.float32), dict.fromkeys(names, 1.0))
    _, told = write(tmp_path / "out", "geotiff", result)
    assert "has no geo-reference: its GeoTIFF has none either" in told
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(tmp_path / "out/photo_labels.tif") as file,
    ):
        assert file.read(1).tolist() == [[299, 65535]] and file.nodata == 65535 and file.crs is None


def test_a_reference_of_another_size_or_nowhere_is_told(tmp_path: Path) -> None:
    affine = pytest.importorskip("affine", reason="rasterio is not installed")
    other = geotiff(tmp_path / "b.tif", "EPSG:4326", affine.Affine(1, 0, 0, 0, 1, 1), np.ones((9, 9), np.uint8))
    far = affine.Affine(1, 0, 1e20, 0, 1, 1e20)
    nowhere = geotiff(tmp_path / "c.tif", "EPSG:32633", far, np.ones((3, 8), np.uint8))
    told = write(tmp_path, "geojson", result_of(), result_of(), places=[other, nowhere])
    assert "for more or fewer pixels than its result" in told[0] and "leads nowhere on the earth" in told[1]
