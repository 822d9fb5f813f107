from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ovseg.errors import DatasetError
from ovseg.training.features import Arrays, FeatureCache

KEY = {"encoder": "toy", "view": 0}


class Maker:
    """Makes arrays of a file's bytes and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path, self.calls = path, 0

    def __call__(self) -> Arrays:
        self.calls += 1
        content = np.frombuffer(self.path.read_bytes(), np.uint8).copy()
        return {"bytes": content, "sums": content.cumsum().astype(np.float16).reshape(-1, 1)}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(b"pixels")
    return path


def fetch(folder: Path, maker: Maker, key: dict[str, object] | None = None) -> Arrays:
    """As another run would: with a cache of its own over the same folder."""
    return FeatureCache(folder).fetch(key or KEY, [maker.path], maker)


def test_an_entry_is_made_once_and_read_as_it_was_made(tmp_path: Path, photo: Path) -> None:
    maker = Maker(photo)
    made, read = (fetch(tmp_path / "features", maker) for _ in range(2))
    assert maker.calls == 1
    for arrays in (made, read):
        assert arrays["bytes"].tobytes() == b"pixels" and arrays["sums"].dtype == np.float16
        assert set(arrays) == {"bytes", "sums"} and isinstance(arrays["bytes"], np.memmap)


def test_a_touched_file_has_the_same_entry_and_an_edited_one_another(tmp_path: Path, photo: Path) -> None:
    maker = Maker(photo)
    fetch(tmp_path / "features", maker)
    os.utime(photo, (1, 1))
    fetch(tmp_path / "features", maker)
    assert maker.calls == 1
    photo.write_bytes(b"pixelz")  # of the same length
    os.utime(photo, (1, 1))
    assert fetch(tmp_path / "features", maker)["bytes"].tobytes() == b"pixelz" and maker.calls == 2
    photo.write_bytes(b"pixels")
    assert fetch(tmp_path / "features", maker)["bytes"].tobytes() == b"pixels" and maker.calls == 2


def test_every_value_of_the_key_decides_the_entry(tmp_path: Path, photo: Path) -> None:
    maker = Maker(photo)
    for key in (KEY, {**KEY, "encoder": "other"}, {**KEY, "view": 1}, {**KEY, "seed": None}):
        fetch(tmp_path / "features", maker, key)
    assert maker.calls == 4


@pytest.mark.parametrize("left", [["bytes.npy"], ["bytes.npy", "sums.npy"], [".bytes-x1.npy", ".key-x2.json"]])
def test_what_a_killed_process_left_is_no_entry(tmp_path: Path, photo: Path, left: list[str]) -> None:
    maker = Maker(photo)
    fetch(tmp_path / "features", maker)
    (entry,) = (tmp_path / "features").iterdir()
    for file in entry.iterdir():
        file.unlink()
    for name in left:
        (entry / name).write_bytes(b"half")
    assert fetch(tmp_path / "features", maker)["bytes"].tobytes() == b"pixels" and maker.calls == 2
    assert set(fetch(tmp_path / "features", maker)) == {"bytes", "sums"} and maker.calls == 2


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, photo: Path) -> None:
    cache = FeatureCache(tmp_path / "features")
    cache.content(photo)
    photo.write_bytes(b"other pixels")
    with pytest.raises(DatasetError, match=r"photo.png' changed while it was read; start again once the data are"):
        cache.fetch(KEY, [photo], Maker(photo))
    assert fetch(tmp_path / "features", Maker(photo))["bytes"].tobytes() == b"other pixels"


def test_without_a_folder_nothing_is_kept(photo: Path) -> None:
    maker, cache = Maker(photo), FeatureCache(None)
    for _ in range(2):
        assert cache.fetch(KEY, [photo], maker)["bytes"].tobytes() == b"pixels"
    assert maker.calls == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot read '.*gone.png': No such file or directory; complete"):
        FeatureCache(None).content(tmp_path / "gone.png")


def test_contents_depend_on_names_order_files_and_what_is_read(tmp_path: Path, photo: Path) -> None:
    mask = tmp_path / "mask.png"
    mask.write_bytes(b"classes")
    cache = FeatureCache(None)
    given = [
        ([("a", [photo, mask])], "protocol"),
        ([("a", [mask, photo])], "protocol"),
        ([("b", [photo, mask])], "protocol"),
        ([("a", [photo])], "protocol"),
        ([("a", [photo, mask])], "other"),
        ([("a", [photo]), ("b", [mask])], "protocol"),
    ]
    found = [cache.contents(examples, reading) for examples, reading in given]
    assert len(set(found)) == len(found)
    assert found[0].startswith("1 images of content ") and found[-1].startswith("2 images")
