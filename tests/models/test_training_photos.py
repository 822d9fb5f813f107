from pathlib import Path

import numpy as np
import pytest

from ovseg.errors import ModelError
from ovseg.models.config import read_model_config
from ovseg.models.training_photos import TrainingPhotos


def test_those_of_mini_are_of_the_weights_that_its_model_file_names() -> None:
    photos = TrainingPhotos.of_model("mini")
    assert photos is not None
    assert photos.weights == read_model_config("mini").encoder.sha256["alignment.safetensors"]
    assert photos.sources == (("coco-train100", 100), ("coco-things", 216), ("clothing", 100), ("photos", 3800))
    assert photos.fingerprints.shape == (4216, 20) and photos.fingerprints.any(axis=1).mean() > 0.99
    assert photos.name(0) == "photo 1 of 'coco-train100'" and photos.name(4215) == "photo 3800 of 'photos'"


def test_a_model_whose_photos_nobody_wrote_down_has_none() -> None:
    assert TrainingPhotos.of_model("clip-b16-maskclip") is None


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    photos = TrainingPhotos(np.arange(40, dtype=np.uint8).reshape(2, 20), (("a", 1), ("b", 1)), "0")
    photos.save(path)
    loaded = TrainingPhotos.load(path)
    np.testing.assert_array_equal(loaded.fingerprints, photos.fingerprints)
    assert (loaded.sources, loaded.weights) == (photos.sources, "0")
    content = path.read_bytes()
    for place in (0, 30, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ModelError, match=r"a\.safetensors' is missing or damaged"):
            TrainingPhotos.load(path)
    with pytest.raises(ModelError, match="is missing or damaged"):
        TrainingPhotos.load(tmp_path / "none")
