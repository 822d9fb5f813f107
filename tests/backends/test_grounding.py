"""Grounding DINO with a SAM behind ``segment``, against transformers on the same random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.mask_models import grounding_files, grounding_of_transformers
from transformers import AutoTokenizer, GroundingDinoImageProcessor, GroundingDinoProcessor

from ovseg.backends.grounding import Unpacked, captions, packed
from ovseg.errors import ConfigError
from ovseg.images.resize import prepare
from ovseg.models.build import build_model
from ovseg.models.config import ModelConfig, read_model_config
from ovseg.models.sections import QualityConfig
from ovseg.pipeline.segmenter import Segmenter
from ovseg.sam import load_sam, to_image

LABELS = ["a cat", "sky", "blue dog", "tree"]
PHOTO = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
# the second differs in a few layers, and runs once in tests/models/test_over_the_hub.py as well
KINDS = ["grounding-dino", pytest.param("mm-grounding-dino", marks=pytest.mark.slow)]


def small(kind: str) -> ModelConfig:
    """The model file for photos of 64 pixels."""
    config = read_model_config(f"{kind}-tiny+sam")
    return config.model_copy(update={"input": config.input.model_copy(update={"short_side": 64})})


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Segmenter, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    for name, content in grounding_files(request.param).items():
        (folder / name).write_bytes(content)
    return Segmenter(build_model(small(request.param), weights=folder), device=torch.device("cpu")), folder


@torch.inference_mode()
def theirs(segmenter: Segmenter, folder: Path, labels: list[str], threshold: float) -> dict:
    """Boxes, scores and texts of transformers' own post-processing."""
    processor = GroundingDinoProcessor(GroundingDinoImageProcessor(), AutoTokenizer.from_pretrained(folder))
    pixels = prepare(PHOTO, segmenter.model.image.spec, size=(64, 96))[0]
    words = processor(text=labels, return_tensors="pt")
    network = grounding_of_transformers(segmenter.config.encoder.name)
    output = network(pixel_values=pixels, **words)
    (found,) = processor.post_process_grounded_object_detection(
        output, words["input_ids"], threshold=threshold, text_threshold=0, target_sizes=[PHOTO.shape[:2]]
    )
    return found | {"logits": output.logits[0], "ids": words["input_ids"][0]}


@pytest.mark.slow
def test_objects_are_the_boxes_of_transformers_with_the_masks_of_sam(made: tuple[Segmenter, Path]) -> None:
    segmenter, folder = made
    expected = theirs(segmenter, folder, LABELS, 0.0)
    limit = float(expected["scores"].median()) - 1e-6
    strict = segmenter.with_objects(least_score=limit)
    found = strict.segment(PHOTO, LABELS, instances=LABELS, quality="best")
    kept = expected["scores"] > limit
    network = load_sam()
    embedding = network.encode(torch.from_numpy(PHOTO))
    size = torch.tensor([90, 60, 90, 60])
    boxes = expected["boxes"][kept].clamp(torch.zeros(4), size)
    masks = torch.stack(list(to_image(embedding, network.masks(embedding, boxes=boxes)[0][:, 0])))
    drawn = [(float(score), mask.numpy()) for score, mask in zip(expected["scores"][kept], masks, strict=True)]
    drawn = sorted((each for each in drawn if each[1].any()), key=lambda each: -each[0])
    assert found.instances is not None and len(found.instances) == len(drawn) > 2
    for segment, (score, mask) in zip(found.instances, drawn, strict=True):
        assert segment.score == pytest.approx(score, abs=1e-5)
        assert (segment.mask() == mask).mean() > 0.999
    assert found.provenance["quality"] == "best" and found.things == tuple(LABELS)


def test_a_box_is_of_the_phrase_of_its_surest_word(made: tuple[Segmenter, Path]) -> None:
    segmenter, folder = made
    expected = theirs(segmenter, folder, LABELS, 0.0)
    group = (expected["ids"] == 1012).cumsum(0)  # stops before each token
    words = ~torch.isin(expected["ids"], torch.tensor([101, 102, 1012]))
    logits = expected["logits"][:, : len(words)].masked_fill(~words, -torch.inf)
    owners = group[logits.argmax(1)]
    tokens = segmenter.queries(LABELS).phrases.tokens
    ((ids, owner),) = captions(tokens, longest=24)
    assert torch.equal(ids, expected["ids"])
    _, scores, phrases = segmenter.model.head._ask(segmenter.encode(PHOTO).features, ids, owner)
    torch.testing.assert_close(scores, expected["scores"], atol=1e-5, rtol=1e-5)
    assert torch.equal(phrases, owners)


def test_the_label_map_shows_the_surest_object_at_every_pixel(made: tuple[Segmenter, Path]) -> None:
    segmenter, _ = made
    eager = segmenter.with_objects(least_score=0.0)
    found = eager.segment(PHOTO, LABELS, instances=LABELS, keep_scores=True)
    assert found.instances
    best = np.zeros((60, 90))
    for segment in found.instances:
        best = np.maximum(best, np.where(segment.mask(), segment.score, 0))
    near = np.abs(found.score_map - best) < 1e-3
    assert near.mean() > 0.8  # all but the borders, which are interpolated over cells of 4 of the network's pixels
    nothing = segmenter.with_objects(least_score=1.0).segment(PHOTO, LABELS, instances=LABELS)
    assert nothing.instances == () and (nothing.index_map == -1).all()


def test_captions_hold_what_fits_and_leave_stops_inside_phrases_out() -> None:
    tokens = torch.tensor([[101, 5, 6, 102, -1], [101, 7, 1012, 8, 102], [101, 9, 102, -1, -1]])
    (first, of_first), (second, of_second) = captions(tokens, longest=9)
    assert first.tolist() == [101, 5, 6, 1012, 7, 8, 1012, 102] and of_first.tolist() == [
        -1,
        0,
        0,
        -1,
        1,
        1,
        -1,
        -1,
    ]
    assert second.tolist() == [101, 9, 1012, 102] and of_second.tolist() == [-1, 2, -1, -1]


def test_maps_that_were_packed_come_out_again() -> None:
    maps = [torch.randn(2, 3, 8, 12), torch.randn(2, 5, 4, 6), torch.randn(2, 7, 2, 3)]
    one = packed(maps)
    assert one.shape == (2, 3 * 16 + 5 * 4 + 7, 2, 3)
    for given, back in zip(maps, Unpacked((3, 5, 7))(one).feature_maps, strict=True):
        assert torch.equal(given, back)


def test_boxes_without_a_sam_are_refused(made: tuple[Segmenter, Path]) -> None:
    segmenter, folder = made
    config = segmenter.config.model_copy(update={"objects": QualityConfig()})
    with pytest.raises(ConfigError, match="needs one SAM for their masks, got map and mobile-sam; write masks"):
        build_model(config, weights=folder)
