"""Pictures read by windows: what is written, where it lies, and that windows leave no trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import fields, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.documents import ROOT
from helpers.toy import COLOURS, make_segmenter
from PIL import Image

from ovseg.errors import ConfigError, ImageError, MissingDependencyError, OutputError, VocabularyError
from ovseg.images.tiles import Tile
from ovseg.large import LargeResult, segment_large
from ovseg.large.grid import Grid
from ovseg.large.labelling import grid_of
from ovseg.pipeline.segmenter import Segmenter
from ovseg.result import Segment

rasterio = pytest.importorskip("rasterio", reason="needs pip install 'ovseg[geo]'")

GREY = 120
LABELS = ["red", "green", "blue"]
PLACE = {"crs": "EPSG:32633", "transform": (0.5, 0, 500_000, 0, -0.5, 5_500_000)}
SIDE = 512  # pixels: windows of 256 that share 128, three a side


@pytest.fixture(scope="module")
def toy() -> Segmenter:
    return make_segmenter()


def scene(*squares: tuple[str, int, int, int, int], size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """(H, W, 3): colours between rows and columns on grey."""
    pixels = np.full((*size, 3), GREY, np.uint8)
    for colour, top, bottom, left, right in squares:
        pixels[top:bottom, left:right] = COLOURS[colour]
    return pixels


def write(path: Path, pixels: np.ndarray, *, placed: bool = True, **profile: Any) -> Path:
    place = {"crs": PLACE["crs"], "transform": rasterio.Affine(*PLACE["transform"])} if placed else {}
    height, width, count = pixels.shape
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64, **place, **profile}
    if count == 3:
        profile.setdefault("photometric", "rgb")
    with rasterio.open(path, "w", height=height, width=width, count=count, dtype=pixels.dtype, **profile) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    return path


def labels_of(result: LargeResult) -> np.ndarray:
    with rasterio.open(result.index) as file:
        found: np.ndarray = file.read(1)
    return found


def test_a_square_that_crosses_windows_is_one_polygon_on_the_earth(toy: Segmenter, tmp_path: Path) -> None:
    """160 x 192 pixels of half a metre in UTM zone 33, from 80 m east and south of the corner."""
    path = write(tmp_path / "scene.tif", scene(("red", 160, 320, 160, 352)))
    result = segment_large(toy, path, LABELS, out=tmp_path / "out", refine=False, outlines=True)
    assert result.outlines is not None
    (feature,) = json.loads(result.outlines.read_text())["features"]
    pixels = (labels_of(result) == 0).sum()
    assert feature["properties"] == {"label": "red", "pixels": pixels}
    (ring,) = feature["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    x, y = rasterio.warp.transform("EPSG:4326", PLACE["crs"], *np.transpose(ring))
    sides = [min(x), max(x), min(y), max(y)]
    assert sides == pytest.approx([500_080, 500_176, 5_499_840, 5_499_920], abs=6)  # 12 pixels, less than a cell
    area = (np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:])) / 2
    assert area == pytest.approx(pixels / 4, rel=1e-3)  # against the clock


def test_the_index_lies_where_the_picture_does(toy: Segmenter, tmp_path: Path) -> None:
    path = write(
        tmp_path / "scene.tif", scene(("red", 0, SIDE, 0, 256), ("blue", 0, SIDE, 256, 500), size=(SIDE, 500))
    )
    result = segment_large(toy, path, LABELS, out=tmp_path / "out", refine=False)
    with rasterio.open(result.index) as file:
        assert (file.crs, file.transform, file.shape) == (
            PLACE["crs"],
            rasterio.Affine(*PLACE["transform"]),
            (SIDE, 500),
        )
        assert (file.dtypes, file.nodata, json.loads(file.tags()["LABELS"])) == (("uint8",), 255, LABELS)
        index = file.read(1)
    assert (index[:, :240] == 0).all() and (index[:, 272:] == 2).all()
    assert {row.label: row.area for row in result.table()} == pytest.approx(
        {"red": (index == 0).mean(), "green": 0, "blue": (index == 2).mean()}
    )
    assert result == LargeResult.load(result.record)
    assert result.presence["red"] > 0.9 > result.presence["green"]
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "scene.json",
        "scene_labels.tif",
        "scene_overlay.png",
    ]


@pytest.mark.parametrize("shift", [64, 96])
def test_a_shifted_tiling_agrees(toy: Segmenter, tmp_path: Path, shift: int) -> None:
    """The same picture without its first rows and columns, so that windows begin elsewhere on it.

    A cell beside the cut is not compared: there the picture itself ends.
    """
    rng = np.random.default_rng(0)
    squares = [
        (LABELS[number % 3], top, top + 90, left, left + 70)
        for number, (top, left) in enumerate(rng.integers(0, 560, (24, 2)).tolist())
    ]
    pixels = scene(*squares, size=(640, 640))
    whole, shifted = (
        labels_of(segment_large(toy, write(tmp_path / f"{name}.tif", shown), LABELS, out=tmp_path / "out"))
        for name, shown in (("whole", pixels), ("shifted", pixels[shift:, shift:]))
    )
    assert (whole[shift:, shift:] == shifted)[16:, 16:].mean() >= 0.999


def test_where_there_are_no_data_there_is_no_label(toy: Segmenter, tmp_path: Path) -> None:
    """The last window of each row is empty, and one of the middle half so."""
    pixels = scene(("red", 0, SIDE, 0, SIDE))
    pixels[:, 200:] = 0
    path = write(tmp_path / "scene.tif", pixels, nodata=0)
    result = segment_large(toy, path, LABELS, out=tmp_path / "out")
    index = labels_of(result)
    assert (index[:, :200] == 0).all() and (index[:, 200:] == 255).all()
    assert result.area("red") == 200 / SIDE
    write(path, np.zeros_like(pixels), nodata=0)
    with pytest.raises(ImageError, match=r"scene\.tif' must have data somewhere, got none"):
        segment_large(toy, path, LABELS, out=tmp_path / "out")


def test_bands_are_chosen_and_one_range_holds_for_all_windows(toy: Segmenter, tmp_path: Path) -> None:
    """Five bands of 16 bits; the dark half alone would be scaled by its own values, were it read by itself."""
    pixels = scene(("red", 0, 256, 0, SIDE), ("green", 256, SIDE, 0, SIDE))
    deep = np.zeros((SIDE, SIDE, 5), np.uint16)
    deep[:, :, [4, 2, 1]] = pixels.astype(np.uint16) * 40
    path = write(tmp_path / "scene.tif", deep)
    with pytest.raises(ImageError, match="has 5 bands"):
        segment_large(toy, path, LABELS, out=tmp_path / "out")
    for name, bands, first in (("rgb", (5, 3, 2), 0), ("bgr", (2, 3, 5), 2)):
        said: list[str] = []
        result = segment_large(
            toy,
            path,
            LABELS,
            out=tmp_path / "out",
            name=name,
            bands=bands,
            value_range=(0, 10_200),
            tell=said.append,
        )
        index = labels_of(result)
        assert (index[:240] == first).all() and (index[272:] == 1).all()


@pytest.mark.parametrize("instances", [(), ("red",)])
def test_a_run_that_was_killed_goes_on_and_gives_the_same_bytes(tmp_path: Path, instances: tuple[str, ...]) -> None:
    asked: Any = {"outlines": True, "instances": instances, "quality": "fast" if instances else None}
    path = write(tmp_path / "scene.tif", scene(("red", 100, 300, 90, 400), ("blue", 300, 500, 0, 200)))
    toy = make_segmenter()
    whole = segment_large(toy, path, LABELS, out=tmp_path / "whole", **asked)
    code = """
