"""The boxes of mini's detector: against a slow version, and on a photo."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ovseg
from ovseg.assets import asset_root
from ovseg.encoders.embedded.detector import SHORT_SIDES, STRIDES, BoxBranch, PicoDetector
from ovseg.encoders.embedded.picodet import PicoDet
from ovseg.errors import ModelError
from ovseg.images.load import load_image
from ovseg.pipeline.boxes import boxes_beside, proposals_of
from ovseg.pipeline.segmenter import Segmenter
from ovseg.proposals.boxes import box_overlap


def test_a_box_is_four_mean_distances_from_the_middle_of_its_cell() -> None:
    torch.manual_seed(0)
    network, branch = PicoDet().eval(), BoxBranch().eval()
    pixels = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        maps = network(pixels)
        boxes, classes = branch(maps)
        logits = branch.boxes[1](maps.features[1])[0]  # at stride 16: 4 x 6 cells
    cells = [-(-64 // stride) * -(-96 // stride) for stride in STRIDES]
    assert boxes.shape == (1, sum(cells), 4) and classes.shape == (1, sum(cells), 80)
    row, column = 2, 5
    share = [np.exp(logits[8 * side : 8 * side + 8, row, column].double().numpy()) for side in range(4)]
    left, top, right, bottom = (float((each / each.sum()) @ np.arange(8)) for each in share)
    x, y = 16 * (column + 0.5), 16 * (row + 0.5)
    expected = [x - 16 * left, y - 16 * top, x + 16 * right, y + 16 * bottom]
    np.testing.assert_allclose(boxes[0, cells[0] + row * 6 + column].numpy(), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def detector(mini: Segmenter) -> PicoDetector:
    assert mini.model.detector is not None
    found = mini.model.detector()
    assert isinstance(found, PicoDetector)
    return found


def test_a_red_square_on_grey_gives_boxes_inside_the_image(detector: PicoDetector) -> None:
    image = np.full((90, 200, 3), 128, np.uint8)
    image[20:70, 60:140] = (200, 30, 30)
    found = detector.propose(image)
    assert found.boxes.shape[1] == 4 and found.classes.shape[1] == 80
    assert float(found.boxes.min()) >= 0
    assert bool((found.boxes <= torch.tensor([200, 90, 200, 90])).all())
    assert float(found.classes.max()) <= 1


def test_it_finds_the_cat_of_a_photo_at_both_sizes(detector: PicoDetector) -> None:
    found = detector.propose(load_image(Path(__file__).parents[2] / "examples" / "cat.jpg"))
    best = found.classes[:, 15].topk(2).indices  # COCO's cat
    assert float(found.classes[best, 15].min()) > 0.6
    assert float(box_overlap(found.boxes[best[:1]], found.boxes[best[1:]])) > 0.8
    image = load_image(Path(__file__).parents[2] / "examples" / "cat.jpg")
    once = detector.propose(image, closer=False)
    np.testing.assert_array_equal(once.boxes, found.boxes[: len(once.boxes)])
    assert len(SHORT_SIDES) == 2 and len(once.boxes) < len(found.boxes)


def test_a_missing_or_damaged_file_of_boxes_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights file"):
        BoxBranch.load(tmp_path / "boxes.safetensors")
    shutil.copy(asset_root("models") / "mini" / "boxes.safetensors", tmp_path)
    content = (tmp_path / "boxes.safetensors").read_bytes()
    (tmp_path / "boxes.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"boxes\.safetensors"):
        BoxBranch.load(tmp_path / "boxes.safetensors")


def test_boxes_come_with_the_features_as_a_look_of_its_own_at_that_size_finds_them(
    mini: Segmenter, detector: PicoDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = load_image(Path(__file__).parents[2] / "examples" / "cat.jpg")
    encoded = mini.encode(image)
    found = boxes_beside(mini.model, encoded)
    monkeypatch.setattr("ovseg.encoders.embedded.detector.SHORT_SIDES", (mini.config.input.short_side,))
    slow = detector.propose(image)
    assert len(slow.boxes) == len(found.boxes) > 10
    torch.testing.assert_close(found.boxes, slow.boxes, atol=0.01, rtol=1e-4)
    torch.testing.assert_close(found.classes, slow.classes, atol=1e-4, rtol=1e-3)
    alone = replace(encoded, features=replace(encoded.features, boxes=None), _made={})
    torch.testing.assert_close(boxes_beside(mini.model, alone).boxes, slow.boxes)
    torch.testing.assert_close(proposals_of(mini.model, alone, closer=False).boxes, slow.boxes)


def test_weights_without_boxes_find_labels_until_boxes_are_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    shutil.copytree(asset_root("models") / "mini", folder)
    (folder / "boxes.safetensors").unlink()
    model = ovseg.load("mini", weights=folder).model
    seen = model.image.dense(torch.zeros(1, 3, 64, 64))
    assert seen.boxes is None and "boxes" not in model.weights
    assert model.detector is not None
    with pytest.raises(ModelError, match=r"no weights file.*boxes"):
        model.detector()
