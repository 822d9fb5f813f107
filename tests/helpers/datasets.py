from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.result import SegmentationResult
from ovseg.result.segments import Segment

NAMES = ("sky", "road", "cat")


class Oracle:
    """Finds the class in the red channel of the fixtures' images, wrong in every ``spoil``-th column."""

    info: dict[str, Any]
    reads_examples = False

    def __init__(self, spoil: int = 0) -> None:
        self.spoil = spoil
        self.info = {"name": f"oracle-{spoil}"}
        self.asked: list[list[str]] = []

    def segment(self, image: Any, labels: list[Any], *, background: Any = None) -> Any:
        names = [label if isinstance(label, str) else label.label for label in labels]
        self.asked.append(names)
        index = np.full(image.shape[:2], -1, np.int32)
        for position, name in enumerate(NAMES):
            if name in names:
                index[image[..., 0] == position * 50] = names.index(name)
        if self.spoil:
            index[:, :: self.spoil] = 0
        score = np.full(index.shape, 0.75, np.float32)
        return SimpleNamespace(
            index_map=index, score_map=score, presence={name: float(name != "cat") for name in names}
        )


class Unsure(Oracle):
    """An oracle whose confidences differ from pixel to pixel, in all their digits."""

    def segment(self, image: Any, labels: list[Any], *, background: Any = None) -> Any:
        result = super().segment(image, labels, background=background)
        seed = int(image.astype(np.int64).sum())
        result.score_map = np.random.default_rng(seed).random(result.index_map.shape, np.float32)
        return result


def truth_of(number: int) -> np.ndarray[Any, Any]:
    """(12, 16) uint8: sky above road, a cat in every second image, two ignored pixels."""
    truth = np.zeros((12, 16), np.uint8)
    truth[5 + number % 3 :] = 1
    if number % 2:
        truth[3:8, 4:9] = 2
    truth[0, :2] = 255
    return truth


def write_folder(root: Path, *, images: int = 6) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for number in range(images):
        truth = truth_of(number)
        pixels = np.stack([np.where(truth == 255, 0, truth) * 50] * 3, -1).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number:03d}.png")
        Image.fromarray(truth).save(root / "masks" / f"{number:03d}.png")
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root


