from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.datasets import write_folder
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.data.orientation import as_stored, edge_agreement, orientation_of
from ovseg.evaluation.data.protocol import load_protocol
from ovseg.evaluation.run.runner import evaluate
from ovseg.evaluation.run.task import RunOptions
from ovseg.images.load import load_image
from ovseg.training.data import MaskData, open_masks, reading_of

FOLDER = load_protocol("folder")
SUFFIXES = ("jpg", "png", "webp", "tif")


def turn(path: Path, orientation: int) -> None:
    """Write the orientation into a picture; its stored pixels stay."""
    with Image.open(path) as picture:
        picture.load()
        exif = picture.getexif()
        exif[0x0112] = orientation
        picture.save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))


def write_photos(root: Path, orientations: Sequence[int], *, shape: tuple[int, int], drawn_on: str) -> Path:
    """Photos of a bright block on a dark ground, stored turned, with masks drawn on what the name says."""
    (root / "images").mkdir(parents=True), (root / "masks").mkdir()
    (root / "classes.txt").write_text("ground\nblock\n")
    for number, orientation in enumerate(orientations):
        stored = np.zeros(shape, np.uint8)
        stored[4 : 14 + number, 6:20] = 1
        file = root / "images" / f"{number}.png"
        Image.fromarray(np.stack([stored * 200 + 20] * 3, -1)).save(file)
        turn(file, orientation)
        mask = stored if drawn_on == "stored" else load_image(file)[..., 0] // 200
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return root


class Bright:
    """Right wherever photo and mask lie on each other."""

    def segment(self, image: NDArray[np.uint8], labels: list[str]) -> Any:
        return SimpleNamespace(index_map=(image[..., 0] > 100).astype(np.int32))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_going_back_to_the_stored_pixels_undoes_what_pillow_does(tmp_path: Path, orientation: int) -> None:
    stored = np.random.default_rng(0).integers(0, 255, (5, 8, 3), dtype=np.uint8)
    for suffix in SUFFIXES:
        file = tmp_path / f"a.{suffix}"
        Image.fromarray(stored).save(file, **({"lossless": True} if suffix == "webp" else {}))
        turn(file, orientation)
        assert orientation_of(file) == orientation_of(file.read_bytes()) == orientation
        with Image.open(file) as opened:
            assert np.array_equal(load_image(file), np.asarray(ImageOps.exif_transpose(opened)))
            if suffix != "jpg":
                assert np.array_equal(as_stored(load_image(file), orientation), stored)


def test_a_photo_without_a_note_is_upright(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / f"a.{suffix}")
        assert orientation_of(tmp_path / f"a.{suffix}") == 1
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    assert orientation_of(tmp_path / "cut.jpg") == 1


def test_edges_under_borders_are_the_strongest() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 10:] = 200
    ids = np.zeros((20, 20), np.int32)
    ids[:, 10:] = 1
    assert edge_agreement(image, ids) > 0.4
    assert edge_agreement(image, ids.T) == pytest.approx(0, abs=0.01)  # each column is crossed alike
    assert edge_agreement(image, np.zeros_like(ids)) == 0  # no border
    assert edge_agreement(np.zeros_like(image), ids) == 0  # no edge


@pytest.mark.parametrize("drawn_on", ["stored", "upright"])
@pytest.mark.parametrize(
    ("shape", "orientations"), [((40, 30), (3, 2, 4, 1)), ((32, 32), (6, 8, 5, 7)), ((40, 30), (6, 8, 3, 3))]
)
def test_a_perfect_model_scores_one_however_masks_were_drawn(
    tmp_path: Path, shape: tuple[int, int], orientations: tuple[int, ...], drawn_on: str
) -> None:
    data = write_photos(tmp_path / "data", orientations, shape=shape, drawn_on=drawn_on)
    report = evaluate(Bright(), "folder", data=data)
    assert report.mean_iou == 1.0
    where = "turned photos" if drawn_on == "upright" else "pixels as stored"
    assert any(f"masks were drawn on the {where}" in note for note in report.manifest["remarks"])


