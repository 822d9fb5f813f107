from pathlib import Path

import datasets
import pytest

from ovseg.errors import DatasetError, ImageError
from ovseg.images.sources import iterate, read_key


def test_a_folder_a_glob_and_a_list_give_the_same_keys(photos: Path, tmp_path: Path) -> None:
    keys = [item.key for item in iterate(photos)]
    assert keys == sorted(keys)
    assert [item.key for item in iterate(f"{photos}/*.png")] == keys
    (tmp_path / "list.txt").write_text("\n".join(keys) + "\n\n")
    assert [item.key for item in iterate(tmp_path / "list.txt")] == keys


def test_a_data_set_gives_its_encoded_images(photos: Path, tmp_path: Path) -> None:
    paths = [str(path) for path in sorted(photos.iterdir())[:3]]
    made = datasets.Dataset.from_dict({"image": paths, "n": [1, 2, 3]}).cast_column("image", datasets.Image())
    made.save_to_disk(tmp_path / "set")
    items = list(iterate(f"hf://{tmp_path}/set"))
    assert [item.key for item in items] == [f"hf://{tmp_path}/set#{row}" for row in range(3)]
    assert [item.read() for item in items] == [Path(path).read_bytes() for path in paths]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no tar archive"):
        list(iterate(tmp_path / "none.tar"))
    with pytest.raises(ImageError, match="cannot read the list"):
        list(iterate(tmp_path / "none.txt"))
    with pytest.raises(ImageError, match="was it moved"):
        read_key(str(tmp_path / "gone.png"))
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    with pytest.raises(DatasetError, match="not a whole tar"):
        list(iterate(tmp_path / "bad.tar"))


def test_a_data_set_without_images_is_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"n": [1]}).save_to_disk(tmp_path / "set")
    with pytest.raises(DatasetError, match="a column of images"):
        list(iterate(f"hf://{tmp_path}/set"))


def test_an_address_is_no_source_and_is_refused_by_name_in_a_list(tmp_path: Path) -> None:
    for source in ("https://a.b/list.txt", "http://a.b/photos.tar", "https://a.b/c.jpg"):
        with pytest.raises(ImageError, match=f"expected a file, got the address '{source}'; download it"):
            list(iterate(source))
    (tmp_path / "list.txt").write_text("https://a.b/c.jpg\n")
    (item,) = iterate(tmp_path / "list.txt")
    with pytest.raises(ImageError, match=r"got the address 'https://a\.b/c\.jpg'; download it"):
        item.read()
