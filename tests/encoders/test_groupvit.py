"""GroupViT as an encoder, against transformers' own segmentation logits on the same random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.mask_models import clipseg_files, groupvit_files, groupvit_of_transformers, written
from torch.nn import functional
from transformers import AutoTokenizer

from ovseg.errors import ModelError
from ovseg.models.build import build_model
from ovseg.models.config import read_model_config
from ovseg.models.model import Model
from ovseg.pipeline.segmenter import Segmenter

CONFIG = read_model_config("groupvit")
PHRASES = ["a cat", "the road", "sky"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(groupvit_files(), tmp_path_factory.mktemp("groupvit"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return build_model(CONFIG, weights=folder)


def test_dot_products_are_the_segmentation_logits_of_transformers(model: Model, folder: Path) -> None:
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network = groupvit_of_transformers()
    tokens = AutoTokenizer.from_pretrained(folder)(PHRASES, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = network(pixel_values=pixels, **tokens, output_segmentation=True).segmentation_logits
        features = model.image.dense(pixels)
        assert features.grid == (4, 4) and features.stride == 16
        maps = torch.einsum("bchw,qc->bqhw", features.values, model.text().encode(PHRASES))
        scale = network.logit_scale.exp() ** 2
        enlarged = functional.interpolate(scale * maps, (64, 64), mode="bilinear")
    assert expected.std() > 0.1
    torch.testing.assert_close(enlarged, expected, atol=1e-3, rtol=1e-4)


def test_other_sizes_and_windows_run(model: Model) -> None:
    assert model.image.dense(torch.randn(1, 3, 48, 96)).grid == (3, 6)
    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    found = Segmenter(model, device=torch.device("cpu")).segment(photo, PHRASES, background=None)
    assert found.size == (60, 90) and {0, 1, 2} >= set(np.unique(found.index_map))


def test_the_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    for name, content in clipseg_files().items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match="of type groupvit, got 'clipseg'"):
        build_model(CONFIG, weights=tmp_path)