def test_what_photos_do_not_settle_is_asked_and_what_is_said_is_done(tmp_path: Path) -> None:
    data = write_photos(tmp_path / "data", (3, 3), shape=(40, 30), drawn_on="stored")
    for file in (data / "images").iterdir():  # photos without an edge
        Image.fromarray(np.full((40, 30, 3), 90, np.uint8)).save(file)
        turn(file, 3)
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 255, (40, 30, 3), dtype=np.uint8)  # edges that have nothing to do with the masks
    Image.fromarray(noise).save(data / "images" / "0.png")
    turn(data / "images" / "0.png", 3)
    asked = r"photos are turned by their EXIF data, such as '0'.* say --orientation upright"
    with pytest.raises(DatasetError, match=asked):
        open_dataset(FOLDER, data).load(0)
    for stated, wanted in (("stored", noise), ("upright", noise[::-1, ::-1])):
        protocol = FOLDER.model_copy(update={"orientation": stated})
        assert np.array_equal(open_dataset(protocol, data).load(0).image, wanted)
    with pytest.raises(DatasetError, match="say --orientation"):
        evaluate(Bright(), "folder", data=data)
    assert evaluate(Bright(), "folder", data=data, options=RunOptions(orientation="stored")).mean_iou >= 0


def test_masks_that_were_not_drawn_alike_are_refused(tmp_path: Path) -> None:
    data = write_photos(tmp_path / "data", (3, 3, 3, 3), shape=(40, 30), drawn_on="stored")
    for number in (1, 2):
        file = data / "masks" / f"{number}.png"
        Image.fromarray(np.asarray(Image.open(file))[::-1, ::-1]).save(file)
    with pytest.raises(DatasetError, match="masks of '1' and '0' were not drawn alike"):
        open_dataset(FOLDER, data).load(0)


def test_masks_that_look_the_same_both_ways_ask_nothing(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", images=2)
    for number in range(2):
        Image.fromarray(np.zeros((12, 16), np.uint8)).save(data / "masks" / f"{number:03d}.png")
        turn(data / "images" / f"{number:03d}.png", 3)
    assert open_dataset(FOLDER, data).reading == "upright"


def test_rows_and_features_of_another_reading_are_not_taken_up(tmp_path: Path) -> None:
    data = write_photos(tmp_path / "data", (3, 1), shape=(40, 30), drawn_on="stored")
    sections = [MaskData(protocol="folder", path=str(data), orientation=stated) for stated in (None, "upright")]
    readings = [reading_of(open_masks(section)) for section in sections]
    assert [reading["orientation"] for reading in readings] == ["stored", "upright"]
    evaluate(Bright(), "folder", data=data, out=tmp_path / "out")
    with pytest.raises(ConfigError, match="orientation 'stored' before and 'upright' now"):
        evaluate(Bright(), "folder", data=data, out=tmp_path / "out", options=RunOptions(orientation="upright"))


def test_rows_of_the_hub_are_read_as_their_masks_were_drawn(tmp_path: Path) -> None:
    import datasets

    folder = write_photos(tmp_path / "data", (3, 3, 1), shape=(40, 30), drawn_on="stored")
    files = [[str(folder / part / f"{number}.png") for number in range(3)] for part in ("images", "masks")]
    table = datasets.Dataset.from_dict({"image": files[0], "annotation": files[1]})
    for column in ("image", "annotation"):
        table = table.cast_column(column, datasets.Image())
    datasets.DatasetDict({"val": table}).save_to_disk(str(tmp_path / "saved"))
    classes = open_dataset(FOLDER, folder).protocol.classes
    protocol = FOLDER.model_copy(update={"classes_from": (), "classes": classes})
    dataset = open_dataset(protocol, f"hf://{tmp_path / 'saved'}:val")
    assert dataset.reading == "stored"
    for index in range(3):
        example = dataset.load(index)
        assert np.array_equal(example.image[..., 0] > 100, example.truth == 1)


@pytest.mark.slow
def test_real_masks_tell_how_they_were_drawn(real_data: Path, tmp_path: Path) -> None:
    """Twelve COCO photos, turned by half: three at a time, drawn on the stored pixels or the upright ones."""
    files = sorted((real_data / "coco-train100" / "images").glob("*.jpg"))[:12]
    for start in range(0, 12, 3):
        for drawn_on in ("stored", "upright"):
            data = tmp_path / f"{start}-{drawn_on}"
            (data / "images").mkdir(parents=True), (data / "masks").mkdir()
            (data / "classes.txt").write_text("\n".join(f"class {n}" for n in range(256)))
            for file in files[start : start + 3]:
                mask = np.asarray(Image.open(real_data / "coco-train100" / "masks" / f"{file.stem}.png"))
                pixels = np.asarray(Image.open(file).convert("RGB"))
                Image.fromarray(pixels).save(data / "images" / f"{file.stem}.jpg", quality=90)
                turn(data / "images" / f"{file.stem}.jpg", 3)
                mask = mask if drawn_on == "stored" else mask[::-1, ::-1]
                Image.fromarray(np.ascontiguousarray(mask)).save(data / "masks" / f"{file.stem}.png")
            assert open_dataset(FOLDER, data).reading == drawn_on
