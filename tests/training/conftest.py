from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ("sky", "road", "cat")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of three flat classes, with masks."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    draw = np.random.default_rng(0)
    for number in range(3):
        truth = np.zeros((64, 96), np.uint8)
        truth[32:] = 1
        truth[16 : 40 + 8 * number, 32:64] = 2
        colours = np.array([[90, 140, 220], [110, 110, 110], [200, 150, 90]])[truth]
        image = (colours + draw.integers(0, 30, colours.shape)).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{number}.png")
        Image.fromarray(truth).save(root / "masks" / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root
