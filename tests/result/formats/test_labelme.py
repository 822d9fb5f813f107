"""LabelMe's files, by hand-worked values and as its own reader takes them."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.results import WILD, drawn, filled, place_of, write

ROWS = ["aaaaa...", "a...aBB.", "a...a...", "aaaaa.BB"]


def test_a_file_says_where_the_photo_is_and_what_lies_where(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (told,) = write(out, "labelme", drawn(ROWS, "road", "cup", things=["cup"]), places=[place_of(out, below="one")])
    assert told == "labelme cannot hold scores or holes: seams without width join these to the outline"
    path = out / "_labelme/one/photo.json"
    document = json.loads(path.read_text())
    shapes = document.pop("shapes")
    assert document == {
        "version": "5.5.0", "flags": {}, "imagePath": "../../../photos/one/photo.png", "imageData": None,
        "imageHeight": 4, "imageWidth": 8,
    }  # fmt: skip
    assert (path.parent / document["imagePath"]).is_file()
    assert [(shape["label"], shape["group_id"], shape["shape_type"]) for shape in shapes] == [
        ("cup", 1, "polygon"), ("cup", 1, "polygon"), ("road", None, "polygon"),
    ]  # fmt: skip
    assert sorted(shapes[0]["points"]) == sorted([[5.5, 1], [6.5, 1], [7, 1.5], [6.5, 2], [5.5, 2], [5, 1.5]])
    letters = np.array([list(row) for row in ROWS])
    np.testing.assert_array_equal(filled([*shapes[2]["points"], shapes[2]["points"][0]], (4, 8)), letters == "a")


def test_any_label_comes_back_and_a_photo_without_labels_has_no_shapes(tmp_path: Path) -> None:
    rows = ["a.b.c.d.e.f.g"]
    write(tmp_path / "out", "labelme", drawn(rows, *WILD), drawn(["..."], *WILD))
    full, empty = (json.loads((tmp_path / f"out/_labelme/{name}.json").read_text()) for name in ("photo", "photo1"))
    assert [shape["label"] for shape in full["shapes"]] == list(WILD)
    assert empty["shapes"] == []


def test_labelme_reads_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = labelme_reader(monkeypatch)
    write(tmp_path / "out", "labelme", drawn(ROWS, "road", "cup", things=["cup"]))
    shapes = json.loads((tmp_path / "out/_labelme/photo.json").read_text())["shapes"]
    read = [reader._load_shape_json_obj(shape) for shape in shapes]
    assert [(shape["label"], shape["group_id"]) for shape in read] == [("cup", 1), ("cup", 1), ("road", None)]


def labelme_reader(monkeypatch: pytest.MonkeyPatch) -> Any:
    """LabelMe's module that reads files, without the window that its package opens."""
    import importlib.util

    spec = importlib.util.find_spec("labelme")
    if spec is None or spec.origin is None or importlib.util.find_spec("loguru") is None:
        pytest.skip("labelme or loguru is not installed")
    package = types.ModuleType("labelme")
    package.__path__ = [str(Path(spec.origin).parent)]  # type: ignore[attr-defined]
    package.__version__ = "0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "labelme", package)
    utils = types.ModuleType("labelme.utils")
    package.utils = utils  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "labelme.utils", utils)
    module = importlib.import_module("labelme._label_file")
    monkeypatch.delitem(sys.modules, "labelme._label_file")
    return module