def write_rows(folder: Path, numbers: list[int], *, split: str = "val") -> Path:
    """The images and masks of these numbers, as the ``datasets`` library saves them."""
    import datasets

    truths = [truth_of(number) for number in numbers]
    images = [np.stack([np.where(truth == 255, 0, truth) * 50] * 3, -1).astype(np.uint8) for truth in truths]
    columns = {"image": images, "annotation": truths}
    table = datasets.Dataset.from_dict({key: [*map(Image.fromarray, values)] for key, values in columns.items()})
    for column in columns:
        table = table.cast_column(column, datasets.Image())
    datasets.DatasetDict({split: table}).save_to_disk(str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data")


@pytest.fixture
def oracle() -> Callable[..., Oracle]:
    return Oracle


@pytest.fixture
def maps() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A noisy (prediction, truth) of five classes, non-square, with none and ignored pixels."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 5, (6, 9))
    truth = np.kron(blocks, np.ones((8, 7), np.int64)).astype(np.int32)
    prediction = np.where(generator.random(truth.shape) < 0.8, truth, (truth + 1) % 5).astype(np.int32)
    prediction[:4] = -1
    truth[-5:, :20] = -1
    return prediction, truth


@pytest.fixture
def real_data() -> Path:
    for parent in Path(__file__).resolve().parents:
        if (parent / "shared" / "data").is_dir():
            return parent / "shared" / "data"
    pytest.skip("needs the real data in shared/data beside the checkout")


@pytest.fixture
def categories() -> Callable[[Path], None]:
    def write(path: Path) -> None:
        content = {"ignore": 0, "categories": [{"id": i + 1, "name": n} for i, n in enumerate(NAMES)]}
        path.write_text(json.dumps(content))

    return write


def encode_rectangle(size: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> dict[str, Any]:
    """COCO's run-length encoding of a rectangle in an image of ``size`` (H, W)."""
    from ovseg.result.segments import encode_mask

    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return encode_mask(mask)


OBJECT_SIZE = (24, 32)
OBJECT_NAMES = ("sky", "cat", "dog")  # of ids 7, 3 and 5; the first is no thing
_OBJECT_IDS = {"sky": 7, "cat": 3, "dog": 5}


def write_objects(root: Path, *, images: int = 3) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same photos as ``panoptic`` and as ``instances`` data; returns what their JSON files hold.

    Each photo has sky above void, a cat at columns 2 to 12 and a dog from column 16 to 24 plus the photo's number,
    rows 10 to 20 both. Red says what is there: 40 times the place in ``OBJECT_NAMES``, 200 for void.
    """
    from ovseg.result.panoptic import ids_to_picture

    for folder in ("images", "panoptic"):
        (root / folder).mkdir(parents=True)
    rows = [{"id": value, "name": name, "isthing": int(name != "sky")} for name, value in _OBJECT_IDS.items()]
    shared: dict[str, Any] = {"images": [], "annotations": [], "categories": rows}
    panoptic, instances = shared, {**shared, "annotations": []}
    for number in range(images):
        ids = np.zeros(OBJECT_SIZE, np.int32)
        ids[:10] = 1000
        ids[10:20, 2:12] = 2
        ids[10:20, 16 : 24 + number] = 70000
        info = [{"id": 1000, "category_id": 7}, {"id": 2, "category_id": 3}, {"id": 70000, "category_id": 5}]
        red = np.select([ids == 1000, ids == 2, ids == 70000], [0, 40, 80], 200).astype(np.uint8)
        Image.fromarray(np.stack([red] * 3, -1)).save(root / "images" / f"{number:03d}.png")
        ids_to_picture(ids).save(root / "panoptic" / f"{number:03d}.png")
        height, width = OBJECT_SIZE
        shared["images"].append(
            {"id": 50 + number, "file_name": f"{number:03d}.png", "height": height, "width": width}
        )
        panoptic["annotations"].append(
            {"image_id": 50 + number, "file_name": f"{number:03d}.png", "segments_info": info}
        )
        for place, (value, box) in enumerate(((3, (2, 10, 12, 20)), (5, (16, 10, 24 + number, 20)))):
            values = {"image_id": 50 + number, "category_id": value, "iscrowd": 0}
            mask = encode_rectangle(OBJECT_SIZE, *box)
            instances["annotations"].append({"id": 2 * number + place, "segmentation": mask, **values})
    write_annotations(root, panoptic, instances)
    return panoptic, instances


def write_annotations(root: Path, panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    (root / "panoptic.json").write_text(json.dumps(panoptic))
    (root / "instances.json").write_text(json.dumps(instances))


class ObjectOracle:
    """Finds the segments and objects of ``write_objects`` in the red channel.

    Args:
        cut: cats and dogs lose so many columns on their left.
        names: what labels are called instead.
        unsure: an object that is not there, of the first thing asked for, with a score of 0.1.
    """

    def __init__(self, *, cut: int = 0, names: dict[str, str] | None = None, unsure: bool = False) -> None:
        self.cut, self.names, self.unsure = cut, names or {}, unsure
        self.info = {"name": f"objects-{cut}-{self.names}-{unsure}"}
        self.asked: list[dict[str, Any]] = []

    def with_objects(self, **fields: Any) -> Any:
        self.info = self.info | fields
        return self

    def segment(
        self,
        image: Any,
        labels: list[Any],
        *,
        instances: Any = False,
        quality: str | None = None,
        background: Any = "auto",
    ) -> SegmentationResult:
        asked = {"labels": labels, "instances": instances, "quality": quality, "background": background}
        self.asked.append(asked)
        index = np.full(image.shape[:2], -1, np.int32)
        found = []
        for place, name in enumerate(OBJECT_NAMES):
            called = self.names.get(name, name)
            if called in labels:
                mask = image[..., 0] == 40 * place
                columns = np.flatnonzero(mask.any(0))
                mask[:, columns[: self.cut if place else 0]] = False
                index[mask] = labels.index(called)
                if called in (instances or ()):
                    found.append(Segment.of_mask(mask, called, 0.9 - place / 10, corner=(0, 0), size=mask.shape))
        if self.unsure and instances:
            found.append(Segment.of_mask(index >= 0, instances[0], 0.1, corner=(0, 0), size=index.shape))
        score = np.full(index.shape, 0.75, np.float32)
        return SegmentationResult(
            index_map=index,
            labels=tuple(labels),
            score_map=score,
            presence=dict.fromkeys(labels, 1.0),
            image=image,
            instances=tuple(found) if instances else None,
            things=tuple(instances or ()),
            provenance={},
        )
