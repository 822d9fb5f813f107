"""Label Studio's tasks, by hand-worked values and as its own library reads them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.brush import decode_brush
from helpers.results import WILD, drawn, place_of, write

from ovseg.result.formats import Place
from ovseg.result.formats.brush import encode_brush
from ovseg.result.formats.labelstudio import task
from ovseg.result.items import Item, items


def code(item: Item, size: tuple[int, int]) -> list[int]:
    return encode_brush(item.mask, corner=item.corner, size=size)


def test_runs_are_packed_bit_by_bit() -> None:
    (item,) = items(drawn([".a"], "cat"))
    bits = "".join(
        [
            f"{8:032b}",  # two pixels of four values
            "00111", "0010", "0011", "0111", "1111",  # 8 bits a value, and sizes of 3, 4, 8 and 16
            "1", "00", "011", "00000000",  # a run of the first size, of 4, of 0
            "1", "00", "011", "11111111",
        ]
    )  # fmt: skip
    expected = [int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8)]
    assert code(item, (1, 2)) == expected


@pytest.mark.parametrize("kind", ["empty corner", "full", "wide", "holes", "noise"])
def test_unpacked_runs_are_the_mask(kind: str) -> None:
    rows = {
        "empty corner": ["....", ".a..", "...."],
        "full": ["a" * 300] * 300,  # more than one run of 65536 holds
        "wide": ["." * 7, "a" * 7, "a" * 7, "aa....."],
        "holes": ["aaa", "a.a", "aaa"],
        "noise": ["".join("a."[bit] for bit in row) for row in np.random.default_rng(0).integers(0, 2, (9, 70))],
    }[kind]
    result = drawn(rows, "cat")
    (item,) = items(result)
    values = decode_brush(code(item, result.size)).reshape(*result.size, 4)
    np.testing.assert_array_equal(values, np.repeat(result.mask("cat")[..., None] * 255, 4, axis=2))


def test_a_task_has_the_photo_and_a_region_for_each_object_and_area(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = drawn(["aa.B"], "road", "cup", things=["cup"], score=0.75)
    assert write(out, "labelstudio", result, places=[place_of(out, "a b", below="one")]) == []
    (found,) = json.loads((out / "_tasks.labelstudio.json").read_text())
    assert found["data"] == {"image": "/data/local-files/?d=one/a%20b.png"}
    (prediction,) = found["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("ovseg", (0.5 + 0.75) / 2)
    cup, road = prediction["result"]
    assert cup["value"].pop("rle") == code(next(items(result)), (1, 4))
    assert cup == {
        "id": "region1", "from_name": "label", "to_name": "image", "type": "brushlabels", "original_width": 4,
        "original_height": 1, "image_rotation": 0, "score": 0.5, "value": {"format": "rle", "brushlabels": ["cup"]},
    }  # fmt: skip
    assert (road["id"], road["score"], road["value"]["brushlabels"]) == ("region2", 0.75, ["road"])


def test_the_view_has_the_names_that_regions_use(tmp_path: Path) -> None:
    write(tmp_path / "out", "labelstudio", drawn(["a.b.c.d.e.f.g"], *WILD), drawn(["..."], *WILD))
    view = ElementTree.parse(tmp_path / "out/_view.labelstudio.xml").getroot()
    assert view.find("Image").attrib == {"name": "image", "value": "$image"}
    assert view.find("BrushLabels").attrib == {"name": "label", "toName": "image"}
    assert [label.attrib["value"] for label in view.iter("Label")] == list(WILD)
    full, empty = json.loads((tmp_path / "out/_tasks.labelstudio.json").read_text())
    assert [region["value"]["brushlabels"] for region in full["predictions"][0]["result"]] == [[x] for x in WILD]
    assert empty["predictions"][0] == {"model_version": "ovseg", "score": 0.0, "result": []}


def test_a_photo_of_the_web_keeps_its_address(tmp_path: Path) -> None:
    address = "https://example.org/a b.jpg?x=1"
    place = Place(tmp_path, "", "a", tmp_path / "copy", address, lasting=False)
    assert task(drawn(["a"], "cat"), place)["data"] == {"image": address}


def test_label_studio_reads_the_same_pixels() -> None:
    library = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed")
    result = drawn(["aaa....", "a.a..BB", "aaaaaaa"], "road", "cup", things=["cup"])
    cup, road = (
        library.decode_rle(code(item, result.size)).reshape(*result.size, 4)[..., 3] for item in items(result)
    )
    np.testing.assert_array_equal(cup > 0, result.instances[0].mask())
    np.testing.assert_array_equal(road > 0, result.mask("road"))
