from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training import write_table
from PIL import Image

from ovseg.pipeline.queries import encode_phrases
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training.cells import CellData, Cells, NamedData, cell_classes, principal_axes, read_named
from ovseg.training.config import TrainingConfig
from ovseg.training.features import FeatureCache
from ovseg.training.loop import make_accelerator
from ovseg.vocabulary.templates import Templates


def test_a_cell_has_the_class_that_covers_enough_of_it() -> None:
    truth = torch.full((4, 8), -1)
    truth[:, :3], truth[:, 4:6], truth[:, 6:] = 2, 0, 1
    assert cell_classes(truth, (1, 2), classes=3, coverage=0.55).tolist() == [2, -1]
    assert cell_classes(truth, (1, 2), classes=3, coverage=0.5).tolist()[0] == 2
    assert cell_classes(torch.full((4, 8), -1), (1, 2), classes=3, coverage=0.5).tolist() == [-1, -1]


def test_principal_axes_are_the_directions_of_largest_variance() -> None:
    draw = torch.Generator().manual_seed(0)
    directions, _ = torch.linalg.qr(torch.randn(5, 5, generator=draw, dtype=torch.float64))
    spread = torch.tensor([9.0, 1.0, 4.0, 0.1, 0.01], dtype=torch.float64)
    features = torch.randn(4000, 5, generator=draw, dtype=torch.float64) * spread @ directions.T + 3
    mean, axes = principal_axes(features, count=2)
    torch.testing.assert_close(mean, features.mean(0))
    expected = directions[:, [0, 2]]
    torch.testing.assert_close((axes.T @ expected).abs(), torch.eye(2, dtype=torch.float64), atol=0.05, rtol=0)


@pytest.mark.parametrize("part", ["images", "masks"])
def test_the_cells_of_an_image_that_was_replaced_are_computed_again(
    small: Segmenter, folder: Path, tmp_path: Path, part: str
) -> None:
    def read() -> list[Any]:
        cache = FeatureCache(tmp_path / "features")
        data = CellData(protocol="folder", path=str(folder))
        cells = Cells(data, small.model, cache, coverage=0.55)
        return [cells.fetch(place) for place in range(len(cells))]

    before = read()
    file = folder / part / "1.png"
    Image.fromarray(np.asarray(Image.open(file))[::-1].copy()).save(file)
    array = "features" if part == "images" else "classes"
    same = [np.array_equal(one[array], other[array]) for one, other in zip(before, read(), strict=True)]
    assert same == [True, False, True]


def test_a_named_photo_is_looked_at_again_when_it_or_the_prompt_was_changed(
    small: Segmenter, folder: Path, tmp_path: Path
) -> None:
    data = NamedData(table=write_table(folder / "names.csv", "name", [("images/0.png", "cat")]), cells=2)
    templates = tmp_path / "templates.yaml"
    templates.write_text("source: test\ntemplates: ['{}']\n")

    def encode(names: Sequence[str]) -> torch.Tensor:
        return encode_phrases(names, Templates.named(str(templates)), small.model.text().encode)

    def read() -> tuple[torch.Tensor, int]:
        cache, accelerator = FeatureCache(tmp_path / "features"), make_accelerator(TrainingConfig(recipe="toy"))
        head: Any = small.model.head
        features, _, _ = read_named(data, small.model, head, encode, cache=cache, accelerator=accelerator)
        assert cache.folder is not None
        return features, len(list(cache.folder.iterdir()))

    first, entries = read()
    assert read()[1] == entries == 1
    templates.write_text("source: test\ntemplates: ['a photo of the sky, with {}']\n")
    assert read()[1] == 2
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(folder / "images" / "0.png")
    second, entries = read()
    assert entries == 3 and not torch.equal(first, second)
