from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.errors import DatasetError
from ovseg.images.hub import HubName, image_column, is_hub


def rows_of(values: list[int]) -> Any:
    import datasets

    images = [Image.fromarray(np.full((4, 5, 3), value, np.uint8)) for value in values]
    return datasets.Dataset.from_dict({"id": values, "image": images}).cast_column("image", datasets.Image())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with the splits train (7, 8) and val (9)."""
    import datasets

    splits = datasets.DatasetDict({"train": rows_of([7, 8]), "val": rows_of([9])})
    splits.save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("hf:owner/name", HubName("owner/name")),
        ("hf://owner/name", HubName("owner/name")),
        ("hf://owner/name:val", HubName("owner/name", "val")),
        ("hf:owner/name:val", HubName("owner/name", "val")),
        ("hf://name:train[:10%]", HubName("name", "train[:10%]")),
        ("hf:/data/saved", HubName("/data/saved")),
        ("hf:///data/saved:val", HubName("/data/saved", "val")),
        (r"hf:C:\data\saved", HubName(r"C:\data\saved")),
        (r"hf://C:\data\saved:val", HubName(r"C:\data\saved", "val")),
    ],
)
def test_both_spellings_name_the_same(source: str, wanted: HubName) -> None:
    assert is_hub(source) and HubName.parse(source) == wanted


def test_a_colon_in_the_name_of_a_folder_starts_no_split(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    assert HubName.parse(f"hf:{tmp_path}/a:b") == HubName(f"{tmp_path}/a:b")


@pytest.mark.parametrize("source", ["owner/name", "hf:", "hf://", "photos/"])
def test_what_names_no_data_set_is_refused(source: str) -> None:
    with pytest.raises(DatasetError, match=r"expected hf://owner/name\[:split\]"):
        HubName.parse(source)


def test_the_split_of_the_name_goes_before_the_callers(saved: Path) -> None:
    assert HubName.parse(f"hf:{saved}").open(split="val")["id"][:] == [9]
    assert HubName.parse(f"hf://{saved}:train").open(split="val")["id"][:] == [7, 8]


def test_a_folder_of_one_set_needs_no_split(tmp_path: Path) -> None:
    rows_of([1, 2]).save_to_disk(str(tmp_path / "one"))
    assert HubName.parse(f"hf://{tmp_path}/one").open()["id"][:] == [1, 2]


def test_a_split_that_is_not_there_is_refused_with_those_that_are(saved: Path) -> None:
    for split in ("test", None):
        with pytest.raises(DatasetError, match=f"has the splits train, val, got {split}; choose one of them"):
            HubName.parse(f"hf:{saved}").open(split=split)


def test_what_cannot_be_loaded_says_what_to_check(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot load the split 'val' of 'hf://.*check the name, the split"):
        HubName.parse(f"hf:{tmp_path}:val").open()


def test_the_image_column_comes_undecoded(saved: Path) -> None:
    rows = image_column(HubName.parse(f"hf:{saved}:val").open())
    assert rows.column_names == ["image"] and rows[0]["image"]["bytes"][:4] == b"\x89PNG"
    with pytest.raises(DatasetError, match="must have a column of images, got id"):
        image_column(rows_of([1]).remove_columns("image"))
