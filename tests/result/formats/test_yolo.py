"""YOLO's format of segments, by hand-worked values and as supervision reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.results import WILD, drawn, filled, nearly, place_of, write

from ovseg.errors import OutputError


def read(path: Path, size: tuple[int, int]) -> list[tuple[int, np.ndarray]]:
    """Class and ring, in pixels, of each line."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(int(first), np.array(rest, float).reshape(-1, 2) * size[::-1]) for first, *rest in lines]


def test_a_line_has_the_class_and_the_outline_in_shares_of_the_photo(tmp_path: Path) -> None:
    result = drawn(["........", "..bb....", "..bb....", "........"], "cat", "dog")
    write(tmp_path / "out", "yolo", result)
    (line,) = (tmp_path / "out/_yolo/labels/photo.txt").read_text().splitlines()
    number, *shares = line.split()
    assert number == "1"
    points = {(float(x) * 8, float(y) * 4) for x, y in zip(shares[::2], shares[1::2], strict=True)}
    assert points == {(2.5, 1), (3.5, 1), (4, 1.5), (4, 2.5), (3.5, 3), (2.5, 3), (2, 2.5), (2, 1.5)}
    assert len(shares) == 16  # the first point is not repeated


def test_holes_and_parts_of_an_object_are_joined_by_seams_that_cover_nothing(tmp_path: Path) -> None:
    rows = ["aaaaaaaa..", "a..aa..a..", "aaaaaaaa.B", "........BB", "BBB.......", "B.B.....a.", "BBB......."]
    result = drawn(rows, "road", "cup", things=["cup"])
    (told,) = write(tmp_path / "out", "yolo", result)
    assert "yolo cannot hold scores, holes or objects in several parts" in told
    found = read(tmp_path / "out/_yolo/labels/photo.txt", (7, 10))
    assert [number for number, _ in found] == [1, 0, 0]  # one line for the object, one for each part of the road
    letters = np.array([list(row) for row in rows])
    np.testing.assert_array_equal(filled(found[0][1], (7, 10)), letters == "B")
    np.testing.assert_array_equal(filled(found[1][1], (7, 10)) | filled(found[2][1], (7, 10)), letters == "a")


def test_photos_and_outlines_lie_where_the_trainer_looks_for_them(tmp_path: Path) -> None:
    out, cat, empty = tmp_path / "out", drawn(["a."], "cat", "dog"), drawn([".."], "dog", "bird")
    places = [place_of(out, "same", below="one"), place_of(out, "same", below="two")]
    write(out, "yolo", cat, empty, places=places)
    data = yaml.safe_load((out / "_yolo/data.yaml").read_text())
    assert data == {"train": "images", "val": "images", "names": {0: "cat", 1: "dog", 2: "bird"}}
    photos = sorted((out / "_yolo" / data["train"]).rglob("*.png"))
    assert len(photos) == 2 and all(photo.read_bytes() for photo in photos)
    for photo, lines in zip(photos, (1, 0), strict=True):
        head, _, tail = str(photo).rpartition("/images/")
        labels = Path(f"{head}/labels/{tail}").with_suffix(".txt")
        assert len(labels.read_text().splitlines()) == lines


def test_any_name_of_a_label_comes_back_from_the_table(tmp_path: Path) -> None:
    write(tmp_path / "out", "yolo", drawn(["ag"], *WILD))
    assert tuple(yaml.safe_load((tmp_path / "out/_yolo/data.yaml").read_text())["names"].values()) == WILD


def test_what_an_earlier_run_left_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "yolo", drawn(["a"], "cat"), places=[place_of(out, "old")])
    write(out, "yolo", drawn(["a"], "dog"), places=[place_of(out, "new")])
    assert [path.name for path in (out / "_yolo/labels").iterdir()] == ["new.txt"]
    assert [path.name for path in out.iterdir()] == ["_yolo"]
    (out / "_yolo/data.yaml").unlink()
    with pytest.raises(OutputError, match=r"_yolo' is there and has no 'data\.yaml'"):
        write(out, "yolo", drawn(["a"], "dog"))


def test_a_run_that_breaks_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "yolo", drawn(["a"], "cat"), places=[place_of(out, "old")])
    with pytest.raises(ValueError, match="shorter"):
        write(out, "yolo", drawn(["a"], "dog"), drawn(["a"], "dog"), places=[place_of(out, "new")])
    assert [path.name for path in (out / "_yolo/labels").iterdir()] == ["old.txt"]


def test_supervision_reads_the_same_pixels(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision", reason="supervision is not installed")
    rows = ["." * 44] * 2 + ["..." + "a" * 10 + "." * 20 + "a" * 10 + "."] * 10 + ["..." + "a" * 40 + "."] * 15
    out, result = tmp_path / "out", drawn([*rows, *rows[::-1]], "road")
    write(out, "yolo", result, tolerance=0.5)
    data = sv.DetectionDataset.from_yolo(
        images_directory_path=str(out / "_yolo/images"),
        annotations_directory_path=str(out / "_yolo/labels"),
        data_yaml_path=str(out / "_yolo/data.yaml"),
        force_masks=True,
    )
    ((_, _, found),) = list(data)
    assert data.classes == ["road"] and found.class_id.tolist() == [0]
    assert nearly(found.mask[0], result.mask("road"))
