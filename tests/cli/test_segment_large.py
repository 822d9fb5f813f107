"""``ovseg segment`` of pictures that are read by windows."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.toy import COLOURS, make_segmenter
from PIL import Image
from typer.testing import CliRunner, Result

from ovseg.cli import build_app

rasterio = pytest.importorskip("rasterio", reason="needs pip install 'ovseg[geo]'")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = make_segmenter()
    monkeypatch.setattr("ovseg.pipeline.opening.load", lambda *given, **named: segmenter)
    monkeypatch.setattr("ovseg.load", lambda *given, **named: segmenter, raising=False)


def ovseg(*arguments: object) -> Result:
    return CliRunner().invoke(build_app(), ["segment", *map(str, arguments)])


def picture(path: Path) -> Path:
    pixels = np.full((400, 300, 3), COLOURS["red"], np.uint8)
    pixels[200:] = COLOURS["blue"]
    Image.fromarray(pixels).save(path)
    return path


def test_a_large_tiff_is_read_by_windows_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovseg.cli.large.MANY_PIXELS", 100_000)
    path, out = picture(tmp_path / "scene.tif"), tmp_path / "out"
    picture(tmp_path / "photo.png")
    formats = ["--format", "areas", "--format", "geojson"]
    result = ovseg(path, tmp_path / "photo.png", "red", "blue", "--out", out, *formats, "--json")
    assert result.exit_code == 0, result.output
    assert "scene.tif' is read by 6 windows of 256 pixels, which share 128 or more" in result.stderr
    assert "has no geo-reference: coordinates in GeoJSON are pixels" in result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["photo.png", "scene.tif"]
    assert rows[1]["size"] == [400, 300]
    assert [row["area"] for row in rows[1]["labels"]] == pytest.approx([0.5, 0.5], abs=0.03)
    with rasterio.open(out / "scene_labels.tif") as file:
        index = file.read(1)
    assert (index[:190] == 0).all() and (index[210:] == 1).all()
    assert (
        (out / "scene.geojson").exists() and (out / "photo.geojson").exists() and not (out / "scene.png").exists()
    )
    table = list(csv.DictReader((out / "_areas.csv").open()))
    assert [(Path(row["photo"]).name, row["label"]) for row in table] == [
        (photo, label) for photo in ("photo.png", "scene.tif") for label in ("red", "blue")
    ]
    assert int(table[2]["pixels"]) == (index == 0).sum()


def test_what_is_done_is_not_done_again_but_with_other_settings(tmp_path: Path) -> None:
    path, out = picture(tmp_path / "scene.tif"), tmp_path / "out"
    for arguments, again in (
        ((), False),
        ((), True),
        (("--format", "geojson"), False),
        (("--min-score", 0.2), False),
    ):
        result = ovseg(path, "red", "blue", "--out", out, "--scale", 0.5, *arguments)
        assert result.exit_code == 0, result.output
        assert ("already done with these settings" in result.stderr) == again
        assert ("is read by" in result.stderr) != again


def test_what_needs_all_pixels_at_once_is_refused_by_name(tmp_path: Path) -> None:
    path = picture(tmp_path / "scene.tif")
    result = ovseg(path, "red", "--out", tmp_path / "out", "--scale", 1, "--format", "coco", "--min-area", 9)
    assert result.exit_code == 1
    message = " ".join(result.stderr.split())
    assert "gives areas, geojson, geotiff, got --min-area, --format coco; leave that out" in message
    assert not list((tmp_path / "out").glob("scene*"))


def test_objects_are_counted_in_the_table_and_outlined_one_by_one(tmp_path: Path) -> None:
    pixels = np.full((400, 300, 3), 120, np.uint8)
    pixels[20:380, 20:90] = pixels[20:120, 200:280] = COLOURS["red"]
    path, out = tmp_path / "scene.tif", tmp_path / "out"
    Image.fromarray(pixels).save(path)
    formats = ["--format", "areas", "--format", "geojson", "--format", "geotiff", "--scale", 0.5]
    asked = ["red", "blue", "--instances-of", "red", "--quality", "fast", "--out", out, *formats]
    result = ovseg(path, *asked, "--json")
    assert result.exit_code == 0, result.output
    (document,) = map(json.loads, result.stdout.splitlines())
    assert [each["label"] for each in document["instances"]] == ["red", "red"]
    assert {row["label"]: row.get("objects") for row in document["labels"]} == {"red": 2, "blue": None}
    table = list(csv.DictReader((out / "_areas.csv").open()))
    assert [(row["label"], row["objects"]) for row in table] == [("red", "2"), ("blue", "")]
    features = json.loads((out / "scene.geojson").read_text())["features"]
    assert sorted(each["properties"]["object"] for each in features) == [1, 2]
    with rasterio.open(out / "scene_objects.tif") as file:
        assert np.unique(file.read(1)).tolist() == [0, 1, 2]
    assert "geotiff cannot hold" not in result.stderr
    again = ovseg(path, *asked)
    assert "already done with these settings" in again.stderr and "2" in again.stdout
    assert "is read by" in ovseg(path, "red", "blue", "--out", out, *formats).stderr


def test_what_holds_no_objects_of_such_pictures_is_refused_before_any_work(tmp_path: Path) -> None:
    path = picture(tmp_path / "scene.tif")
    for given, told in (
        (
            ["--instances-of", "red", "--format", "panoptic"],
            "got --format panoptic; leave that out, or give a smaller",
        ),
        (["--instances-of", "red", "--crops"], "got --format crops; leave that out"),
        (["--quality", "fast"], "got --quality without --instances; leave that out"),
    ):
        result = ovseg(path, "red", "--out", tmp_path / "out", "--scale", 1, *given)
        message = " ".join(result.stderr.split())
        assert result.exit_code == 1 and told in message and "which share" not in message
        assert ("writes the number of the object at each pixel to NAME_objects.tif" in message) == (
            "panoptic" in given
        )
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*scene*"))


def test_a_picture_no_larger_than_a_window_is_said_to_be_read_at_once(tmp_path: Path) -> None:
    Image.fromarray(np.full((60, 80, 3), COLOURS["red"], np.uint8)).save(tmp_path / "small.tif")
    result = ovseg(tmp_path / "small.tif", "red", "--out", tmp_path / "out", "--scale", 0.5)
    assert "small.tif' is read at once, as it is no larger than a window of 256 pixels" in result.stderr


def test_a_scale_out_of_range_is_refused(tmp_path: Path) -> None:
    result = ovseg(picture(tmp_path / "scene.tif"), "red", "--out", tmp_path / "out", "--scale", 99)
    assert result.exit_code != 0
    assert "scale must be from 0.125 to 4, got 99" in str(result.exception) + result.output
