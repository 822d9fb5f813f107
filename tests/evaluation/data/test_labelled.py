"""What labelling tools write is truth without conversion, and what is wrong in it is named."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.datasets import Oracle, truth_of
from helpers.results import drawn, place_of, write
from PIL import Image

import ovseg
from ovseg.errors import DatasetError
from ovseg.evaluation.data.check import check_before
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.data.protocol import load_protocol
from ovseg.evaluation.data.regions import first_crossing
from ovseg.result import SegmentationResult
from ovseg.training.data import MaskData, open_masks

ROWS = ["aaaaa...", "a...aBB.", "a.b.a...", "aaaaa.BB", "a.a.a.a."]
FOLDER = load_protocol("folder")


def truth(data: Path, name: str = "photo") -> np.ndarray:
    """(H, W) of letters as in ``ROWS``, from the names of the classes."""
    dataset = open_dataset(FOLDER, data)
    example = dataset.load(next(place for place, each in enumerate(dataset.names) if each.endswith(name)))
    letters = np.array([{"road": "a", "cup": "b"}[each] for each in dataset.protocol.names] + ["."])
    return letters[example.truth]


def result_of() -> SegmentationResult:
    return drawn([row.replace("b", ".") for row in ROWS], "road", "cup", things=["cup"])


EXPECTED = np.array([list(row.replace("b", ".").lower()) for row in ROWS])


def exported(tmp_path: Path, format: str) -> Path:
    """A folder with a photo and its result, as a tool would have written it."""
    data = tmp_path / "data"
    write(tmp_path / "out", format, result_of())
    (data / "images").mkdir(parents=True)
    shutil.copy(tmp_path / "photos/photo.png", data / "images")
    return data


@pytest.mark.parametrize(
    ("format", "file", "name"),
    [
        ("labelme", "_labelme/photo.json", "images/photo.json"),
        ("cvat", "_annotations.cvat.xml", "annotations.xml"),
        ("coco", "_annotations.coco.json", "annotations/instances_default.json"),
    ],
)
def test_exported_results_come_back_as_truth(tmp_path: Path, format: str, file: str, name: str) -> None:
    data = exported(tmp_path, format)
    (data / name).parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / "out" / file, data / name)
    np.testing.assert_array_equal(truth(data), EXPECTED)


def test_a_panoptic_file_is_read_where_it_lies(tmp_path: Path) -> None:
    data = exported(tmp_path, "panoptic")
    shutil.copy(tmp_path / "out/_panoptic.coco.json", data / "panoptic.json")
    (data / "panoptic").mkdir()
    shutil.copy(tmp_path / "out/photo_panoptic.png", data / "panoptic")
    np.testing.assert_array_equal(truth(data), EXPECTED)


@pytest.mark.parametrize("stated", ["photo.png", "data/images/photo.png", "/{data}/images/photo.png"])
def test_photos_of_coco_are_found_by_name_or_by_the_path_that_made_them(tmp_path: Path, stated: str) -> None:
    data = exported(tmp_path, "coco")
    content = json.loads((tmp_path / "out/_annotations.coco.json").read_text())
    content["images"][0]["file_name"] = stated.replace("/{data}", str(data))
    (data / "result.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(truth(data), EXPECTED)


def tasks_of(tmp_path: Path) -> list[dict[str, Any]]:
    tasks = json.loads((tmp_path / "out/_tasks.labelstudio.json").read_text())
    return [{"data": task["data"], "annotations": task["predictions"]} for task in tasks]


def test_label_studio_counts_what_people_have_done(tmp_path: Path) -> None:
    data = exported(tmp_path, "labelstudio")
    undone = {"data": {"image": "/data/local-files/?d=b.png"}, "annotations": [], "predictions": [{"result": []}]}
    tasks = [*tasks_of(tmp_path), undone]
    tasks[0]["data"] = {"image": "/data/upload/7/0123abcd-photo.png"}  # as uploads are renamed
    percent = [[25, 20], [37.5, 20], [37.5, 40], [25, 40]]  # of 8 x 5 pixels: x 2 to 3, y 1 to 2
    size = {"original_width": 8, "original_height": 5}
    polygon = {"type": "polygonlabels", "value": {"points": percent, "polygonlabels": ["cup"]}, **size}
    box = {"x": 25, "y": 60, "width": 12.5, "height": 20, "rotation": 0, "rectanglelabels": ["cup"]}
    tasks[0]["annotations"][0]["result"] += [polygon, {"type": "rectanglelabels", "value": box, **size}]
    (data / "export.json").write_text(json.dumps(tasks))
    expected = EXPECTED.copy()
    expected[1, 2] = expected[3, 2] = "b"
    np.testing.assert_array_equal(truth(data), expected)
    dataset = open_dataset(FOLDER, data)
    told = check_before(dataset, range(len(dataset.names)))
    assert f"1 of 2 photos in '{data / 'export.json'}' are not labelled yet, and left out" in told
    (data / "export.json").write_text(json.dumps([undone]))
    with pytest.raises(
        DatasetError, match=r"no task of '.*export\.json' has an annotation that a person submitted"
    ):
        open_dataset(FOLDER, data)


def labelme(
    data: Path, *shapes: dict[str, Any], name: str = "photo", size: tuple[int | None, int | None] = (6, 8)
) -> Path:
    """A LabelMe file beside its photo."""
    path = data / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(data / f"{name}.png")
    content = {"shapes": shapes, "imagePath": f"{name}.png", "imageHeight": size[0], "imageWidth": size[1]}
    path.write_text(json.dumps(content))
    return path


def shape(label: str, points: list[list[float]], kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, **more}


def test_all_shapes_of_labelme_are_painted_one_over_the_other(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.array([[255, 0], [0, 255]], np.uint8)).save(buffer, format="PNG")
    code = base64.b64encode(buffer.getvalue()).decode()
    labelme(
        tmp_path,
        shape("sky", [[0, 0], [8, 0], [8, 6], [0, 6]]),
        shape("box", [[3, 3], [1, 1]], "rectangle"),
        shape("sun", [[6.5, 1.5], [6.5, 2.4]], "circle"),
        shape("cloud", [[4, 4], [5, 5]], "mask", mask=code),
        shape("__ignore__", [[0, 5], [1, 5], [1, 6], [0, 6]]),
        shape("sky", [[1, 1]], "point"),
        size=(None, None),
    )
    dataset = open_dataset(FOLDER, tmp_path)
    names = dataset.protocol.names
    assert names == ("box", "cloud", "sky", "sun")
    found = dataset.load(0).truth
    expected = np.full((6, 8), names.index("sky"))
    expected[1:3, 1:3] = names.index("box")
    expected[1, 6] = names.index("sun")
    expected[4, 4] = expected[5, 5] = names.index("cloud")
    expected[5, 0] = -1
    np.testing.assert_array_equal(found, expected)
    assert "1 points and lines of the annotations cover nothing, and are left out" in check_before(dataset, [0])


def test_what_no_region_covers_is_background_where_a_class_is_called_so(tmp_path: Path) -> None:
    labelme(tmp_path, shape("cup", [[0, 0], [2, 0], [2, 6], [0, 6]]))
    assert np.unique(open_dataset(FOLDER, tmp_path).load(0).truth).tolist() == [-1, 0]
    (tmp_path / "classes.txt").write_text("background\ncup\n")
    assert open_dataset(FOLDER, tmp_path).load(0).truth[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


SQUARE = [[1, 1], [3, 1], [3, 3], [1, 3]]


@pytest.mark.parametrize(
    ("drawn_shape", "told"),
    [
        (
            shape("cup", [[0, 0], [20, 0], [20, 3]]),
            r"outline of 'cup' on 'photo\.png' in '.*photo\.json' goes from .* outside",
        ),
        (
            shape("cup", [[0, 0], [4, 4], [4, 0], [0, 4]]),
            r"outline of 'cup' on .*photo\.json' crosses itself near x",
        ),
        (shape("cup", [[0, 0], [4, 4]]), r"needs three points or more, but that of 'cup' .*photo\.json' has 2"),
        (shape("dog", SQUARE), r"the classes have no 'dog' on 'photo\.png' in '.*photo\.json'; add it to them"),
        (shape("cup", [[1]]), r"photo\.json' is not LabelMe's file"),
        (shape("cup", SQUARE, "mask", mask="!"), r"photo\.json' is not LabelMe's file"),
    ],
)
def test_a_wrong_region_is_named_in_one_sentence(tmp_path: Path, drawn_shape: dict[str, Any], told: str) -> None:
    (tmp_path / "classes.txt").write_text("cup\n")
    labelme(tmp_path, drawn_shape)
    with pytest.raises(DatasetError, match=told) as caught:
        open_dataset(FOLDER, tmp_path).load(0)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = labelme(tmp_path, shape("cup", SQUARE))
    path.write_text(path.read_text()[:-9])
    with pytest.raises(DatasetError, match=r"photo\.json' is cut off or not JSON .* export it again"):
        open_dataset(FOLDER, tmp_path)
    path.unlink()
    (tmp_path / "annotations.xml").write_text("<annotations><image ")
    with pytest.raises(DatasetError, match=r"annotations\.xml' is cut off or not XML"):
        open_dataset(FOLDER, tmp_path)
    (tmp_path / "annotations.xml").write_text('<annotations><image name="a.png"/></annotations>')
    with pytest.raises(DatasetError, match=r"annotations\.xml' is not CVAT's XML for images 1\.1 .*height"):
        open_dataset(FOLDER, tmp_path)


def test_photos_that_are_missing_and_files_of_two_tools_are_refused(tmp_path: Path) -> None:
    labelme(tmp_path, shape("cup", SQUARE))
    (tmp_path / "photo.png").unlink()
    with pytest.raises(DatasetError, match=r"the photo 'photo\.png' of '.*photo\.json' is missing; put it into"):
        open_dataset(FOLDER, tmp_path)
    (tmp_path / "a.xml").write_text("<annotations></annotations>")
    (tmp_path / "b.json").write_text('[{"data": {}}]')
    with pytest.raises(
        DatasetError, match=r"expected one file .* got '.*a\.xml' \(cvat\), '.*b\.json' \(label studio\)"
    ):
        open_dataset(FOLDER, tmp_path)


def test_a_photo_of_another_size_is_refused(tmp_path: Path) -> None:
    labelme(tmp_path, shape("cup", SQUARE), size=(6, 9))
    with pytest.raises(DatasetError, match=r"photo\.json"):
        open_dataset(FOLDER, tmp_path).load(0)


@pytest.mark.parametrize("seed", range(3))
def test_crossings_are_those_that_a_slow_loop_finds(seed: int) -> None:
    ring = np.random.default_rng(seed).integers(0, 30, (7, 2)).astype(float)

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
        return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    lines = list(zip(ring, np.roll(ring, -1, axis=0), strict=True))
    crossed = any(
        side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0 for a, b in lines for c, d in lines
    )
    assert (first_crossing(ring) is not None) == crossed
    centre = ring.mean(0)
    order = np.argsort(np.arctan2(*(ring - centre).T))
    assert first_crossing(ring[order]) is None  # a star around a point


def test_a_seam_that_crosses_another_hole_is_no_crossing(tmp_path: Path) -> None:
    rows = ["aaaaaaaaa", "a.......a", "aaaaaaaaa", "aaa...aaa", "aaaaaaaaa", "aaaaaaaaa", "aaaaaaaaa"]
    out, data = tmp_path / "out", tmp_path / "data"
    write(out, "labelme", drawn(rows, "road"), places=[place_of(out, size=(7, 9))])
    data.mkdir()
    shutil.copy(tmp_path / "photos/photo.png", data)
    document = json.loads((out / "_labelme/photo.json").read_text())
    (data / "photo.json").write_text(json.dumps(document | {"imagePath": "photo.png"}))
    np.testing.assert_array_equal(truth(data), np.array([list(row) for row in rows]))


def test_evaluation_and_training_take_it_as_it_is(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number in range(2):
        mask = truth_of(number).astype(np.int32)
        names = ("sky", "road", "cat")
        labels = SegmentationResult(
            np.where(mask == 255, -1, mask),
            names,
            np.ones(mask.shape, np.float32),
            dict.fromkeys(names, 1.0),
        )
        place = place_of(data, f"{number:03d}")
        Image.fromarray(np.stack([np.where(mask == 255, 0, mask) * 50] * 3, -1).astype(np.uint8)).save(place.photo)
        write(data, "labelme", labels, places=[place])
    report = ovseg.evaluate(Oracle(), "folder", data=str(data))
    assert report.mean_iou == 1.0
    source = open_masks(MaskData(protocol="folder", path=str(data)))
    assert source.protocol.names == ("cat", "road", "sky")
    np.testing.assert_array_equal(source.load(1).truth == 0, truth_of(1) == 2)
