"""Masks in colours are read by their table, and a colour that it lacks is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.datasets import NAMES, truth_of, write_folder
from PIL import Image

from ovseg.errors import DatasetError
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.data.protocol import load_protocol

FOLDER = load_protocol("folder")
COLOURS = {"sky": (0, 128, 255), "road": (128, 64, 128), "cat": (0, 0, 0)}
LINES = "# label:color_rgb:parts:actions\n" + "".join(
    f"{name}:{','.join(map(str, colour))}::\n" for name, colour in COLOURS.items()
)


def painted(root: Path, *, palette: bool = False) -> Path:
    """The folder of the fixtures with its masks in colours; ignored pixels are sky."""
    write_folder(root)
    (root / "classes.txt").unlink()
    for number, path in enumerate(sorted((root / "masks").iterdir())):
        mask = np.where(truth_of(number) == 255, 0, truth_of(number))
        image = Image.fromarray(np.array([COLOURS[name] for name in NAMES], np.uint8)[mask])
        (image.quantize() if palette else image).save(path)
    return root


@pytest.mark.parametrize("palette", [False, True])
def test_a_table_gives_names_and_colours(tmp_path: Path, palette: bool) -> None:
    data = painted(tmp_path / "data", palette=palette)
    (data / "labelmap.txt").write_text(LINES)
    dataset = open_dataset(FOLDER, data)
    assert dataset.protocol.names == NAMES
    np.testing.assert_array_equal(dataset.load(1).truth[1:], truth_of(1)[1:])
    assert dataset.load(1).truth[0, 0] == 0


def test_categories_may_have_colours_and_masks_of_ids_stay_such(tmp_path: Path) -> None:
    data = painted(tmp_path / "data")
    rows = [{"id": 10 + place, "name": name, "color": COLOURS[name]} for place, name in enumerate(NAMES)]
    (data / "categories.json").write_text(json.dumps({"ignore": 255, "categories": rows}))
    np.testing.assert_array_equal(open_dataset(FOLDER, data).load(1).truth[1:], truth_of(1)[1:])
    Image.fromarray(np.full((12, 16), 11, np.uint8)).save(data / "masks/001.png")
    assert np.unique(open_dataset(FOLDER, data).load(1).truth).tolist() == [1]


def test_a_colour_that_the_table_lacks_and_a_wrong_table_are_named(tmp_path: Path) -> None:
    data = painted(tmp_path / "data")
    (data / "labelmap.txt").write_text(LINES.replace("128,64,128", "1,2,3"))
    told = r"mask '.*000\.png' has 1 colours that '.*labelmap\.txt' does not list: \(128, 64, 128\)"
    with pytest.raises(DatasetError, match=told):
        open_dataset(FOLDER, data).load(0)
    (data / "labelmap.txt").write_text("sky:1,2\n")
    with pytest.raises(DatasetError, match=r"line 1 of '.*labelmap\.txt' must read NAME:RED,GREEN,BLUE::"):
        open_dataset(FOLDER, data)
    (data / "labelmap.txt").write_text(LINES)
    (data / "classes.txt").write_text("sky\nroad\n")
    with pytest.raises(DatasetError, match="has a colour of 'cat', which is none of the classes"):
        open_dataset(FOLDER, data)
