from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
