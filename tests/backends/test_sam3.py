"""SAM 3 behind ``segment``, against transformers' own forward pass and post-processing on equal random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.hub import point_at, serving_hub
from helpers.mask_models import sam3_files, sam3_of_transformers, written
from safetensors.torch import load, save
from transformers import AutoTokenizer, Sam3ImageProcessor, Sam3Processor

from ovseg.errors import ModelError, VocabularyError
from ovseg.images.resize import prepare
from ovseg.models.build import build_model
from ovseg.models.config import read_model_config
from ovseg.models.download import fetch
from ovseg.pipeline.segmenter import Segmenter
from ovseg.vocabulary.labels import Concept

CONFIG = read_model_config("sam3")
LABELS = ["a cat", "road", "the blue sky"]
PHOTO = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
SIZE = (60, 90)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(sam3_files(), tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> Segmenter:
    return Segmenter(build_model(CONFIG, weights=folder), device=torch.device("cpu"))


@pytest.fixture(scope="module")
def theirs(segmenter: Segmenter, folder: Path) -> tuple:
    """Probabilities (L, 60, 90) of the phrases, and a list of their instances, as transformers gives them."""
    spec = segmenter.model.image.spec
    processor = Sam3Processor(Sam3ImageProcessor(), AutoTokenizer.from_pretrained(folder))
    pixels = prepare(PHOTO, spec, size=spec.size)[0].expand(len(LABELS), -1, -1, -1)
    with torch.inference_mode():
        output = sam3_of_transformers()(pixel_values=pixels, **processor(text=LABELS, return_tensors="pt"))
    sizes = [SIZE] * len(LABELS)
    semantic = processor.post_process_semantic_segmentation(output, sizes, return_segmentation_scores=True)
    maps = torch.stack([each.segmentation_scores[0] for each in semantic])
    presence = output.presence_logits.sigmoid()[:, :, None]
    found = processor.post_process_instance_segmentation(output, threshold=0.0, target_sizes=sizes)
    return maps * presence, found


def test_probabilities_are_those_of_transformers_times_presence(segmenter: Segmenter, theirs: tuple) -> None:
    encoded = segmenter.encode(PHOTO)
    logits = segmenter.logits(encoded, segmenter.queries(LABELS, background="auto"))
    assert logits.stride == 3.5 and logits.grid == (32, 32)
    found = segmenter.segment(encoded, LABELS, keep_scores=True)
    assert found.scores is not None
    np.testing.assert_allclose(found.scores, theirs[0], atol=1e-3)  # kept in half precision
    np.testing.assert_allclose(found.score_map, theirs[0].amax(0), atol=1e-5)


def test_the_label_map_is_the_surest_phrase_over_the_threshold(folder: Path, theirs: tuple) -> None:
    best, index = theirs[0].max(0)
    first, second = theirs[0].topk(2, dim=0).values
    limit = float(best.median())
    config = CONFIG.model_copy(update={"background": CONFIG.background.model_copy(update={"threshold": limit})})
    strict = Segmenter(build_model(config, weights=folder), device=torch.device("cpu"))
    expected = torch.where(best < limit, -1, index).numpy()
    certain = (((best - limit).abs() > 1e-5) & (first - second > 1e-5)).numpy()
    assert len(np.unique(expected)) > 2
    assert certain.mean() > 0.95
    np.testing.assert_array_equal(strict.segment(PHOTO, LABELS).index_map[certain], expected[certain])


@pytest.mark.slow
def test_objects_are_the_instances_of_transformers(segmenter: Segmenter, theirs: tuple) -> None:
    whole = [
        (float(score), label, mask.bool().numpy())
        for label, found in zip(LABELS, theirs[1], strict=True)
        for score, mask in zip(found["scores"], found["masks"], strict=True)
    ]
    limit = sorted(score for score, _, _ in whole)[len(whole) // 2]
    expected = sorted((each for each in whole if each[0] > limit and each[2].any()), key=lambda each: -each[0])
    assert len(expected) > 3 and any(0.1 < mask.mean() < 0.9 for _, _, mask in expected)
    found = segmenter.with_objects(least_score=limit).segment(PHOTO, LABELS, instances=LABELS).instances
    assert found is not None and len(found) == len(expected)
    for label in LABELS:
        mine = [each for each in found if each.label == label]
        others = [each for each in expected if each[1] == label]
        assert len(mine) == len(others)
        for segment, (score, _, mask) in zip(mine, others, strict=True):
            assert segment.score == pytest.approx(score, abs=1e-5)
            assert (segment.mask() == mask).mean() > 0.999
    fewer = segmenter.with_objects(least_score=limit, most=2).segment(PHOTO, LABELS, instances=LABELS)
    assert fewer.instances == found[:2]
    some = segmenter.with_objects(least_score=limit).segment(PHOTO, LABELS, instances=LABELS[:1]).instances
    assert some == tuple(each for each in found if each.label == LABELS[0])
    assert segmenter.segment(PHOTO, LABELS).instances is None


@pytest.mark.slow
def test_the_released_repository_also_holds_the_tracker(segmenter: Segmenter, tmp_path: Path) -> None:
    files = dict(sam3_files())
    state = {f"detector_model.{name}": value for name, value in load(files["model.safetensors"]).items()}
    config = {"model_type": "sam3_video", "detector_config": json.loads(files["config.json"])}
    files["model.safetensors"] = save(state | {"tracker_neck.weight": torch.zeros(2)}, metadata={"format": "pt"})
    files["config.json"] = json.dumps(config).encode()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    other = Segmenter(build_model(CONFIG, weights=tmp_path), device=torch.device("cpu"))
    found, expected = (each.segment(PHOTO, LABELS).score_map for each in (other, segmenter))
    np.testing.assert_array_equal(found, expected)


def test_a_gated_model_says_what_to_click(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_hub({"facebook/sam3": sam3_files()}) as hub:
        hub.repositories["facebook/sam3"].gated = True
        point_at(hub, tmp_path, monkeypatch)
        for ask in (fetch, build_model):
            with pytest.raises(ModelError, match=r"are gated; accept .* at .*/facebook/sam3 .*auth login"):
                ask(CONFIG)
        hub.repositories["facebook/sam3"].readers.add("mine")
        monkeypatch.setenv("HF_TOKEN", "mine")
        assert fetch(CONFIG)


def test_phrases_that_are_too_long_are_refused(segmenter: Segmenter) -> None:
    with pytest.raises(VocabularyError, match="at most 32 tokens"):
        segmenter.queries(["very " * 40 + "old cat"])


MUG, CAT, NOT_CAT = (10.0, 8.0, 40.0, 50.0), (50.0, 5.0, 80.0, 30.0), (0.0, 0.0, 12.0, 60.0)


@pytest.mark.slow
def test_boxes_in_the_photo_show_a_label_as_in_transformers(segmenter: Segmenter, folder: Path) -> None:
    """One label by its name, one by name and boxes on it and off it, one by a box alone."""
    cat = Concept("a cat", images=[PHOTO], boxes=[CAT], not_images=[PHOTO], not_boxes=[NOT_CAT])
    mug = Concept("mug", images=[PHOTO], boxes=[MUG], use_name=False)
    spec = segmenter.model.image.spec
    processor = Sam3Processor(Sam3ImageProcessor(), AutoTokenizer.from_pretrained(folder))
    pixels = prepare(PHOTO, spec, size=spec.size)[0]
    expected = []
    for text, boxes, labels in (("a cat", [CAT, NOT_CAT], [1, 0]), ("road", None, None), ("visual", [MUG], [1])):
        asked = {} if boxes is None else {"input_boxes": [list(map(list, boxes))], "input_boxes_labels": [labels]}
        inputs = processor(text=[text], original_sizes=[SIZE], return_tensors="pt", **asked)
        inputs.pop("original_sizes")
        with torch.inference_mode():
            output = sam3_of_transformers()(pixel_values=pixels, **inputs)
        (semantic,) = processor.post_process_semantic_segmentation(output, [SIZE], return_segmentation_scores=True)
        expected.append(semantic.segmentation_scores[0] * output.presence_logits.sigmoid()[0, 0])
    found = segmenter.segment(PHOTO, [cat, "road", mug], keep_scores=True)
    assert found.scores is not None and found.labels == ("a cat", "road", "mug")
    np.testing.assert_allclose(found.scores, torch.stack(expected), atol=1e-3)
    plain = segmenter.segment(PHOTO, ["a cat", "road", "mug"], keep_scores=True).scores
    assert plain is not None
    same = [np.abs(plain[row] - found.scores[row]).max() < 1e-3 for row in range(3)]
    assert same == [False, True, False]


def test_a_label_that_is_not_shown_by_boxes_of_the_photo_is_refused(segmenter: Segmenter) -> None:
    here = {"images": [PHOTO], "boxes": [MUG]}
    with pytest.raises(VocabularyError, match=r"'mug' is shown in another picture .* 'sam3', which reads boxes in"):
        segmenter.segment(PHOTO[:, ::-1], [Concept("mug", **here)])
    told = "by boxes in the picture that is segmented, got none for (not_images|image) 0 of concept 'mug'"
    for fields in ({"images": [PHOTO]}, {"images": [PHOTO], "points": [(3, 4)]}, {**here, "not_images": [PHOTO]}):
        with pytest.raises(VocabularyError, match=told):
            segmenter.queries([Concept("mug", **fields)])
    with pytest.raises(VocabularyError, match="must lie inside its 90 x 60 pixels"):
        segmenter.queries([Concept("mug", images=[PHOTO], boxes=[(10, 10, 91, 20)])])
