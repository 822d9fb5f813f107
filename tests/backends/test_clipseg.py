"""CLIPSeg behind ``segment``, against transformers' own forward pass on the same random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.mask_models import CLIPSEG_SIDE, clipseg_files, clipseg_of_transformers, written
from transformers import AutoTokenizer

from ovseg.errors import ConfigError, ModelError, VocabularyError
from ovseg.images.resize import prepare
from ovseg.models.build import build_model
from ovseg.models.config import read_model_config
from ovseg.models.sections import ScoringConfig
from ovseg.pipeline.segmenter import Segmenter
from ovseg.vocabulary import Concept

CONFIG = read_model_config("clipseg-rd64-refined")
LABELS = ["a cat", "road", "the blue sky"]
PHOTO = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(clipseg_files(), tmp_path_factory.mktemp("clipseg"))


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> Segmenter:
    return Segmenter(build_model(CONFIG, weights=folder), device=torch.device("cpu"))


@torch.inference_mode()
def theirs(segmenter: Segmenter, folder: Path, phrases: list[str]) -> torch.Tensor:
    """(Q, 64, 64) logits as transformers answers, a photo for each phrase."""
    spec = segmenter.model.image.spec
    assert spec.size == (CLIPSEG_SIDE, CLIPSEG_SIDE)
    pixels = prepare(PHOTO, spec, size=spec.size)[0].expand(len(phrases), -1, -1, -1)
    tokens = AutoTokenizer.from_pretrained(folder)(phrases, padding=True, return_tensors="pt")
    return clipseg_of_transformers()(pixel_values=pixels, **tokens).logits


def test_maps_are_those_of_transformers_with_the_photo_encoded_once(segmenter: Segmenter, folder: Path) -> None:
    encoded = segmenter.encode(PHOTO)
    logits = segmenter.logits(encoded, segmenter.queries(LABELS, background="auto"))
    assert logits.stride == 1 and logits.grid == (64, 64)  # "auto" asks nothing more
    torch.testing.assert_close(logits.values, theirs(segmenter, folder, LABELS), atol=1e-5, rtol=1e-5)


def test_more_phrases_than_the_decoder_takes_at_once_are_answered_alike(segmenter: Segmenter, folder: Path) -> None:
    phrases = [f"thing number {number}" for number in range(11)]
    logits = segmenter.logits(segmenter.encode(PHOTO), segmenter.queries(phrases))
    torch.testing.assert_close(logits.values, theirs(segmenter, folder, phrases), atol=1e-5, rtol=1e-5)


def test_a_label_is_the_surest_one_and_none_where_all_are_under_the_threshold(
    segmenter: Segmenter, folder: Path
) -> None:
    probabilities = theirs(segmenter, folder, LABELS).sigmoid()
    enlarged = torch.nn.functional.interpolate(probabilities[None], (48, 80), mode="bilinear")[0]
    best, index = enlarged.max(0)
    limit = float(best.median())
    config = CONFIG.model_copy(update={"background": CONFIG.background.model_copy(update={"threshold": limit})})
    strict = Segmenter(build_model(config, weights=folder), device=torch.device("cpu"))
    found = strict.segment(PHOTO, LABELS, keep_scores=True)
    first, second = enlarged.topk(2, dim=0).values
    certain = (((best - limit).abs() > 1e-5) & (first - second > 1e-6)).numpy()  # rounding decides the others
    assert certain.mean() > 0.95
    expected = torch.where(best < limit, -1, index).numpy()
    assert {-1, *range(3)} >= set(np.unique(expected)) and (expected == -1).any()
    np.testing.assert_array_equal(found.index_map[certain], expected[certain])
    np.testing.assert_allclose(found.score_map, best, atol=1e-5)
    assert found.scores is not None
    np.testing.assert_allclose(found.scores, enlarged, atol=2e-3)  # kept in half precision
    assert (strict.segment(PHOTO, LABELS, background=None).index_map == index.numpy()).mean() > 0.999


def test_a_named_background_competes_and_synonyms_share_a_label(segmenter: Segmenter, folder: Path) -> None:
    phrases = ["a cat", "kitten", "road"]
    logits = theirs(segmenter, folder, phrases)
    asked = segmenter.queries([Concept("a cat", synonyms=("kitten",))], background=["road"])
    values = segmenter.logits(segmenter.encode(PHOTO), asked).values
    torch.testing.assert_close(values[0], logits[:2].amax(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(values[1], logits[2], atol=1e-5, rtol=1e-5)


def test_weights_change_the_odds_and_a_batch_equals_one_by_one(segmenter: Segmenter) -> None:
    encoded = segmenter.encode(PHOTO)
    plain, weighed = (
        segmenter.logits(encoded, segmenter.queries([Concept("cat", weight=weight), "road"])).values
        for weight in (1.0, 2.0)
    )
    torch.testing.assert_close(weighed[0], plain[0] + np.log(2))
    photos = [PHOTO, PHOTO[:40], PHOTO[::-1].copy()]
    together = list(segmenter.segment_batch(photos, LABELS, batch_size=3))
    for photo, result in zip(photos, together, strict=True):
        alone = segmenter.segment(photo, LABELS)
        np.testing.assert_allclose(result.score_map, alone.score_map, atol=1e-5)
        assert result.size == photo.shape[:2]


def test_what_a_mask_model_is_known_by(segmenter: Segmenter) -> None:
    known = segmenter.identity(LABELS)
    assert known == segmenter.identity(LABELS)
    assert known["asked"] != segmenter.identity(LABELS, background=["wall"])["asked"]
    assert known["weights"].startswith("image-") and len(known["weights"]) > 20
    found = segmenter.segment(PHOTO, ["cat"], min_area=10**6)
    assert found.provenance["model"] == CONFIG.name and (found.index_map == -1).all()


def test_wrong_settings_words_and_folders_are_refused(segmenter: Segmenter, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"judge each label by itself, got scoring\.over 'classes'; write 'each'"):
        build_model(CONFIG.model_copy(update={"scoring": ScoringConfig()}), weights=folder)
    with pytest.raises(ModelError, match=r"of type 'clipseg' in the folder .* got no config.json"):
        build_model(CONFIG, weights=tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="got 'bert'; check --weights"):
        build_model(CONFIG, weights=tmp_path)
    with pytest.raises(VocabularyError, match="at most 77 tokens"):
        segmenter.queries(["very " * 80 + "old cat"])
    encoder = CONFIG.encoder.model_copy(update={"name": "clipsegg"})
    with pytest.raises(ConfigError, match="did you mean 'clipseg'"):
        build_model(CONFIG.model_copy(update={"encoder": encoder}), weights=folder)
