"""OWLv2 with a SAM behind ``segment``, against transformers on the same random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.mask_models import owlv2_files, owlv2_of_transformers, written
from transformers import AutoTokenizer, Owlv2ImageProcessor, Owlv2Processor

from ovseg.errors import ConfigError
from ovseg.images.resize import prepare
from ovseg.models.build import build_model
from ovseg.models.config import read_model_config
from ovseg.pipeline.segmenter import Segmenter
from ovseg.sam import load_sam, to_image

LABELS = ["a cat", "sky", "blue dog"]
PHOTO = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
SIDE = 96
FILE = read_model_config("owlv2-b16+sam")
CONFIG = FILE.model_copy(
    update={"input": FILE.input.model_copy(update={"short_side": SIDE, "max_long_side": SIDE})}
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(owlv2_files(SIDE), tmp_path_factory.mktemp("owlv2"))


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> Segmenter:
    return Segmenter(build_model(CONFIG, weights=folder), device=torch.device("cpu"))


@torch.inference_mode()
def theirs(segmenter: Segmenter, folder: Path) -> list[tuple[float, int, torch.Tensor]]:
    """Score, phrase and box of each of the 4 x 6 cells that show the photo, of the 6 x 6 of the square."""
    spec = segmenter.model.image.spec
    processor = Owlv2Processor(Owlv2ImageProcessor(), AutoTokenizer.from_pretrained(folder, model_max_length=16))
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    black[:64] = PHOTO
    words = processor(text=[LABELS], return_tensors="pt")
    output = owlv2_of_transformers(SIDE)(pixel_values=prepare(black, spec, size=(SIDE, SIDE))[0], **words)
    (found,) = processor.post_process_grounded_object_detection(output, threshold=0.0, target_sizes=[(SIDE, SIDE)])
    facts = zip(found["scores"].tolist(), found["labels"].tolist(), found["boxes"], strict=True)
    return list(facts)[: 4 * 6]


@pytest.mark.slow
def test_objects_are_the_boxes_of_transformers_with_the_masks_of_sam(segmenter: Segmenter, folder: Path) -> None:
    expected = theirs(segmenter, folder)
    limit = sorted(score for score, _, _ in expected)[12]
    kept = sorted((each for each in expected if each[0] > limit + 1e-6), key=lambda each: -each[0])
    network = load_sam()
    embedding = network.encode(torch.from_numpy(PHOTO))
    boxes = torch.stack([box for _, _, box in kept]).clamp(torch.zeros(4), torch.tensor([96.0, 64, 96, 64]))
    masks = list(to_image(embedding, network.masks(embedding, boxes=boxes)[0][:, 0]))
    drawn = [(*each[:2], mask.numpy()) for each, mask in zip(kept, masks, strict=True) if bool(mask.any())]
    found = segmenter.with_objects(least_score=limit + 1e-6).segment(PHOTO, LABELS, instances=LABELS).instances
    assert found is not None and len(found) == len(drawn) > 3
    for segment, (score, phrase, mask) in zip(found, drawn, strict=True):
        assert (segment.score, segment.label) == (pytest.approx(score, abs=1e-5), LABELS[phrase])
        assert (segment.mask() == mask).mean() > 0.999


def test_photos_larger_than_the_square_are_refused_in_the_file(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"sees 96 pixels at most, got input\.max_long_side 960; write 96"):
        build_model(FILE, weights=folder)