import os, signal, sys
from helpers.toy import make_segmenter
from ovseg.large import segment_large
import ovseg.large.segment as module
done, ask = [], module.window_answers
def killed(*given):
    if len(done) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(1)
    return ask(*given)
module.window_answers = killed
asked = {"outlines": True, "instances": sys.argv[3:], "quality": "fast" if sys.argv[3:] else None}
segment_large(make_segmenter(), sys.argv[1], ["red", "green", "blue"], out=sys.argv[2], **asked)
"""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    given = [sys.executable, "-c", code, str(path), str(tmp_path / "out"), *instances]
    ended = subprocess.run(given, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["scene_windows"]
    said: list[str] = []
    again = segment_large(toy, path, LABELS, out=tmp_path / "out", tell=said.append, **asked)
    assert "4 of 9 windows are done by an earlier run" in said
    assert not (tmp_path / "out" / "scene_windows").exists()
    for one, other in (
        (whole.index, again.index),
        (whole.outlines, again.outlines),
        (whole.overlay, again.overlay),
        (whole.objects, again.objects),
    ):
        assert (one is None) == (other is None)
        assert one is None or other is None or one.read_bytes() == other.read_bytes()
    assert whole.instances == again.instances and bool(whole.instances) == bool(instances)


def test_objects_are_whole_counted_once_and_in_every_file(toy: Segmenter, tmp_path: Path) -> None:
    """Windows of 256 pixels that begin at 0, 128 and 256: a bar across three, a square in all nine, one whole in
    what two share, and one that the first of them cuts."""
    squares = {
        "bar": ("red", 32, 96, 32, 448),
        "square": ("red", 160, 352, 160, 352),
        "between": ("red", 416, 464, 144, 208),
        "cut": ("red", 416, 464, 240, 288),
        "lake": ("blue", 448, 512, 0, 96),
    }
    path = write(tmp_path / "scene.tif", scene(*squares.values()))
    result = segment_large(
        toy,
        path,
        LABELS,
        out=tmp_path / "out",
        refine=False,
        outlines=True,
        instances=["red", "green"],
        quality="fast",
        tolerance=0,
    )
    assert result.instances is not None and result.objects is not None and result.outlines is not None
    for colour, top, bottom, left, right in list(squares.values())[:4]:
        (found,) = (
            each
            for each in result.instances
            if np.abs(np.subtract(each.box, (left, top, right, bottom))).max() <= 16  # a cell
        )
        assert found.label == colour
        assert (bottom - top) * (right - left) <= found.area <= (bottom - top + 32) * (right - left + 32)
    assert [row.objects for row in result.table()] == [4, 0, None]
    assert (result.count("red"), result.count("green")) == (4, 0)
    with pytest.raises(VocabularyError, match="no objects of 'blue' were looked for"):
        result.count("blue")
    assert [each.score for each in result.instances] == sorted(
        (each.score for each in result.instances), reverse=True
    )
    with rasterio.open(result.objects) as file:
        assert (file.dtypes, file.nodata, file.crs, file.descriptions) == (
            ("uint32",),
            0,
            PLACE["crs"],
            ("object",),
        )
        numbers = file.read(1)
    for number, each in enumerate(result.instances, start=1):
        x0, y0, x1, y1 = each.box
        assert (each.mask() == (numbers[y0:y1, x0:x1] == number)).all()
    features = json.loads(result.outlines.read_text())["features"]
    assert [each["properties"] for each in features[:4]] == [
        {"label": "red", "score": each.score, "object": number, "pixels": each.area}
        for number, each in enumerate(result.instances, start=1)
    ]
    assert [each["properties"]["label"] for each in features[4:]] == ["blue"]
    assert LargeResult.load(result.record) == result
    assert result.provenance["instances"] == ["red", "green"] and result.things == ("red", "green")


def test_a_window_that_answers_otherwise_is_no_second_object(
    toy: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each window finds is said here: a pier across three of them, of which each sees the part in it."""
    pier = np.zeros((SIDE, SIDE), bool)
    pier[40:60, 30:470] = True

    def find(encoded: Any) -> tuple[Segment, ...]:
        top, left = divmod(int(encoded.image[0, 0, 0]), 3)
        mask = pier[128 * top : 128 * top + 256, 128 * left : 128 * left + 256]
        return (Segment.of_mask(mask, "red", 0.5, corner=(0, 0), size=mask.shape),) if mask.any() else ()

    pixels = scene()
    for number in range(9):
        pixels[128 * (number // 3), 128 * (number % 3), 0] = number
    monkeypatch.setattr("ovseg.large.segment.objects_by", lambda *given, **named: find)
    path = write(tmp_path / "scene.tif", pixels)
    result = segment_large(toy, path, LABELS, out=tmp_path / "out", instances=["red"], quality="fast")
    assert result.instances is not None and result.objects is not None
    assert [(each.box, each.area) for each in result.instances] == [((30, 40, 470, 60), 440 * 20)]
    with rasterio.open(result.objects) as file:
        assert ((file.read(1) == 1) == pier).all()


def test_objects_less_sure_than_asked_for_are_dropped(toy: Segmenter, tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", scene(("red", 160, 320, 160, 320)))
    asked: Any = {"instances": ["red"], "quality": "fast"}
    kept, dropped = (
        segment_large(toy, path, LABELS, out=tmp_path / name, min_score=least, **asked)
        for name, least in (("kept", 0.3), ("dropped", 1.0))
    )
    assert kept.instances is not None and len(kept.instances) == 1
    assert dropped.instances == () and [row.objects for row in dropped.table()] == [0, None, None]


def test_objects_that_cannot_be_found_are_refused_before_the_picture_is_read(
    toy: Segmenter, tmp_path: Path
) -> None:
    with pytest.raises(VocabularyError, match="'car'"):
        segment_large(toy, tmp_path / "gone.tif", LABELS, out=tmp_path / "out", instances=["car"])
    with pytest.raises(ConfigError, match="got 'fast' and none asked for; give instances=True"):
        segment_large(toy, tmp_path / "gone.tif", LABELS, out=tmp_path / "out", quality="fast")
    with pytest.raises(ConfigError, match="quality must be 'fast', 'best' or None, got 'good'"):
        segment_large(toy, tmp_path / "gone.tif", LABELS, out=tmp_path / "out", instances=["red"], quality="good")  # type: ignore[arg-type]


def test_a_picture_without_a_place_has_outlines_in_pixels_and_says_so(toy: Segmenter, tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", scene(("red", 128, 256, 128, 256)), placed=False)
    said: list[str] = []
    result = segment_large(
        toy, path, LABELS, out=tmp_path / "out", outlines=True, refine=False, tolerance=0, tell=said.append
    )
    assert result.outlines is not None
    found = json.loads(result.outlines.read_text())
    assert found["coordinates"] == "pixels from the upper left corner, x to the right and y down"
    assert [text for text in said if "has no geo-reference: coordinates in GeoJSON are pixels" in text]
    (feature,) = found["features"]
    ring = np.array(feature["geometry"]["coordinates"][0])
    index = labels_of(result)
    rows, columns = np.nonzero(index == 0)
    assert [*ring.min(0), *ring.max(0)] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert feature["properties"]["pixels"] == (index == 0).sum()


def test_pictures_smaller_than_a_window_and_strips(toy: Segmenter, tmp_path: Path) -> None:
    for name, size in (("small", (40, 50)), ("strip", (30, 700))):
        path = write(tmp_path / f"{name}.tif", scene(("red", 0, 99, 0, 25), size=size))
        index = labels_of(segment_large(toy, path, LABELS, out=tmp_path / "out", refine=False))
        assert index.shape == size and (index[:, :16] == 0).all() and (index[:, 40:] == 255).all()


def test_what_cannot_be_read_is_said(toy: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    path = write(tmp_path / "scene.tif", np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
    (tmp_path / "cut.tif").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "text.tif").write_text("no picture")
    with pytest.raises(ImageError, match=r"cut\.tif' is cut off or damaged"):
        segment_large(toy, tmp_path / "cut.tif", LABELS, out=out)
    with pytest.raises(ImageError, match=r"GDAL cannot open '.*text\.tif'"):
        segment_large(toy, tmp_path / "text.tif", LABELS, out=out)
    with pytest.raises(ImageError, match=r"no image file '.*gone\.tif'"):
        segment_large(toy, tmp_path / "gone.tif", LABELS, out=out)
    with pytest.raises(ConfigError, match=r"scale must be from 0\.125 to 4, got 9"):
        segment_large(toy, path, LABELS, out=out, scale=9)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ovseg\[geo\]'"):
        segment_large(toy, path, LABELS, out=out)


def test_files_of_another_picture_are_not_replaced(toy: Segmenter, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        write(tmp_path / name / "scene.tif", scene(size=(64, 64)))
    segment_large(toy, tmp_path / "a/scene.tif", LABELS, out=tmp_path / "out")
    with pytest.raises(OutputError, match=r"a/scene\.tif' and is not replaced"):
        segment_large(toy, tmp_path / "b/scene.tif", LABELS, out=tmp_path / "out")


def test_a_model_whose_rules_need_the_whole_picture_is_refused(toy: Segmenter, tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", scene(size=(64, 64)))
    config = toy.config.model_copy(update={"background": toy.config.background.model_copy(update={"area": 0.1})})
    ruled = Segmenter(replace(toy.model, config=config), device=toy.device)
    with pytest.raises(ConfigError, match=r"'toy' has 'background\.area', which needs the picture as a whole"):
        segment_large(ruled, path, LABELS, out=tmp_path / "out")


def test_the_grid_of_the_toy(toy: Segmenter) -> None:
    grid = grid_of(toy, (SIDE, SIDE), scale=0.5)
    assert (grid.cell, grid.window, grid.overlap, len(grid.windows)) == (16, 16, 8, 9)


class Elsewhere(Grid):
    """The same grid; all windows but the first and the last of a row or column begin half a step away."""

    @cached_property
    def windows(self) -> list[Tile]:
        step = self.window - self.overlap
        starts = [
            sorted({0, *range(step // 2, length - self.window, step), length - self.window})
            for length in self.cells
        ]
        return [Tile(top, left, self.window, self.window) for top, left in product(*starts)]


@pytest.mark.slow
def test_windows_that_begin_elsewhere_give_the_same_labels_of_photos(
    mini: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen photos side by side, of 640 pixels each, so that windows of 1280 pixels cut them."""
    names = ["temple", "coffee", "cat", "flower", "astronaut"]
    photos = [Image.open(ROOT / "examples" / f"{name}.jpg").convert("RGB").resize((640, 640)) for name in names]
    rows = [np.hstack([np.asarray(photos[(3 * row + column) % 5]) for column in range(4)]) for row in range(4)]
    path = write(tmp_path / "scene.tif", np.vstack(rows))
    asked = ["temple", "tree", "sky", "cup", "cat", "flower", "person", "table"]
    first = labels_of(segment_large(mini, path, asked, out=tmp_path / "first", scale=1))

    def elsewhere(*given: Any, **named: Any) -> Grid:
        grid = grid_of(*given, **named)
        return Elsewhere(**{field.name: getattr(grid, field.name) for field in fields(Grid)})

    monkeypatch.setattr("ovseg.large.segment.grid_of", elsewhere)
    second = labels_of(segment_large(mini, path, asked, out=tmp_path / "second", scale=1))
    assert (first == second).mean() >= 0.99
    assert len(np.unique(first)) > 5


@pytest.mark.slow
def test_objects_of_photos_side_by_side_are_those_of_each_photo(
    mini: Segmenter, tmp_path: Path, real_data: Path
) -> None:
    """Six COCO photos of 640 x 416 pixels in two rows, so that windows of 640 pixels that share 320 cut them."""
    folder = real_data / "coco-things-val"
    known = json.loads((folder / "instances.json").read_text())
    names = {row["id"]: row["name"] for row in known["categories"]}
    wide = [row for row in known["images"] if row["width"] == 640 and 416 <= row["height"] <= 480][:6]
    shown = {row["id"] for row in wide}
    labels = sorted({names[row["category_id"]] for row in known["annotations"] if row["image_id"] in shown})
    photos = [np.asarray(Image.open(folder / "images" / row["file_name"]).convert("RGB"))[:416] for row in wide]
    path = write(tmp_path / "scene.tif", np.vstack([np.hstack(photos[:3]), np.hstack(photos[3:])]))
    result = segment_large(mini, path, labels, out=tmp_path / "out", scale=2, instances=True)
    assert result.instances is not None
    by_photo = []
    for number, photo in enumerate(photos):
        top, left = divmod(number, 3)
        for each in mini.segment(photo, labels, instances=True).instances or ():
            whole = np.zeros((832, 1920), bool)
            whole[416 * top : 416 * top + 416, 640 * left : 640 * left + 640] = each.mask()
            by_photo.append((each.label, each.score, whole))
    assert len(result.instances) == pytest.approx(len(by_photo), rel=0.4)
    by_windows = []
    for each in result.instances:
        x0, y0, x1, y1 = each.box
        whole = np.zeros((832, 1920), bool)
        whole[y0:y1, x0:x1] = each.mask()
        by_windows.append((each.label, whole))
    same = [
        sum(label == other and (mask & there).sum() > 0.5 * (mask | there).sum() for other, there in by_windows)
        for label, score, mask in by_photo
        if score >= 0.5
    ]
    assert len(same) >= 5 and max(same) == 1 and np.mean(same) >= 0.75
