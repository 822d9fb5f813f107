"""CVAT's XML, by hand-worked values and as datumaro reads it."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.results import WILD, drawn, place_of, write

from ovseg.result.formats.cvat import runs

ROWS = ["aaa.....", "a.aB....", "aaa..BB.", "........"]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [([[1, 1], [1, 1]], [0, 4]), ([[0, 1], [1, 0]], [1, 2, 1]), ([[1, 0], [0, 1]], [0, 1, 2, 1]), ([[1]], [0, 1])],
)
def test_runs_are_row_by_row_and_begin_with_what_is_outside(mask: list[list[int]], expected: list[int]) -> None:
    assert runs(np.array(mask, bool)) == expected


def test_every_photo_has_its_masks_with_holes_and_parts_in_their_boxes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = [drawn(ROWS, "road", "cup", things=["cup"]), drawn(["...."], "road", "cup")]
    told = write(out, "cvat", *results, places=[place_of(out, below="one"), place_of(out, below="two")])
    assert told == ["cvat cannot hold scores"]
    root = ElementTree.parse(out / "_annotations.cvat.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [name.text for name in root.findall("meta/task/labels/label/name")] == ["road", "cup"]
    first, second = root.findall("image")
    assert first.attrib == {"id": "0", "name": "one/photo.png", "width": "8", "height": "4"}
    assert (second.attrib["id"], second.attrib["name"], len(second)) == ("1", "two/photo.png", 0)
    cup, road = first.findall("mask")
    assert cup.attrib == {
        "label": "cup", "source": "auto", "occluded": "0", "z_order": "1",
        "rle": "0, 1, 5, 2", "left": "3", "top": "1", "width": "4", "height": "2",
    }  # fmt: skip
    assert road.attrib | {"rle": ""} == {
        "label": "road", "source": "auto", "occluded": "0", "z_order": "0",
        "rle": "", "left": "0", "top": "0", "width": "3", "height": "3",
    }  # fmt: skip
    assert road.attrib["rle"] == "0, 4, 1, 4"


def test_any_label_and_name_comes_back(tmp_path: Path) -> None:
    out, odd = tmp_path / "out", 'a "b" & <c>'
    write(out, "cvat", drawn(["a.b.c.d.e.f.g"], *WILD), places=[place_of(out, odd)])
    root = ElementTree.parse(out / "_annotations.cvat.xml").getroot()
    assert [name.text for name in root.findall("meta/task/labels/label/name")] == list(WILD)
    assert [mask.attrib["label"] for mask in root.iter("mask")] == list(WILD)
    assert root.findall("image")[0].attrib["name"] == f"{odd}.png"


def test_datumaro_reads_the_same_pixels(tmp_path: Path) -> None:
    base = pytest.importorskip("datumaro.plugins.data_formats.cvat.base", reason="datumaro is not installed")
    out, result = tmp_path / "out", drawn(ROWS, "road", "cup", things=["cup"])
    write(out, "cvat", result)
    (tmp_path / "cvat/images").mkdir(parents=True)
    shutil.copy(tmp_path / "photos/photo.png", tmp_path / "cvat/images/photo.png")
    shutil.copy(out / "_annotations.cvat.xml", tmp_path / "cvat/annotations.xml")
    (item,) = list(base.CvatBase(str(tmp_path / "cvat/annotations.xml")))
    cup, road = item.annotations
    np.testing.assert_array_equal(road.image.astype(bool), result.mask("road"))
    np.testing.assert_array_equal(cup.image.astype(bool), result.instances[0].mask())
